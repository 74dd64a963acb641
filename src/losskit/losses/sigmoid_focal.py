"""SigmoidFocalLoss: binary cross entropy of raw scores that counts easy elements less."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, exp, floor, log, minimum, sigmoid, softplus, times, where


def weighted(target, alpha, focus):
    """The focus times the weight of an element."""
    return focus if alpha is None else (alpha * target + (1.0 - alpha) * (1.0 - target)) * focus


def parts(input, target, gamma):
    """What is missed to the power gamma, and the two terms of what is missed, by the likelier label and by the other.

    Then the probabilities of these labels, and the cross entropy as two terms: what any score costs, and the score
    times the part of the label it contradicts. That part and the other one are last.
    """
    size = absolute(input)
    likely, rare, near = sigmoid(size), sigmoid(-size), softplus(-size)
    other = 1.0 - target
    wrong, right = where(input > 0.0, other, target), where(input > 0.0, target, other)
    by_likely, by_rare = wrong * likely, right * rare
    # exp(-gamma * cost) rounds its exponent, and loses as many ULP as that is large. The product of the leading digits
    # of gamma and of the score is exact; what is left over is small.
    far = where(wrong == 0.0, minimum(size, 1e30), 0.0)
    leading, rough = floor(64.0 * far) / 64.0, floor(256.0 * gamma) / 256.0
    exact = rough * leading
    rest = rough * (far - leading) + (gamma - rough) * far
    rest = rest + gamma * where((wrong == 0.0) | (wrong == 1.0), near, -log(by_likely + by_rare))
    exponent = exact + rest
    focus = exp(-exponent)
    focus = focus - focus * ((exact - exponent) + rest)
    return focus, by_likely, by_rare, likely, rare, near, times(wrong, size), wrong, right


class SigmoidFocalLoss(PointwiseLoss):
    """Binary cross entropy of raw scores, times the missing probability to the power gamma: easy elements count less.

    Choose it for dense detection and for labels of which few are positive, where easy negatives outweigh the rest.
    Prefer BCEWithLogitsLoss for balanced labels, AsymmetricLoss for a focus of its own on negatives, SoftmaxFocalLoss
    for classes that exclude each other.

    With gamma = 0 and alpha = None it is BCEWithLogitsLoss. A mean over positive labels, as detectors take it, is
    `normalizer=` their number.
    """

    alpha: float | Tensor | None = param(
        default=0.25, domain=probability,
        doc="Weight of positive labels, 1 - alpha that of negative ones; None: no weights.",
    )  # fmt: skip
    gamma: float | Tensor = param(
        default=2.0, domain=nonnegative, doc="How much less an easy element counts; 0: not at all."
    )

    arguments = "alpha gamma reduction"
    operands = {
        "input": Operand("Predicted scores (logits), any real numbers.", kind="logit"),
        "target": Operand(
            "Labels 0 and 1, or probabilities.",
            domain=probability,
            hint="Labels are 0 and 1; for more classes use softmax_focal_loss.",
        ),
    }

    @staticmethod
    def value(input, target, alpha, gamma):
        focus, _, _, _, _, near, far, _, _ = parts(input, target, gamma)
        return times(weighted(target, alpha, focus), near + far)

    @staticmethod
    def grad(input, target, alpha, gamma):
        focus, by_likely, by_rare, likely, rare, near, far, wrong, right = parts(input, target, gamma)
        missed, entropy, scale = by_likely + by_rare, near + far, weighted(target, alpha, focus)
        # No power of gamma - 1: what is missed may be 0, and the cross entropy is 0 then. In terms of the wrong part,
        # scores of either sign have the same slope but for its own sign: two choices less than by the label.
        some = where(missed > 0.0, missed, 1.0)
        slope = by_likely - by_rare + gamma * (wrong - right) * times(likely * (rare / some), entropy)
        by_input = scale * where(input > 0.0, slope, -slope)
        # The cross entropy over what is missed: 1 where that is 0.
        cost = where(missed > 0.0, near / missed, 1.0) + times(wrong / some, absolute(input))
        by_target = times(scale * gamma * where(input > 0.0, rare - likely, likely - rare), cost)
        if alpha is None:
            return by_input, by_target - times(scale, input)
        # In this order, for the first two may have opposite signs.
        by_target = times((2.0 * alpha - 1.0) * focus, entropy) - times(scale, input) + by_target
        return by_input, by_target

    @staticmethod
    def textbook(input, target, alpha, gamma):
        p = sigmoid(input)
        entropy = -(target * log(p) + (1.0 - target) * log(1.0 - p))
        return weighted(target, alpha, (1.0 - (p * target + (1.0 - p) * (1.0 - target))) ** gamma) * entropy

    facts = Facts(convex=False, smooth=True, lipschitz=0.8467374139262986, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.0, target=1.0, value=0.043321698784996582, grad=-0.074571698784996582, source="log(2) / 16"),
        Case(input=2.0, target=0.0, value=1.2375586345660567, grad=0.80753529783636146, source="mpmath"),
        Case(input=20.0, target=1.0, value=2.189127679393809e-27, grad=-6.5673830269011058e-27, source="mpmath"),
        Case(input=0.0, target=1.0, alpha=None, gamma=0.0, value=0.6931471805599453, grad=-0.5, source="log 2"),
    ]
    peers = [
        Peer(
            "torchvision",
            "torchvision.ops.sigmoid_focal_loss(input, target)",
            "sigmoid_focal_loss(input, target, reduction='none')",
            why="torchvision's reduction is 'none' by default.",
        ),
        Peer(
            "optax",
            "optax.losses.sigmoid_focal_loss(input, target, alpha=0.25, gamma=2.0)",
            "sigmoid_focal_loss(input, target, reduction='none')",
            why="Without alpha by default in optax.",
        ),
        Peer(
            "keras",
            "keras.losses.BinaryFocalCrossentropy(apply_class_balancing=True, from_logits=True)(target, input)",
            agrees=1e-6,
            why="Keras takes probabilities and no alpha unless told otherwise.",
        ),
        Peer(
            "kornia",
            "kornia.losses.binary_focal_loss_with_logits(input, target, alpha=0.25, reduction='mean')",
            why="kornia's reduction is 'none' by default.",
        ),
        Peer(
            "monai",
            "monai.losses.FocalLoss(gamma=2.0, alpha=0.25)(input, target)",
            agrees=1e-6,
            why="Without alpha by default in MONAI.",
        ),
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.FocalLoss('binary', alpha=0.25)(input, target)",
            why="Without alpha by default in SMP.",
        ),
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.FocalLoss('binary', alpha=0.25)(input, target)",
            differs=0.3,
            gradient_differs=0.5,
            given={"input": [2.0, -1.0, 0.5], "target": [0.3, 0.6, 0.9]},
            why="Targets between 0 and 1: SMP's p_t is exp(-cross entropy), here the mean of both, as in torchvision.",
        ),
    ]
    aliases = "binary_focal sigmoid_focal_cross_entropy retinanet"
    task = "binary"
    best_for = "Dense detection; few positive labels among many easy negative ones."
    not_for = "Balanced labels; calibrated probabilities."
    reference = "Lin, T.-Y. et al. (2017). Focal loss for dense object detection. ICCV. arXiv:1708.02002."
