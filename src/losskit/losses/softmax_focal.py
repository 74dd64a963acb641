"""SoftmaxFocalLoss: cross entropy of class scores that counts easy rows less."""

from torch import Tensor

from losskit.declaration import Case, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.formula import exp, expm1, power, times, where
from losskit.losses._scores import LOGITS


class SoftmaxFocalLoss(ClassScoresLoss):
    """Cross entropy of class scores, times the missing probability to the power gamma: easy rows count less.

    Choose it for classes that exclude each other where easy rows outweigh the hard ones, as the background does in
    segmentation and detection.
    Prefer CrossEntropyLoss when probabilities must be calibrated, LogitAdjustedCrossEntropyLoss for rare classes,
    SigmoidFocalLoss when several classes may be right at once.

    With gamma = 0 it is CrossEntropyLoss. Probabilities as target count this loss of every class by its share.
    """

    gamma: float = param(default=2.0, domain=nonnegative, doc="How much less an easy row counts; 0: not at all.")
    alpha: Tensor | None = param(
        default=None, domain=nonnegative,
        doc="Factor of each class, of shape (C,). Unlike weight it does not count in the denominator of the mean.",
    )  # fmt: skip

    arguments = "gamma alpha weight ignore_index reduction label_smoothing"
    operands = LOGITS

    @staticmethod
    def value(log_probability, gamma):
        return times(power(-expm1(log_probability), gamma), -log_probability)

    @staticmethod
    def grad(log_probability, gamma):
        # No power of gamma - 1: a certain row misses nothing, and there the ratio is 1.
        missed = -expm1(log_probability)
        ratio = where(missed > 0.0, -log_probability / missed, 1.0)
        return -power(missed, gamma) * (1.0 + gamma * times(exp(log_probability), ratio))

    @staticmethod
    def factor(alpha):
        return alpha

    facts = Facts(convex=False, smooth=True, lipschitz=1.596623379391057, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=0, value=0.00414426, grad=[-0.0108052, 0.00789925, 0.00290597],
             source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=1, value=1.70257, grad=[1.03249, -1.08390, 0.0514048], source="mpmath"),
        Case(input=[12.0, 0.0, -5.0], target=0, value=2.36669e-16, grad=[-7.10003e-16, 7.05251e-16, 4.75195e-18],
             source="mpmath"),
        Case(input=[0.0, 0.0], target=0, gamma=1.0, value=0.34657359027997264, grad=[-0.423287, 0.423287],
             source="log(2) / 2"),
        Case(input=[0.0, 0.0], target=0, gamma=1.0, alpha=[0.5, 2.0], value=0.17328679513998632,
             grad=[-0.211643, 0.211643], source="log(2) / 4"),
    ]  # fmt: skip
    peers = [
        Peer(
            "segmentation-models-pytorch",
            "smp.losses._functional.softmax_focal_loss_with_logits(input, target, reduction='mean')",
        ),
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.FocalLoss('multiclass')(input[:, :, None], target[:, None])",
            differs=0.7,
            gradient_differs=1.0,
            why="SMP's class is a sum of sigmoid focal losses of the classes, another loss.",
        ),
        Peer(
            "kornia",
            "kornia.losses.focal_loss(input[:, :, None], target[:, None], alpha=None, reduction='none').sum((1, 2))",
            "softmax_focal_loss(input, target, reduction='none')",
        ),
        Peer(
            "kornia",
            "kornia.losses.focal_loss(input[:, :, None], target[:, None], alpha=None, reduction='mean')",
            "softmax_focal_loss(input, target)",
            differs=0.8,
            gradient_differs=0.8,
            why="kornia's mean divides by rows and classes, N C: it is 1 / C of this one.",
        ),
        Peer(
            "keras",
            "keras.losses.CategoricalFocalCrossentropy(alpha=1.0, from_logits=True)(F.one_hot(target, 5), input)",
            "softmax_focal_loss(input, target)",
            agrees=1e-6,
            why="Keras multiplies every class by alpha = 0.25 by default.",
        ),
        Peer(
            "monai",
            "monai.losses.FocalLoss(use_softmax=True, reduction='none')(input, F.one_hot(target, 5)).sum(1)",
            "softmax_focal_loss(input, target, reduction='none')",
            agrees=1e-6,
            why="MONAI keeps one number for each class; its mean divides by N C.",
        ),
        Peer(
            "torch-uncertainty",
            "torch_uncertainty.losses.FocalLoss(gamma=2)(input, target)",
        ),
    ]
    aliases = "multiclass_focal categorical_focal"
    task = "multi-class"
    best_for = "Classes that exclude each other, when easy rows outweigh the hard ones."
    not_for = "Several right classes at once; calibrated probabilities."
    reference = "Lin, T.-Y. et al. (2017). Focal loss for dense object detection. ICCV. arXiv:1708.02002."
