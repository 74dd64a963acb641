"""The truth about Tukey's biweight: constant beyond c."""

import math

import torch
from proofs import Bars, Example, PointwiseProof
from reference import Wide


def exact(m, input, target, c):
    d = input - target
    inside = abs(d) < c
    v = m.where(inside, d / c, 0 * c) ** 2
    nothing = m.where(d == d, 0 * v, d)
    value = m.where(inside, d * d * (1 - v + v * v / 3) / 2, nothing + c * c / 6)
    slope = m.where(inside, d * (1 - v) ** 2, nothing)
    return (value,), {"input": (slope,), "target": (-slope,)}


def points(given, dtype):
    """Where the slope is largest."""
    steepest = given["c"] / math.sqrt(5.0)
    return [torch.tensor([[steepest, 0.0]], dtype=torch.float64)]


def scale(what, operands, given):
    """The residual d is rounded before it is compared with c: near c the slope d w^2, w = 1 - d^2 / c^2, shows that.

    That is worth a rounding of d w; where w itself is below a rounding of float32, of d times that.
    """
    if what == "value":
        return 0.0
    d = -Wide.maximum(-abs(operands["input"] - operands["target"]), -given["c"])
    return d * Wide.maximum(1.0 - (d / given["c"]) ** 2, 2.0**-23)


proof = PointwiseProof(
    name="tukey_biweight_loss",
    exact=exact,
    variants=[{"c": 2.0}, {"c": 0.5}],
    # A rounded difference, squared: 1 ULP, and the polynomial's roundings.
    bars=Bars(value=2.8, gradient=4.0, eager_value=2.8, eager_gradient=4.0),
    points=points,
    scale=scale,
    example=Example(
        data="""output = 3 * torch.randn(10, 1)
target = 3 * torch.randn(10, 1)
c = 4.685""",
        by_hand="""v = ((output - target) / c).square().clamp(max=1)
by_hand = c**2 / 6 * (1 - (1 - v) ** 3)""",
        operands="output, target",
        arguments="c=c, ",
        more="""# An outlier has no pull.
outlier = torch.tensor([1e6], requires_grad=True)
losskit.TukeyBiweightLoss(c)(outlier, torch.zeros(1)).backward()
assert outlier.grad == 0""",
    ),
)
