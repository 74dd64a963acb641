"""The truth about Welsch's loss: one less a bell curve."""

from proofs import Bars, Example, PointwiseProof
from reference import Wide


def exact(m, input, target, scale):
    u = (input - target) / scale
    slope = m.times(m.exp(-u * u / 2), u / scale)
    return (-m.expm1(-u * u / 2),), {"input": (slope,), "target": (-slope,)}


def scale(what, operands, given):
    """The residual is rounded before an exponential is taken of its square: an error of u^2 times a rounding."""
    if what == "value":
        return 0.0
    u = -Wide.maximum(-abs(operands["input"] - operands["target"]) / given["scale"], -1e3)
    return u**3 / given["scale"] * Wide.exp(-0.5 * u * u)


proof = PointwiseProof(
    name="welsch_loss",
    exact=exact,
    variants=[{"scale": 0.5}, {"scale": 3.0}],
    # A rounded difference, divided and squared: 2.5 ULP before the exponential.
    bars=Bars(value=3.6, gradient=3.7, eager_value=3.1, eager_gradient=2.9),
    scale=scale,
    example=Example(
        data="""output = 3 * torch.randn(10, 1)
target = 3 * torch.randn(10, 1)
scale = 2.0""",
        by_hand="by_hand = 1 - (-0.5 * ((output - target) / scale) ** 2).exp()",
        operands="output, target",
        arguments="scale=scale, ",
        more="""# A small residual is lost by hand: 1 - exp(-x) rounds to 0.
small = torch.tensor([1e-4])
print("by hand", 1 - (-0.5 * small**2).exp())
print("losskit", losskit.WelschLoss()(small, 0 * small))""",
    ),
)
