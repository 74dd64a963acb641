"""The truth about the likelihood of Student's t distribution."""

from proofs import Bars, Example, PointwiseProof


def gamma_ratio(m, a):
    """lgamma(a) - lgamma(a + 1/2) + log(a)/2 and its derivative, by the asymptotic series where all digits cancel."""
    large = a > 10**6
    b = m.where(large, a, 10**6 + 0 * a)
    u = 1 / b
    series = u / 8 - u**3 / 192 + u**5 / 640 - 17 * u**7 / 14336 + 31 * u**9 / 18432
    by_series = -(u**2) / 8 + u**4 / 64 - u**6 / 128 + 17 * u**8 / 2048 - 31 * u**10 / 2048
    c = m.where(large, 0 * a + 1, a)
    half = 1 / (2 + 0 * c)
    exactly = m.log_gamma(c) - m.log_gamma(c + half) + m.log(c) / 2
    by_exactly = m.digamma(c) - m.digamma(c + half) + 1 / (2 * c)
    return m.where(large, series, exactly), m.where(large, by_series, by_exactly)


def exact(m, input, target, scale, df):
    d = input - target
    z = d / scale
    w = z * z / df
    ratio, slope = gamma_ratio(m, df / 2)
    value = (ratio, m.log(2 * m.pi) / 2, m.log(scale), (df + 1) / 2 * m.log1p(w))
    still = d == 0
    distance = m.where(still, 1 + 0 * d, d)
    pull = m.where(still, 0 * d, (df + 1) / (distance + df * scale * m.div(scale, distance)))
    share = m.where(w == m.inf, 1 + 0 * z, 1 - 1 / (1 + w))
    small = w < 1e-20
    v = m.where(small, w, 0 * w)
    share = m.where(small, v - v * v + v**3 - v**4, share)
    rest = m.where(small, v * v / 2 - 2 * v**3 / 3 + 3 * v**4 / 4, m.log1p(w) - share)
    by_scale = (1 / scale, -(df + 1) * share / scale)
    return value, {"input": (pull,), "target": (-pull,), "scale": by_scale,
                   "df": (slope / 2, rest / 2, -share / df / 2)}  # fmt: skip


def subnormal_factor(what, operands):
    """Of the quotient of residual and scale."""
    return (1 + 1 / operands["df"]) / operands["scale"] if what in ("input", "target") else 0.0


proof = PointwiseProof(
    name="student_t_nll_loss",
    exact=exact,
    # By the degrees of freedom: of a rounded quotient, good to 3 ULP, a function that doubles relative errors.
    bars=Bars(value=2.4, gradient=4.9, eager_value=2.5, eager_gradient=6.2),
    others={"target": [0.0, 1.0, -30.0, 0.1], "scale": [1.0, 0.5, 4.0, 0.01], "df": [1.0, 3.0, 0.5, 30.0]},
    subnormal_factor=subnormal_factor,
    example=Example(
        data="""output = torch.randn(10, 1)  # predicted locations
scale = torch.rand(10, 1) + 0.1  # predicted scales
target = torch.randn(10, 1)
df = torch.tensor(3.0)""",
        by_hand="""w = ((output - target) / scale) ** 2 / df
ratio = torch.lgamma(df / 2) - torch.lgamma((df + 1) / 2)
constant = ratio + 0.5 * torch.log(torch.pi * df)
by_hand = constant + scale.log() + 0.5 * (df + 1) * torch.log1p(w)""",
        operands="output, target, scale, 3.0",
        more="""# It is minus the logarithm of the density of torch's distribution.
density = torch.distributions.StudentT(df, output, scale).log_prob(target)
loss = losskit.StudentTNLLLoss("none")(output, target, scale, df)
torch.testing.assert_close(loss, -density)

# With many degrees of freedom it is the likelihood of a normal distribution.
many = losskit.StudentTNLLLoss()(output, target, scale, 1e9)
normal = losskit.GaussianNLLLoss(full=True)(output, target, scale**2)
torch.testing.assert_close(many, normal)""",
    ),
)
