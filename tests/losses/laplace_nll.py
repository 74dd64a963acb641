"""The truth about the likelihood of a Laplace distribution."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, scale):
    d = input - target
    value = (abs(d) / scale, m.log(2 * scale))
    slope = m.sign(d) / scale
    return value, {"input": (slope,), "target": (-slope,), "scale": (1 / scale, -abs(d) / scale / scale)}


proof = PointwiseProof(
    name="laplace_nll_loss",
    exact=exact,
    bars=Bars(value=1.9, gradient=1.9, eager_value=1.9, eager_gradient=1.9),
    others={"target": [0.0, 1.0, -30.0, 0.1], "scale": [1.0, 0.5, 4.0, 0.01]},
    infinite=("scale",),
    example=Example(
        data="""output = torch.randn(10, 1)  # predicted medians
scale = torch.rand(10, 1) + 0.1  # predicted scales
target = torch.randn(10, 1)""",
        by_hand="by_hand = (output - target).abs() / scale + torch.log(2 * scale)",
        operands="output, target, scale",
        more="""# It is minus the logarithm of the density of torch's distribution.
density = torch.distributions.Laplace(output, scale).log_prob(target)
torch.testing.assert_close(losskit.LaplaceNLLLoss("none")(output, target, scale), -density)

# With a constant scale of 1 it is the absolute error and log(2).
constant = losskit.LaplaceNLLLoss()(output, target, 1.0)
absolute = losskit.L1Loss()(output, target)
torch.testing.assert_close(constant, absolute + torch.log(torch.tensor(2.0)))""",
    ),
)
