"""AsymmetricLoss: binary cross entropy of raw scores with a focus for positive labels and another for negative ones."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval, nonnegative, probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, exp, floor, log, maximum, minimum, power, sigmoid, softplus, times, where


def decayed(gamma, far, near):
    """exp(-gamma * (far + near)).

    A rounded exponent loses as many ULP as it is large. The product of the few leading digits of gamma and of `far` is
    exact; what is left over is small.
    """
    far = minimum(far, 1e30)
    leading, rough = floor(64.0 * far) / 64.0, floor(256.0 * gamma) / 256.0
    exact = rough * leading
    rest = rough * (far - leading) + (gamma - rough) * far + gamma * near
    exponent = exact + rest
    result = exp(-exponent)
    return result - result * ((exact - exponent) + rest)


def parts(input, gamma_neg, gamma_pos, clip):
    """Focus and cross entropy of a positive label and of a negative one, both probabilities, the one less clip."""
    p, q, near = sigmoid(input), sigmoid(-input), softplus(-absolute(input))
    up, down = maximum(input, 0.0), maximum(-input, 0.0)
    counts = p > clip
    over = where(counts, p - clip, 1.0)
    unclipped = clip == 0.0
    far, rest = where(unclipped, down, 0.0), where(unclipped, near, -log(over))
    negative = where(unclipped, up + near, -log(where(counts, q + clip, 1.0)))
    return (
        decayed(gamma_pos, up, near), down + near,
        where(counts, decayed(gamma_neg, far, rest), 0.0), negative, p, q, over,
    )  # fmt: skip


class AsymmetricLoss(PointwiseLoss):
    """Binary cross entropy of raw scores whose easy elements count less, by a power of their own for either label.

    Choose it for images with many possible labels, of which few apply.
    Prefer BCEWithLogitsLoss when positive labels are not rare, SigmoidFocalLoss for one power of both.

    A negative label whose probability is at most `clip` costs nothing and has no gradient. The loss of the paper's
    code is the sum: `reduction="sum"`.
    """

    gamma_neg: float | Tensor = param(
        default=4.0, domain=nonnegative,
        doc="How much less an easy negative label counts. Between 0 and 1 the slope at `clip` is infinite.",
    )  # fmt: skip
    gamma_pos: float | Tensor = param(
        default=1.0, domain=nonnegative, doc="How much less an easy positive label counts."
    )
    clip: float = param(
        default=0.05, domain=Interval("in [0, 1)", low=0.0, high=1.0, high_open=True, typical=0.05),
        doc="What is taken off the probability of a negative label.",
    )  # fmt: skip

    arguments = "gamma_neg gamma_pos clip reduction"
    operands = {
        "input": Operand("Predicted scores (logits), any real numbers.", kind="logit"),
        "target": Operand(
            "Labels 0 and 1, or probabilities.",
            domain=probability,
            hint="Labels are 0 and 1; for classes that exclude each other use cross_entropy.",
        ),
    }

    @staticmethod
    def value(input, target, gamma_neg, gamma_pos, clip):
        focus_pos, positive, focus_neg, negative, _, _, _ = parts(input, gamma_neg, gamma_pos, clip)
        return times(target * focus_pos, positive) + times((1.0 - target) * focus_neg, negative)

    @staticmethod
    def grad(input, target, gamma_neg, gamma_pos, clip):
        focus_pos, positive, focus_neg, negative, p, q, over = parts(input, gamma_neg, gamma_pos, clip)
        # No power of gamma - 1: what the probability has over clip may be 0.
        unclipped = clip == 0.0
        ratio, left = where(unclipped, 1.0, p / over), where(unclipped, 1.0, q / (q + clip))
        of_negative = gamma_neg * ratio * times(q, negative) + p * left
        of_positive = q + gamma_pos * times(p, positive)
        by_input = (1.0 - target) * (focus_neg * of_negative) - target * (focus_pos * of_positive)
        return by_input, times(focus_pos, positive) - times(focus_neg, negative)

    @staticmethod
    def textbook(input, target, gamma_neg, gamma_pos, clip):
        p = sigmoid(input)
        over = maximum(p - clip, 0.0)
        return -(
            target * power(1.0 - p, gamma_pos) * log(p) + (1.0 - target) * power(over, gamma_neg) * log(1.0 - over)
        )

    facts = Facts(convex=False, smooth=True, lipschitz=1.0453333916694745, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.5, target=1.0, value=0.17898334166916529, grad=-0.2539468077482126, source="mpmath"),
        Case(input=0.5, target=0.0, value=0.091253004091200235, grad=0.20887368751116477, source="mpmath"),
        Case(input=-4.0, target=0.0, value=0.0, grad=0.0, source="a probability below clip"),
        Case(input=0.0, target=0.0, gamma_neg=0.0, gamma_pos=0.0, clip=0.0, value=0.6931471805599453, grad=0.5,
             source="log 2"),
    ]  # fmt: skip
    peers = [
        Peer(
            "timm",
            "timm.loss.AsymmetricLossMultiLabel(reduction='none')(input, target)",
            "asymmetric_loss(input, target, reduction='none')",
            agrees=1e-6,
        ),
        Peer(
            "timm",
            "timm.loss.AsymmetricLossMultiLabel()(input, target)",
            "asymmetric_loss(input, target, reduction='sum') / len(input)",
            agrees=1e-6,
            why="timm divides the sum by the number of rows, the paper's code by nothing; the mean is over elements.",
        ),
    ]
    aliases = "asl asymmetric_focal"
    task = "multi-label"
    best_for = "Images with many possible labels, of which few apply."
    not_for = "Classes that exclude each other; calibrated probabilities."
    reference = "Ridnik, T. et al. (2021). Asymmetric loss for multi-label classification. ICCV. arXiv:2009.14119."
