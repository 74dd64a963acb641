"""The truth about Cauchy's loss: a logarithm of the square."""

import math

import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, scale):
    u = (input - target) / scale
    slope = m.where(abs(u) == m.inf, 0 * scale, u / (1 + u * u / 2) / scale)
    return (m.log1p(u * u / 2),), {"input": (slope,), "target": (-slope,)}


def points(given, dtype):
    """Where the slope is largest."""
    return [torch.tensor([[math.sqrt(2.0) * given["scale"], 0.0]], dtype=torch.float64)]


proof = PointwiseProof(
    name="cauchy_loss",
    exact=exact,
    variants=[{"scale": 0.5}, {"scale": 3.0}],
    # A rounded difference, divided and squared: 2.5 ULP before the logarithm.
    bars=Bars(value=3.1, gradient=2.8, eager_value=3.2, eager_gradient=2.8),
    points=points,
    example=Example(
        data="""output = 3 * torch.randn(10, 1)
target = 3 * torch.randn(10, 1)
scale = 2.0""",
        by_hand="by_hand = (0.5 * ((output - target) / scale) ** 2).log1p()",
        operands="output, target",
        arguments="scale=scale, ",
        more="""# The further an outlier, the smaller its pull: about 2 / residual.
outliers = torch.tensor([10.0, 100.0, 1000.0], requires_grad=True)
losskit.CauchyLoss(scale, reduction="sum")(outliers, torch.zeros(3)).backward()
print("pulls", outliers.grad)""",
    ),
)
