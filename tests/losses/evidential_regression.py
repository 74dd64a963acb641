"""The truth about evidential regression: a likelihood of Student's t distribution, and a price on evidence."""

import torch
from proofs import Bars, Example, PointwiseProof

from losses.student_t_nll import gamma_ratio


def exact(m, gamma, target, nu, alpha, beta, reg_weight):
    r = gamma - target
    size = m.where(r < 0, -r, r)
    width = 2 * beta * (1 + 1 / nu)
    w = r * r / width
    ratio, slope = gamma_ratio(m, alpha)
    evidence = m.times(reg_weight * (2 * nu + alpha), size)
    constant = (m.log(2 * m.pi) / 2, m.log(beta) / 2, -m.log(alpha) / 2, m.log1p(nu) / 2, -m.log(nu) / 2)
    value = (ratio, *constant, (alpha + 1 / (2 + 0 * alpha)) * m.log1p(w), evidence)
    way = m.where(r > 0, 1 + 0 * r, m.where(r < 0, -1 + 0 * r, 0 * r))
    still = r == 0
    distance = m.where(still, 1 + 0 * r, r)
    pull = m.where(still, 0 * r, (2 * alpha + 1) / (distance + m.div(width, distance)))
    share = m.where(w == m.inf, 1 + 0 * w, 1 - 1 / (1 + w))
    small = w < 1e-20
    v = m.where(small, w, 0 * w)
    share = m.where(small, v - v * v + v**3 - v**4, share)
    by_gamma = (pull, reg_weight * (2 * nu + alpha) * way)
    half = ((2 * alpha + 1) * share / 2, -1 / (2 + 0 * alpha))
    error = m.times(reg_weight, size)
    return value, {
        "gamma": by_gamma,
        "target": tuple(-x for x in by_gamma),
        "nu": (half[0] / nu / (1 + nu), half[1] / nu / (1 + nu), 2 * error),
        "alpha": (slope, -1 / (2 * alpha), m.log1p(w), error),
        "beta": (-half[0] / beta, -half[1] / beta),
    }


def subnormal_factor(what, operands):
    """Of the quotient of residual and width."""
    return min((2 * operands["alpha"] + 1) * (1 + 1 / operands["beta"]), 1e308) if what in ("gamma", "target") else 0.0


def points(given, dtype):
    """Residuals that overflow although their squares over the width do not."""
    largest = torch.finfo(dtype).max
    x = torch.tensor([0.9, -0.9], dtype=torch.float64) * largest
    rest = (torch.full_like(x, number) for number in (1e20 / largest, 1e6, 0.5 * largest))
    return [torch.stack([x, -x, *rest], 1)]


proof = PointwiseProof(
    name="evidential_regression_loss",
    exact=exact,
    variants=[{"reg_weight": 0.0}, {"reg_weight": 0.5}],
    # Of a rounded quotient, good to 2 ULP, the square; the gradients by nu, alpha and beta are differences of its functions.
    bars=Bars(value=4.1, gradient=5.3, eager_value=4.1, eager_gradient=5.4),
    others={"target": [0.0, 1.0, -30.0], "nu": [1.0, 0.1, 30.0], "alpha": [2.0, 1.5, 40.0], "beta": [1.0, 0.25, 9.0]},
    subnormal_factor=subnormal_factor,
    points=points,
    example=Example(
        data="""scores = torch.randn(10, 4)
gamma = scores[:, 0]
nu, beta = torch.nn.functional.softplus(scores[:, 1:3]).unbind(1)
alpha = 1 + torch.nn.functional.softplus(scores[:, 3])
target = torch.randn(10)""",
        by_hand="""omega = 2 * beta * (1 + nu)
squared = nu * (gamma - target) ** 2 + omega
likelihood = (alpha + 0.5) * squared.log() - alpha * omega.log()
constant = 0.5 * (torch.pi / nu).log() + alpha.lgamma() - (alpha + 0.5).lgamma()
evidence = 0.01 * (gamma - target).abs() * (2 * nu + alpha)
by_hand = constant + likelihood + evidence""",
        operands="gamma, target, nu, alpha, beta",
        more="""# The noise, and what the model does not know.
noise = beta / (alpha - 1)
print("noise", noise, "ignorance", noise / nu)""",
    ),
)
