"""SoftMarginLoss: logistic loss of labels -1 and 1."""

from torch import nn

from losskit.declaration import Case, Deviation, Operand, Peer
from losskit.domains import signs
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import exp, log, sigmoid, softplus, times


class SoftMarginLoss(PointwiseLoss, nn.SoftMarginLoss):
    """Logistic loss of a margin: log(1 + exp(-target * input)) with labels -1 and 1.

    Choose it for binary classification in the style of support vector machines.
    Prefer BCEWithLogitsLoss for labels 0 and 1, which is the same loss.
    """

    arguments = "size_average reduce reduction"
    operands = {
        "input": Operand("Predicted scores, any real numbers.", kind="logit"),
        "target": Operand("Labels -1 and 1.", domain=signs, hint="For labels 0 and 1 pass 2 * target - 1."),
    }

    @staticmethod
    def value(input, target):
        return softplus(-target * input)

    @staticmethod
    def grad(input, target):
        slope = sigmoid(-target * input)
        return -target * slope, -times(slope, input)

    @staticmethod
    def textbook(input, target):
        return log(1.0 + exp(-target * input))

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.0, target=1.0, value=0.6931471805599453, grad=-0.5, source="log 2"),
        Case(input=2.0, target=-1.0, value=2.1269280110429727, grad=0.8807970779778823, source="mpmath"),
    ]
    deviations = [
        Deviation(
            reason="torch computes exp first, which overflows from 88.75 in float32.",
            arguments={"input": -100.0, "target": 1.0},
            torch=float("inf"),
            losskit=100.0,
        ),
        Deviation(
            reason="The same in the gradient: inf / inf.",
            arguments={"input": -100.0, "target": 1.0},
            torch=float("nan"),
            losskit=-1.0,
            of="input",
        ),
    ]
    peers = [
        Peer(
            "optax",
            "optax.losses.sigmoid_binary_cross_entropy(input, 0.5 + 0.5 * target)",
            "soft_margin_loss(input, target, reduction='none')",
            why="Labels are 0 and 1 there, -1 and 1 here.",
        ),
    ]
    aliases = "logistic"
    task = "binary"
    best_for = "Margins in the style of support vector machines."
    not_for = "Labels 0 and 1."
    reference = (
        "Friedman, J., Hastie, T. and Tibshirani, R. (2000). Additive logistic regression. Ann. Statist. 28, 337-407."
    )
