"""MultiMarginLoss: the multi-class hinge."""

from torch import Tensor, nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import Interval
from losskit.facts import Facts
from losskit.families.margins import MarginsLoss
from losskit.formula import maximum, power, where


class MultiMarginLoss(MarginsLoss, nn.MultiMarginLoss):
    """Hinge over classes: the score of the right class should lead every other by `margin`.

    Choose it for support vector machines over features, and where scores need no calibration.
    Prefer CrossEntropyLoss when probabilities are wanted: this loss is 0, with no gradient, once the margin is kept.
    """

    p: int = param(default=1, domain=Interval("1 or 2", low=1, high=2), doc="Power of what is missing to the margin.")
    margin: float = param(default=1.0, doc="By how much the right class should lead.")
    weight: Tensor | None = param(default=None, doc="Weight of each class, (C,). The mean divides by N all the same.")

    arguments = "p margin weight size_average reduce reduction"
    operands = {
        "input": Operand("Scores, (N, C) or (C,)."),
        "target": Operand("The right class of each row, (N,) or a scalar; any integer dtype."),
    }

    @staticmethod
    def value(difference, p, margin):
        short = maximum(margin - difference, 0.0)
        return where(p == 2.0, short * short, short)

    @staticmethod
    def grad(difference, p, margin):
        short = maximum(margin - difference, 0.0)
        slope = where(p == 2.0, -2.0 * short, -1.0)
        return where(short > 0.0, slope, short)  # 0 at the margin exactly, and NaN stays NaN

    @staticmethod
    def textbook(difference, p, margin):
        return power(maximum(0.0, margin - difference), p)

    facts = Facts(convex=True, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.1, 0.2, 0.4, 0.8], target=3, value=0.325, grad=[0.25, 0.25, 0.25, -0.75],
             source="torch's documentation"),
        Case(input=[0.0, 1.0, -0.5], target=0, p=2, value=4.25 / 3, grad=[-5 / 3, 4 / 3, 1 / 3], source="by hand"),
        Case(input=[1.0, 0.0], target=0, value=0.0, grad=[0.0, 0.0], source="at the margin nothing pushes"),
    ]  # fmt: skip
    deviations = [
        Deviation(
            reason="NaN in gives NaN out: torch's comparison lets it pass for a margin kept.",
            arguments={"input": [[float("nan"), 1.0, 2.0]], "target": [0]},
            torch=0.0,
            losskit=float("nan"),
        ),
    ]
    peers = [
        Peer(
            "optax",
            "optax.losses.multiclass_hinge_loss(input, target)",
            "multi_margin_loss(input, target, reduction='none')",
            differs=0.5,
            gradient_differs=0.8,
            why="Only the largest violation counts there; here the mean of all, as in torch.",
        ),
    ]
    aliases = "multi_class_margin"
    task = "multi-class"
    best_for = "Large-margin classifiers, support vector machines."
    not_for = "Probabilities."
    reference = (
        "Weston, J. and Watkins, C. (1999). Support vector machines for multi-class pattern recognition. ESANN. "
        "The other multi-class hinge, of the largest score alone, is Crammer, K. and Singer, Y. (2001), JMLR 2."
    )
