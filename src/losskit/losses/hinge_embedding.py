"""HingeEmbeddingLoss: distances of similar and dissimilar pairs."""

from torch import nn

from losskit.declaration import Case, Operand, param
from losskit.domains import signs
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import maximum, where


class HingeEmbeddingLoss(PointwiseLoss, nn.HingeEmbeddingLoss):
    """Distances: small for similar pairs (label 1), at least `margin` for dissimilar ones (label -1).

    Choose it for siamese networks that say similar or not.
    Prefer CrossEntropyLoss for several classes, TripletMarginLoss when triplets are at hand.
    """

    margin: float = param(default=1.0, doc="Distance from which a dissimilar pair costs nothing.")

    arguments = "margin size_average reduce reduction"
    operands = {
        "input": Operand("Distances.", kind="distance"),
        "target": Operand("Labels: 1 similar, -1 dissimilar.", domain=signs,
                          hint="For labels 0 and 1 pass 2 * target - 1."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, margin):
        apart = where(target != 1.0, maximum(margin - input, 0.0), 0.0)
        loss = apart + where(target != -1.0, input, 0.0)
        return where(target == target, loss, target)  # a NaN label is neither 1 nor -1

    @staticmethod
    def grad(input, target, margin):
        apart = where((target != 1.0) & (input <= margin), -1.0, 0.0)  # exactly at the margin it still pushes
        slope = apart + where(target != -1.0, 1.0, 0.0)
        return where((input == input) & (target == target), slope, input + target), 0.0  # NaN stays NaN

    @staticmethod
    def textbook(input, target, margin):
        return where(target == 1.0, input, maximum(0.0, margin - input))

    facts = Facts(convex=True, smooth=False, lipschitz=1.0, minimum=None, symmetric=False)
    cases = [
        Case(input=0.25, target=1.0, value=0.25, grad=1.0, source="by hand"),
        Case(input=0.25, target=-1.0, value=0.75, grad=-1.0, source="by hand"),
        Case(input=1.0, target=-1.0, value=0.0, grad=-1.0, source="torch's subgradient at the margin"),
        Case(input=2.0, target=-1.0, value=0.0, grad=0.0, source="by hand"),
    ]
    task = "metric learning"
    best_for = "Similar or not: siamese networks."
    not_for = "Several classes."
    reference = (
        "Hadsell, R., Chopra, S. and LeCun, Y. (2006). Dimensionality reduction by learning an invariant mapping. CVPR."
    )
