"""The truth about Geman and McClure's loss: a ratio of squares, at most 2."""

import math

import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, scale):
    u = (input - target) / scale
    endless = abs(u) == m.inf
    value = m.where(endless, 2 + 0 * scale, 2 * u * u / (u * u + 4))
    slope = m.where(endless, 0 * scale, 16 * u / (u * u + 4) / (u * u + 4) / scale)
    return (value,), {"input": (slope,), "target": (-slope,)}


def points(given, dtype):
    """Where the slope is largest."""
    return [torch.tensor([[2.0 / math.sqrt(3.0) * given["scale"], 0.0]], dtype=torch.float64)]


proof = PointwiseProof(
    name="geman_mcclure_loss",
    exact=exact,
    variants=[{"scale": 0.5}, {"scale": 3.0}],
    # A rounded difference, divided: 1 ULP, which the value squares and the slope of an outlier cubes.
    bars=Bars(value=3.5, gradient=6.5, eager_value=3.5, eager_gradient=6.5),
    points=points,
    example=Example(
        data="""output = 3 * torch.randn(10, 1)
target = 3 * torch.randn(10, 1)
scale = 2.0""",
        by_hand="""square = ((output - target) / scale) ** 2
by_hand = 2 * square / (square + 4)""",
        operands="output, target",
        arguments="scale=scale, ",
        more="""# The classical form is half of it, at half the scale.
v = (output - target) / (2 * scale)
torch.testing.assert_close(v**2 / (1 + v**2), 0.5 * by_hand)""",
    ),
)
