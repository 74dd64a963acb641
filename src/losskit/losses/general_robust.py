"""GeneralRobustLoss: Barron's family, from the parabola to what ignores outliers."""

import math

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, clamp, exp, expm1, expm1m, log1p, sign, sqrt, times, where

SHIFT = 2.0**20  # a far v is computed by this smaller: it may overflow where its logarithm and its powers do not


def parts(input, target, alpha, scale):
    """The loss, and its slopes by the input, the scale and alpha.

    With b = |alpha - 2|, y = u / sqrt(b) and v = sqrt(1 + y^2) they are (b / alpha) (v^alpha - 1) and
    sqrt(b) y v^(alpha - 2) / scale. The power is the exponential of a positive multiple of log v, of which a negative
    alpha takes the reciprocal. From 1 on, where v^alpha overflows and the slope does not, it is that of alpha - 1:
    v^alpha - 1 = (v - 1) + v (v^(alpha - 1) - 1), both positive. At alpha = 2 any b gives the parabola; its slope is u.
    """
    endless = absolute(alpha) == math.inf
    steep, falling = (alpha >= 1.0) & (alpha < math.inf), alpha < 0.0
    b = where(endless | (alpha == 2.0), 1.0, absolute(alpha - 2.0))
    ratio = where(endless, sign(alpha), b / alpha)

    d, half = input - target, 0.5 * input - 0.5 * target
    width = scale * sqrt(b)
    y = d / width
    finite = absolute(y) < 1e15
    square = y * y
    far = absolute(half) * (2.0 / SHIFT / width)
    logarithm = log1p(where(finite, square, far - 1.0))
    logarithm = where(finite, 0.5 * logarithm, logarithm + math.log(SHIFT))

    # An infinite alpha has the exponential of u^2 / 2. What falls is the square of a power: it may be subnormal.
    short = clamp(y, -1e3, 1e3)
    squared = endless | falling
    power = where(steep, alpha - 1.0, where(falling, -alpha, alpha))  # not its absolute value: it has a slope at 0
    multiple = times(power * where(squared, 0.5, 1.0), logarithm)
    exponent = where(endless, 0.25 * short * short, multiple)
    more = expm1(exponent)
    grown = 1.0 + more
    back = 1.0 / grown
    grown = where(falling, back, grown)
    less = where(exponent < 1.0, more * back, 1.0 - back)

    root = sqrt(1.0 + square)
    excess = where(finite, square / (1.0 + root), SHIFT * far)  # v - 1
    again = where(squared, grown, 1.0)
    loss = ratio * where(falling, -less, more) * where(squared, 1.0 + grown, 1.0)
    loss = where(steep, ratio * excess + times(more, ratio * (1.0 + excess)), loss)
    near = b * (logarithm * (1.0 + times(0.5 * alpha, logarithm)))
    loss = where((multiple < 2.0**-60) & (alpha < 1.0), near, loss)  # near 0, and for alpha = 0 anywhere

    way = sign(d)
    above = where(finite, y, way * where(steep, 1.0, 1.0 / SHIFT))
    below = where(steep, where(finite, root, 1.0), where(finite, 1.0 + square, far))
    slope = times(above / below, grown) * again * sqrt(b)
    slope = where(alpha == 2.0, where(finite, y, way * (SHIFT * far)), slope)
    slope = where(endless, short * grown * again, slope) / scale
    return loss, slope, times(-(y * sqrt(b)), slope), where(endless, 0.0, by_alpha(alpha, logarithm))


