"""HingeLoss: the loss of support vector machines, on labels -1 and 1."""

from losskit.declaration import Case, Operand, Peer
from losskit.domains import signs
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import maximum, where


class HingeLoss(PointwiseLoss):
    """Hinge: a score on the right side of 0 by at least 1 costs nothing, any other what it lacks.

    Choose it for binary classification with a margin, where scores need not become probabilities.
    Prefer SoftMarginLoss for a smooth loss, BCEWithLogitsLoss for probabilities, MultiMarginLoss for several classes.
    """

    arguments = "reduction"
    operands = {
        "input": Operand("Predicted scores, any real numbers.", kind="logit"),
        "target": Operand("Labels -1 and 1.", domain=signs, hint="For labels 0 and 1 pass 2 * target - 1."),
    }

    @staticmethod
    def value(input, target):
        return maximum(1.0 - target * input, 0.0)

    @staticmethod
    def grad(input, target):
        short = 1.0 - target * input
        active = short >= 0.0  # a score exactly at the margin still pushes
        idle = where(short == short, 0.0, short)  # NaN stays NaN
        return where(active, -target, idle), where(active, -input, idle)

    facts = Facts(convex=True, smooth=False, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.25, target=1.0, value=0.75, grad=-1.0, source="by hand"),
        Case(input=0.25, target=-1.0, value=1.25, grad=1.0, source="by hand"),
        Case(input=1.0, target=1.0, value=0.0, grad=-1.0, source="the subgradient of torch's margins"),
        Case(input=2.0, target=1.0, value=0.0, grad=0.0, source="by hand"),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.Hinge()(target, input)",
            agrees=1e-6,
            why="Keras takes labels 0 and 1 for -1 and 1 where all of a batch are so; here they are refused.",
        ),
        Peer(
            "optax",
            "optax.losses.hinge_loss(input, target)",
            "hinge_loss(input, target, reduction='none')",
        ),
        Peer(
            "scikit-learn",
            "sklearn.metrics.hinge_loss(target.flatten(), input.flatten())",
        ),
    ]
    aliases = "svm max_margin"
    task = "binary"
    best_for = "Support vector machines; few active examples."
    not_for = "Probabilities; labels 0 and 1."
    reference = "Cortes, C. and Vapnik, V. (1995). Support-vector networks. Machine Learning 20, 273-297."
