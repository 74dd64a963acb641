"""MultiLabelSoftMarginLoss: binary cross entropy of every label, averaged over the labels."""

from torch import Tensor, nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, log, sigmoid, softplus, where


class MultiLabelSoftMarginLoss(PointwiseLoss, nn.MultiLabelSoftMarginLoss):
    """Independent labels by maximum entropy: binary cross entropy of raw scores, averaged over the last dimension.

    Choose it for multi-label classification such as tagging of texts.
    Prefer CrossEntropyLoss for a single label, BCEWithLogitsLoss to weigh positive labels.

    The unreduced loss has one entry per sample: the mean over its classes.
    """

    weight: Tensor | None = param(default=None, doc="Weight of each class; broadcasts to the input.")

    name = "multilabel_soft_margin_loss"
    arguments = "weight size_average reduce reduction"
    rows = "mean"
    operands = {
        "input": Operand("Predicted scores, classes last.", kind="logit"),
        "target": Operand(
            "Labels 0 and 1, or probabilities.",
            domain=probability,
            hint="Labels are 0 and 1, one for each class; multilabel_margin_loss takes class indices.",
        ),
    }

    @staticmethod
    def value(input, target):
        wrong = where(input > 0.0, 1.0 - target, target)
        far = where(wrong == 0.0, 0.0, wrong * absolute(input))  # an infinite right score costs nothing
        return softplus(-absolute(input)) + far  # no term is negative, so nothing cancels

    @staticmethod
    def grad(input, target):
        return (1.0 - target) * sigmoid(input) - target * sigmoid(-input), -input

    @staticmethod
    def textbook(input, target):
        return -(target * log(sigmoid(input)) + (1.0 - target) * log(1.0 - sigmoid(input)))

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.0, target=1.0, value=0.6931471805599453, grad=-0.5, source="log 2"),
        Case(input=2.0, target=0.0, value=2.1269280110429727, grad=0.8807970779778823, source="mpmath"),
    ]
    deviations = [
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
    ]
    task = "multi-label"
    best_for = "Multi-label classification, text categories."
    not_for = "A single label per sample."
    reference = "Nam, J. et al. (2014). Large-scale multi-label text classification. ECML PKDD. arXiv:1312.5419."
