"""BCELoss: binary cross entropy of probabilities."""

from torch import Tensor, nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import log, log1p, where


def limited(logarithm):
    """At least -100, as in torch; NaN stays NaN."""
    return where(logarithm < -100.0, -100.0, logarithm)


class BCELoss(PointwiseLoss, nn.BCELoss):
    """Binary cross entropy of probabilities.

    Choose it when the model already gives probabilities.
    Prefer BCEWithLogitsLoss for raw scores: it is more accurate and faster than a sigmoid followed by this.

    The logarithms are limited to -100 from below, as in torch, so the loss of a wrong certainty is 100 and not
    infinite; the gradient is that of the formula without the limit.
    """

    weight: Tensor | None = param(default=None, doc="Weight of each element; broadcasts to the input.")

    name = "binary_cross_entropy"
    arguments = "weight size_average reduce reduction"
    operands = {
        "input": Operand("Predicted probabilities.", domain=probability,
                         hint="For raw scores use binary_cross_entropy_with_logits."),
        "target": Operand("Labels 0 and 1, or probabilities.", domain=probability,
                          hint="Labels are 0 and 1; for more classes use cross_entropy."),
    }  # fmt: skip

    @staticmethod
    def value(input, target):
        return -(target * limited(log(input)) + (1.0 - target) * limited(log1p(-input)))

    @staticmethod
    def grad(input, target):
        spread = input * (1.0 - input)
        # A wrong certainty has an infinite derivative; torch's finite number keeps a saturated sigmoid alive.
        certain = where(input == target, 1.0 - 2.0 * input, 1e12 * (input - target))
        by_input = where(spread == 0.0, certain, (input - target) / spread)
        return by_input, limited(log1p(-input)) - limited(log(input))

    @staticmethod
    def textbook(input, target):
        return -(target * log(input) + (1.0 - target) * log(1.0 - input))

    refused_by_torch = ("input", "target", "shapes")
    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.25, target=1.0, value=1.3862943611198906, grad=-4.0, source="log 4"),
        Case(input=0.25, target=0.0, value=0.2876820724517809, grad=1.3333333333333333, source="log 4/3"),
        Case(input=0.0, target=1.0, value=100.0, grad=-1e12, source="torch's limits"),
        Case(input=0.0, target=0.0, value=0.0, grad=1.0, source="limit of 1 / (1 - p)"),
        Case(input=0.5, target=0.3, value=0.6931471805599453, grad=0.8, source="log 2"),
    ]
    deviations = [
        Deviation(
            reason="torch limits the denominator of the gradient to 1e-12, so tiny probabilities stop learning.",
            arguments={"input": 1e-20, "target": 1.0},
            torch=-1e12,
            losskit=-1e20,
            of="input",
        ),
        Deviation(
            reason="At a right certainty the derivative is finite, 1 / (1 - p), and torch gives 0.",
            arguments={"input": 0.0, "target": 0.0},
            torch=0.0,
            losskit=1.0,
            of="input",
        ),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.BinaryCrossentropy()(target, input)",
            agrees=1e-6,
            why="Keras keeps probabilities 1e-7 away from 0 and 1.",
        ),
        Peer(
            "scikit-learn",
            "sklearn.metrics.log_loss(target.flatten(), input.flatten())",
        ),
    ]
    aliases = "log_loss"
    task = "binary"
    best_for = "Probabilities at hand."
    not_for = "Raw logits."
    reference = "Good, I. J. (1952). Rational decisions. J. R. Stat. Soc. B 14, 107-114."
