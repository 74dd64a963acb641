"""The truth about the continuous ranked probability score of a normal distribution."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, scale):
    d = input - target
    q = d / scale
    slope, peak = m.erf(q / m.sqrt(2)), m.sqrt(2 / m.pi) * m.exp(-q * q / 2)
    value = (m.times(d, slope), scale * peak, -scale / m.sqrt(m.pi))
    return value, {"input": (slope,), "target": (-slope,), "scale": (peak, -1 / m.sqrt(m.pi) + 0 * peak)}


proof = PointwiseProof(
    name="gaussian_crps_loss",
    exact=exact,
    # A rounded quotient, its error function, times a rounded difference: 2 ULP before the sum.
    bars=Bars(value=2.9, gradient=2.1, eager_value=2.9, eager_gradient=2.2),
    others={"target": [0.0, 1.0, -30.0, 0.1], "scale": [1.0, 0.5, 4.0, 0.01]},
    example=Example(
        data="""output = torch.randn(10, 1)  # predicted means
scale = torch.rand(10, 1) + 0.1  # predicted standard deviations
target = torch.randn(10, 1)""",
        by_hand="""q = (target - output) / scale
normal = torch.distributions.Normal(0.0, 1.0)
density = normal.log_prob(q).exp()
by_hand = scale * (q * (2 * normal.cdf(q) - 1) + 2 * density - torch.pi**-0.5)""",
        operands="output, target, scale",
        more="""# A certain forecast is scored by its absolute error.
certain = losskit.GaussianCRPSLoss()(output, target, 1e-6)
torch.testing.assert_close(certain, losskit.L1Loss()(output, target), rtol=1e-4, atol=1e-5)""",
    ),
)
