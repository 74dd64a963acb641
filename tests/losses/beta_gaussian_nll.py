"""The truth about the likelihood of a normal distribution times a power of its variance, which counts as a constant."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, var, beta):
    d, weight = input - target, var**beta
    value = (weight * m.log(var) / 2, weight / var * d * d / 2)
    z = d / var
    by_var = (weight / (2 * var), -weight * z * z / 2)
    return value, {"input": (weight * z,), "target": (-weight * z,), "var": by_var}


proof = PointwiseProof(
    name="beta_gaussian_nll_loss",
    exact=exact,
    variants=[{"beta": 0.0}, {"beta": 1.0}, {"beta": 0.3}],
    # As of the likelihood, and a rounded power and its quotient by the variance. The gradient by the variance: the
    # square of a quotient by a rounded root, times all that.
    bars=Bars(value=3.9, gradient=5.0, eager_value=3.9, eager_gradient=5.0),
    others={"target": [0.0, 1.0, -30.0, 0.1], "var": [1.0, 0.25, 4.0, 0.01]},
    infinite=("var",),
    example=Example(
        data="""output = torch.randn(10, 1)  # predicted means
var = torch.rand(10, 1) + 0.1  # predicted variances
target = torch.randn(10, 1)
beta = 0.5""",
        by_hand="""weight = var.detach() ** beta
by_hand = weight * 0.5 * (var.log() + (output - target) ** 2 / var)""",
        operands="output, target, var",
        arguments="beta=beta, ",
        more="""# With beta = 0 it is the likelihood itself.
plain = losskit.BetaGaussianNLLLoss(beta=0.0)(output, target, var)
torch.testing.assert_close(plain, losskit.GaussianNLLLoss()(output, target, var))

# With beta = 1 the mean is pulled as by half the squared error, whatever the variance.
output.requires_grad_()
losskit.BetaGaussianNLLLoss(beta=1.0, reduction="sum")(output, target, var).backward()
torch.testing.assert_close(output.grad, output.detach() - target)""",
    ),
)
