"""The truth about Barron's distribution: his loss, the logarithm of the scale, that of the partition function."""

import mpmath
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal


def loss(u, alpha):
    """The robust loss at scale 1."""
    if alpha == 2:
        return u * u / 2
    beyond = 2 - alpha
    logarithm = mpmath.log1p(u * u / beyond)
    return beyond / 2 * logarithm if alpha == 0 else beyond / alpha * mpmath.expm1(alpha / 2 * logarithm)


def log_partition(alpha):
    """By quadrature over u = sinh(s), which has the tail of a Cauchy distribution in reach."""
    density = lambda s: mpmath.exp(-loss(mpmath.sinh(s), alpha)) * mpmath.cosh(s)
    with mpmath.workdps(30):
        return mpmath.log(2 * mpmath.quad(density, [0, 0.25, 1, 2, 4, 8, 16, 32, 80]))


def exact(m, input, target, alpha=1.0, scale=1.0):
    u = (input - target) / scale
    slope = u / scale * (u * u / (2 - alpha) + 1) ** (alpha / 2 - 1) if alpha != 2 else u / scale
    alpha = m.one * alpha
    return (loss(u, alpha), m.log(m.one * scale), log_partition(alpha)), {0: [slope], 1: [-slope]}


def residuals(n, g):
    return normal(n, g=g) * 3.0, normal(n, g=g)


proof = RowProof(
    name="adaptive_robust_loss",
    exact=exact,
    # Of the difference of two logarithms and the robust loss, which may cancel.
    bars=Bars(value=2.7, gradient=3.9, eager_value=2.7, eager_gradient=2.4),
    variants=[
        Variant("usual", residuals, gradients=(0, 1)),
        Variant("cauchy", residuals, {"alpha": 0.0, "scale": 0.5}, gradients=(0, 1)),
        Variant("between", residuals, {"alpha": 1.75, "scale": 2.5}, gradients=(0, 1)),
        Variant("gaussian", residuals, {"alpha": 2.0}, gradients=(0, 1)),
    ],
    example=Example(
        data="""prediction, truth = torch.randn(10), torch.randn(10)
alpha, scale = 1.0, 0.5""",
        by_hand="""u = (prediction - truth) / scale
density = lambda u: torch.exp(1 - torch.sqrt(u * u + 1))  # of alpha = 1
grid = torch.linspace(-60, 60, 100001, dtype=torch.float64)
Z = torch.trapezoid(density(grid), grid).float()
by_hand = torch.sqrt(u * u + 1) - 1 + torch.log(torch.tensor(scale)) + torch.log(Z)""",
        operands="prediction, truth",
        arguments="alpha, scale, ",
    ),
)
