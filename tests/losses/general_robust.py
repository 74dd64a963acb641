"""The truth about Barron's family. Its members at alpha 2, 0 and the infinities are limits."""

import math

from proofs import Bars, Example, PointwiseProof
from reference import Wide


def exact(m, input, target, alpha, scale):
    u = (input - target) / scale
    square, endless = u * u, abs(u) == m.inf
    if alpha == 2:
        value, slope = square / 2, u / scale
    elif abs(alpha) == m.inf:
        way = 1 if alpha > 0 else -1
        value, slope = way * m.expm1(way * square / 2), m.times(m.exp(way * square / 2), u / scale)
    else:
        b = abs(alpha - 2)
        log = m.log1p(square / b)
        bound = m.inf if alpha >= 0 else -b / alpha
        value = m.where(endless, bound, b * log / 2 if alpha == 0 else b / alpha * m.expm1(alpha / 2 * log))
        steep = 0 * scale if alpha < 1 else m.sign(u) / scale if alpha == 1 else u
        slope = m.where(endless, steep, u / scale * m.exp((alpha / 2 - 1) * log))
    return (value,), {"input": (slope,), "target": (-slope,)}


def scale(what, operands, given):
    """A power is the exponential of a multiple of a logarithm, or of a square: roundings grow with that exponent."""
    alpha, width = given["alpha"], given["scale"]
    half = abs(0.5 * operands["input"] - 0.5 * operands["target"]) / width
    if math.isinf(alpha):
        u = -Wide.maximum(-2.0 * half, -100.0)
        return 0.0 if what == "value" else u**3 / width * Wide.exp(-0.5 * u * u)
    b = abs(alpha - 2.0) or 1.0
    far = half > 1e150
    log = Wide.where(far, Wide.log(half + 1.0) + math.log(2.0 / math.sqrt(b)), 0.5 * Wide.log1p(4.0 / b * half * half))
    log = -Wide.maximum(-log, -750.0)  # that of the largest number
    power, times = (alpha, b / abs(alpha or 1.0)) if what == "value" else (alpha - 1.0, math.sqrt(b) / width)
    return times * abs(power) * log * Wide.exp(-Wide.maximum(-power * log, -700.0))


proof = PointwiseProof(
    name="general_robust_loss",
    exact=exact,
    variants=[
        {"alpha": 1.5, "scale": 2.0},
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"alpha": -2.0},
        {"alpha": 2.0},
        {"alpha": 3.0},
        {"alpha": float("-inf"), "scale": 2.0},
    ],
    scale=scale,
    # A rounded difference, divided by a rounded number, squared: 3 ULP before two functions.
    bars=Bars(value=5.9, gradient=4.1, eager_value=5.9, eager_gradient=4.1),
    example=Example(
        data="""output = 3 * torch.randn(10, 1)
target = 3 * torch.randn(10, 1)
alpha, scale = 0.5, 2.0""",
        by_hand="""b = abs(alpha - 2)
by_hand = b / alpha * ((((output - target) / scale) ** 2 / b + 1) ** (alpha / 2) - 1)""",
        operands="output, target",
        arguments="alpha=alpha, scale=scale, ",
        more="""# Its members have names of their own.
members = {
    1.0: losskit.PseudoHuberLoss(),
    0.0: losskit.CauchyLoss(),
    -2.0: losskit.GemanMcClureLoss(),
    -torch.inf: losskit.WelschLoss(),
}
for alpha, member in members.items():
    loss = losskit.GeneralRobustLoss(alpha)(output, target)
    torch.testing.assert_close(loss, member(output, target))
    print("alpha", alpha, loss)""",
    ),
)
