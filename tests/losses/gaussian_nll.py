"""The truth about the likelihood of a normal distribution. A variance below eps passes its gradient on."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, var, full, eps):
    d, v = input - target, m.maximum(var, eps)
    value = (m.log(v) / 2, d * d / v / 2)
    if full:
        value += (m.log(2 * m.pi) / 2,)
    z = d / v
    return value, {"input": (z,), "target": (-z,), "var": (1 / (2 * v), -z * z / 2)}


proof = PointwiseProof(
    name="gaussian_nll_loss",
    exact=exact,
    variants=[{"full": True}, {"eps": 0.3}],
    # A rounded difference, squared and divided: 2 ULP before the sum.
    bars=Bars(value=3.0, gradient=3.0, eager_value=3.1, eager_gradient=3.4),
    others={"target": [0.0, 1.0, -30.0, 0.1], "var": [1.0, 0.0, 4.0, 0.01]},
    infinite=("var",),
    example=Example(
        data="""output = torch.randn(10, 1)  # predicted means
var = torch.rand(10, 1) + 0.1  # predicted variances
target = torch.randn(10, 1)
eps = 1e-6""",
        by_hand="""v = var.clamp(min=eps)
by_hand = 0.5 * (v.log() + (output - target) ** 2 / v)""",
        operands="output, target, var",
        arguments="eps=eps, ",
        more="""# One variance for each row, and a target that broadcasts.
means, truth, spread = torch.randn(10, 3), torch.randn(10, 1), torch.rand(10) + 0.1
rows = 0.5 * (spread[:, None].log() + (means - truth) ** 2 / spread[:, None])
torch.testing.assert_close(losskit.GaussianNLLLoss()(means, truth, spread), rows.mean())

# full=True adds the constant that makes it a likelihood.
full = losskit.GaussianNLLLoss(full=True)(output, target, var)
constant = 0.5 * torch.log(torch.tensor(2 * torch.pi))
torch.testing.assert_close(full, by_hand.mean() + constant)
print("full", full)""",
    ),
)
