"""BCEWithLogitsLoss: binary cross entropy of raw scores."""

from torch import Tensor, nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import nonnegative, probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, log, sigmoid, softplus, times, where


class BCEWithLogitsLoss(PointwiseLoss, nn.BCEWithLogitsLoss):
    """Binary cross entropy of raw scores, the sigmoid built in.

    Choose it for binary and multi-label classification, also imbalanced (`pos_weight`).
    Prefer CrossEntropyLoss when classes exclude each other.
    """

    weight: Tensor | None = param(default=None, doc="Weight of each element; broadcasts to the input.")
    pos_weight: Tensor | None = param(
        default=None, domain=nonnegative, doc="Weight of the positive labels, per class; broadcasts to the input."
    )

    name = "binary_cross_entropy_with_logits"
    arguments = "weight size_average reduce reduction pos_weight"
    operands = {
        "input": Operand("Predicted scores (logits), any real numbers.", kind="logit"),
        "target": Operand(
            "Labels 0 and 1, or probabilities.",
            domain=probability,
            hint="Labels are 0 and 1; for more classes use cross_entropy.",
        ),
    }

    @staticmethod
    def value(input, target, pos_weight):
        # max(x, 0) - x t + log1p(exp(-|x|)) cancels for confident scores; here no term is negative.
        near = softplus(-absolute(input))
        wrong = where(input > 0.0, 1.0 - target, target)
        far = where(wrong == 0.0, 0.0, wrong * absolute(input))  # an infinite right score costs nothing
        if pos_weight is None:
            return near + far
        return near * (1.0 - target + pos_weight * target) + where(input > 0.0, far, times(pos_weight, far))

    @staticmethod
    def grad(input, target, pos_weight):
        positive = target if pos_weight is None else pos_weight * target
        by_input = (1.0 - target) * sigmoid(input) - positive * sigmoid(-input)
        if pos_weight is None:
            return by_input, -input
        return by_input, times(pos_weight, softplus(-input)) - softplus(input), times(target, softplus(-input))

    @staticmethod
    def textbook(input, target, pos_weight):
        positive = target if pos_weight is None else pos_weight * target
        return -(positive * log(sigmoid(input)) + (1.0 - target) * log(1.0 - sigmoid(input)))

    refused_by_torch = ("shapes",)
    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.0, target=1.0, value=0.6931471805599453, grad=-0.5, source="log 2"),
        Case(input=10.0, target=0.0, value=10.000045398899218, grad=0.9999546021312976, source="mpmath"),
        Case(input=1.09864, target=0.0, value=1.3863151446908004, grad=0.7500051958387333, source="mpmath"),
        Case(input=0.0, target=1.0, pos_weight=3.0, value=2.0794415416798357, grad=-1.5, source="3 log 2"),
    ]
    deviations = [
        Deviation(
            reason="A confident right score keeps its loss: torch's form rounds it to 0 from -15 in float32.",
            arguments={"input": -16.0, "target": 0.0},
            torch=0.0,
            losskit=1.1253516207e-07,
        ),
        Deviation(
            reason="A confident right score keeps its gradient.",
            arguments={"input": 17.0, "target": 1.0},
            torch=0.0,
            losskit=-4.1399375e-08,
            of="input",
        ),
        Deviation(
            reason="An infinite right score costs nothing: torch computes 0 * inf.",
            arguments={"input": float("inf"), "target": 1.0},
            torch=float("nan"),
            losskit=0.0,
        ),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.BinaryCrossentropy(from_logits=True)(target, input)",
            agrees=1e-6,
        ),
        Peer(
            "keras",
            "keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)(target, input)",
            "binary_cross_entropy_with_logits(input, 0.9 * target + 0.05)",
            agrees=1e-6,
            why="Smoothing moves the labels towards 1/2; here you move them.",
        ),
        Peer(
            "optax",
            "optax.losses.sigmoid_binary_cross_entropy(input, target)",
            "binary_cross_entropy_with_logits(input, target, reduction='none')",
        ),
        Peer(
            "timm",
            "timm.loss.BinaryCrossEntropy(smoothing=0.1, smooth_dense=True)(input, target)",
            "binary_cross_entropy_with_logits(input, 0.9 * target + 0.05)",
            why="timm smooths by 0.1 unless told otherwise.",
        ),
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.SoftBCEWithLogitsLoss()(input, target)",
        ),
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.SoftBCEWithLogitsLoss(ignore_index=-1)(input, target)",
            "binary_cross_entropy_with_logits(input, target, mask=target != -1)",
            differs=0.3,
            gradient_differs=0.3,
            given={"input": [0.5, -1.0, 2.0], "target": [1.0, 0.0, -1.0]},
            why="Ignored elements stay in SMP's denominator: pass normalizer=target.numel() for its number.",
        ),
    ]
    aliases = "bce_logits sigmoid_cross_entropy"
    task = "binary"
    best_for = "Binary and multi-label classification, also imbalanced."
    not_for = "Classes that exclude each other."
    reference = "Cox, D. R. (1958). The regression analysis of binary sequences. J. R. Stat. Soc. B 20, 215-242."
