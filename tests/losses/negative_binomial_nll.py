"""The truth about the likelihood of a negative binomial distribution, given its mean or the logarithm of it."""

from proofs import Bars, Example, PointwiseProof


def stirling(m, z):
    """lgamma(z) - (z - 1/2) log(z) + z - log(2 pi)/2, and log(z) - 1/(2 z) - psi(z): z from 10^6 on."""
    u = 1 / z
    s = u / 12 - u**3 / 360 + u**5 / 1260 - u**7 / 1680 + u**9 / 1188
    return s, u**2 / 12 - u**4 / 120 + u**6 / 252 - u**8 / 240 + u**10 / 132


def of_size(m, n, t):
    """K = lgamma(n) - lgamma(n + t) + (n + t) log(n + t) - n log(n) - t, and psi(n) - psi(n + t) + log(1 + t/n)."""
    large, one = n > 10**6, 1 + 0 * n
    b, c = m.where(large, n, 10**6 * one), m.where(large, one, n)
    (s, r), (s_t, r_t) = stirling(m, b), stirling(m, b + t)
    many = m.log1p(t / b) / 2 + s - s_t, -t / (2 * b * (b + t)) - (r - r_t)

    def apart(z):  # lgamma(z) - z log(z) + z
        high = z > 10**6
        y, x = m.where(high, z, 10**6 * one), m.where(high, one, z)
        series = -m.log(y) / 2 + m.log(2 * m.pi) / 2 + stirling(m, y)[0]
        return m.where(high, series, m.log_gamma(x) - x * m.log(x) + x)

    tiny = t < 1e-25 * c
    exactly = m.digamma(c) - m.digamma(c + t) + m.log1p(t / c)
    slope = m.where(tiny, t / c - t * m.trigamma(c), exactly)
    return m.where(large, many[0], apart(c) - apart(c + t)), m.where(large, many[1], slope)


def exact(m, input, target, dispersion, log_input):
    x, t, alpha = input, target, dispersion
    if not log_input:
        x = m.log(input)
    n, log_odds = 1 / alpha, x + m.log(alpha)
    log_size, log_excess = m.softplus(log_odds), m.log1p(alpha * t)  # log((n + mean) / n), log((n + t) / n)
    above, below = m.sigmoid(log_odds), m.sigmoid(-log_odds)
    mean = m.exp(x) if log_input else input
    size, slope = of_size(m, n, t)
    endless = x > 10**6  # t x, which is left out on both sides, has more digits than there are
    many = m.where(endless, 0 * t, -m.times(t, x)), m.where(endless, n * x + (n + t) * m.log(alpha), (n + t) * log_size)
    value = (m.log_factorial(t), *many, -(n + t) * log_excess, t, size)
    by_x = (above / alpha, -t * below)
    v = m.where(mean == m.inf, -above, (t - m.where(mean == m.inf, 0 * t, mean)) / (n + mean))
    small, low = abs(v) < 1e-3, v < -0.5
    near = m.where(small, v, 0 * v)
    rest = m.where(small, sum((-near) ** i / i for i in range(2, 25)), v - m.log1p(m.where(low, 0 * v, v)))
    rest = m.where(low, v + log_size - log_excess, rest)  # next to -1 all digits of 1 + v are lost
    return value, {
        "input": by_x if log_input else tuple(term / input for term in by_x),
        "target": (0 * t,),  # counts have no gradient
        "dispersion": (-n * n * slope, -n * n * rest),
    }


def scale(what, operands, given):
    """To a target that is not 0 numbers up to 4 are added."""
    return 1.0 * (operands["target"] > 0) if what == "value" else 0.0


proof = PointwiseProof(
    name="negative_binomial_nll_loss",
    exact=exact,
    variants=[{"log_input": False}],
    # A sum of eight logarithms, each good to 1 ULP of numbers up to 4. By the dispersion: of a rounded quotient, good
    # to 3 ULP, a function that doubles relative errors. Eager: torch.digamma alone is off by 4.
    bars=Bars(value=6.2, gradient=7.6, eager_value=7.2, eager_gradient=10.7),
    others={"target": [0.0, 1.0, 3.0, 40.0], "dispersion": [1.0, 0.5, 0.01, 4.0]},
    scale=scale,
    example=Example(
        data="""log_means = torch.randn(10, 1)  # the model predicts the logarithm of the mean
dispersion = torch.rand(10, 1) + 0.1  # and how much more than Poisson's the counts vary
target = torch.poisson(torch.full((10, 1), 2.0))  # counts""",
        by_hand="""size = 1 / dispersion
odds = log_means + dispersion.log()
by_hand = (size + target) * torch.nn.functional.softplus(odds) - target * odds
by_hand = by_hand + torch.lgamma(size) + torch.lgamma(target + 1)
by_hand = by_hand - torch.lgamma(target + size)""",
        operands="log_means, target, dispersion",
        more="""# It is minus the logarithm of the probability of torch's distribution.
counts = torch.distributions.NegativeBinomial(total_count=size, logits=odds)
loss = losskit.NegativeBinomialNLLLoss(reduction="none")(log_means, target, dispersion)
torch.testing.assert_close(loss, -counts.log_prob(target))

# With a small dispersion it is the likelihood of a Poisson distribution.
little = losskit.NegativeBinomialNLLLoss()(log_means, target, 1e-8)
poisson = losskit.PoissonNLLLoss(full=True, stirling=False)(log_means, target)
torch.testing.assert_close(little, poisson)""",
    ),
)
