"""SquaredHingeLoss: the square of the hinge, on labels -1 and 1."""

from losskit.declaration import Case, Operand, Peer
from losskit.domains import signs
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import maximum, times


class SquaredHingeLoss(PointwiseLoss):
    """Squared hinge: a score on the right side of 0 by at least 1 costs nothing, any other the square of what it lacks.

    Choose it for binary classification with a margin, where the gradient should have no jump.
    Prefer HingeLoss or SoftMarginLoss when some labels are wrong: here they pull with all their distance.
    """

    arguments = "reduction"
    operands = {
        "input": Operand("Predicted scores, any real numbers.", kind="logit"),
        "target": Operand("Labels -1 and 1.", domain=signs, hint="For labels 0 and 1 pass 2 * target - 1."),
    }

    @staticmethod
    def value(input, target):
        short = maximum(1.0 - target * input, 0.0)
        return short * short

    @staticmethod
    def grad(input, target):
        twice = 2.0 * maximum(1.0 - target * input, 0.0)
        return -target * twice, -times(twice, input)

    @staticmethod
    def textbook(input, target):
        return maximum(1.0 - target * input, 0.0) ** 2

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.25, target=1.0, value=0.5625, grad=-1.5, source="by hand"),
        Case(input=0.25, target=-1.0, value=1.5625, grad=2.5, source="by hand"),
        Case(input=2.0, target=1.0, value=0.0, grad=0.0, source="by hand"),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.SquaredHinge()(target, input)",
            agrees=1e-6,
            why="Keras takes labels 0 and 1 for -1 and 1 where all of a batch are so; here they are refused.",
        ),
    ]
    aliases = "l2_svm"
    task = "binary"
    best_for = "Support vector machines trained by gradients."
    not_for = "Wrong labels; probabilities; labels 0 and 1."
    reference = "Tang, Y. (2013). Deep learning using linear support vector machines. arXiv:1306.0239."