def by_alpha(alpha, logarithm):
    """The slope by alpha, of log v; 0 at alpha = 2, where there is none.

    With m = alpha log v and s = sign(alpha - 2) it is the sum of (b / alpha^2) (m e^m - e^m + 1) and
    s ((e^m - 1) / alpha - e^m (1 - v^-2) / 2).
    """
    m = alpha * logarithm
    b, way, lost, grown = absolute(alpha - 2.0), sign(alpha - 2.0), 0.5 * expm1(-2.0 * logarithm), exp(m)
    small = absolute(m) < 1e-7
    safe = where(small, 1.0, alpha)
    first = where(small, logarithm * (1.0 - 0.5 * m), -expm1(-m) / safe)
    second = where(small, 0.5 * logarithm * logarithm * (1.0 - m / 3.0), expm1m(-m) / safe / safe)
    fallen = b * (times(grown, m) - expm1(m)) / safe / safe + way * (expm1(m) / safe + grown * lost)
    return where(m > -1.0, times(b * second + way * (first + lost), grown), fallen)


class GeneralRobustLoss(PointwiseLoss):
    """A family in one number: the parabola at `alpha` 2, the pseudo-Huber loss at 1, Cauchy's at 0, Welsch's at -inf.

    Choose it to try how robust a regression should be: the smaller `alpha`, the less an outlier counts.
    Prefer the member itself where alpha is known, for it is faster: PseudoHuberLoss, which is scale^2 times as high,
    CauchyLoss, GemanMcClureLoss (alpha -2), WelschLoss.
    """

    alpha: float | Tensor = param(default=1.0, doc="Shape: 2 is half the square, from 1 down outliers count less.")
    scale: float | Tensor = param(default=1.0, domain=positive, doc="Size of a usual residual, where the curve bends.")

    arguments = "alpha scale reduction"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, alpha, scale):
        return parts(input, target, alpha, scale)[0]

    @staticmethod
    def grad(input, target, alpha, scale):
        _, slope, by_scale, by_alpha = parts(input, target, alpha, scale)
        return slope, -slope, by_alpha, by_scale

    @staticmethod
    def textbook(input, target, alpha, scale):
        b = absolute(alpha - 2.0)
        return b / alpha * ((((input - target) / scale) ** 2 / b + 1.0) ** (0.5 * alpha) - 1.0)

    facts = Facts(convex=True, smooth=True, lipschitz="1 / scale", minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=2.0, target=0.0, value=1.2360679774997897, grad=0.89442719099991588, source="sqrt(5) - 1"),
        Case(input=2.0, target=0.0, alpha=0.5, value=1.151347725692716, grad=0.75479049558049383, source="mpmath"),
        Case(input=2.0, target=0.0, alpha=-2.0, value=1.0, grad=0.5, source="GemanMcClureLoss"),
        Case(input=2.0, target=0.0, alpha=0.0, value=1.0986122886681097, grad=0.66666666666666667, source="CauchyLoss"),
        Case(input=2.0, target=0.0, alpha=-math.inf, value=0.86466471676338731, grad=0.27067056647322538,
             source="WelschLoss"),
        Case(input=2.0, target=0.0, alpha=2.0, scale=0.5, value=8.0, grad=8.0, source="half the square"),
    ]  # fmt: skip
    peers = [
        Peer(
            "kornia",
            "kornia.losses.geman_mcclure_loss(input, target)",
            "general_robust_loss(input, target, alpha=-2.0, reduction='none')",
        ),
        Peer(
            "kornia",
            "kornia.losses.welsch_loss(input, target)",
            "general_robust_loss(input, target, alpha=float('-inf'), reduction='none')",
        ),
        Peer(
            "kornia",
            "kornia.losses.cauchy_loss(input, target)",
            "general_robust_loss(input, target, alpha=0.0, reduction='none')",
        ),
        Peer(
            "kornia",
            "kornia.losses.charbonnier_loss(input, target)",
            "general_robust_loss(input, target, alpha=1.0, reduction='none')",
        ),
    ]
    aliases = "barron generalized_charbonnier"
    task = "regression"
    best_for = "Finding how robust a regression should be."
    not_for = "A first fit from a bad start, where alpha is below 1: it is not convex."
    reference = "Barron, J. T. (2019). A general and adaptive robust loss function. CVPR. arXiv:1701.03077."
