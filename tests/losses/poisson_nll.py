"""The truth about the likelihood of counts, given their rate or its logarithm."""

import math

import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, log_input, full, eps, stirling):
    x, t = input, target
    rate, log_rate = (m.exp(x), x) if log_input else (x, m.log(x + eps))
    endless = x == m.inf  # the rate outgrows any multiple of its logarithm
    value = (rate, m.where(endless, 0 * t, -m.times(t, log_rate)))
    by_target = (-log_rate,)
    if log_input:
        by_input = (rate, -t)
    else:
        by_input = (1 + 0 * t, -m.where(t == 0, 0 * t, m.div(t, m.where(t == 0, 1 + 0 * x, x + eps))))
    if full and stirling:
        many = t > 1
        n = m.where(many, t, 1 + 0 * t)
        stirlings = (n * m.log(n), -n, m.log(2 * m.pi * n) / 2)
        value += tuple(m.where(many, term, 0 * t) for term in stirlings)
        by_target += tuple(m.where(many, term, 0 * t) for term in (m.log(n), 1 / (2 * n)))
    if full and not stirling:
        value += (m.log_factorial(t),)
        by_target += (m.digamma(t + 1),)
    return value, {"input": by_input, "target": by_target}


def points(given, dtype):
    """Large rates against as large counts, and counts that no rate explains."""
    if not given["log_input"]:
        return []
    largest = torch.finfo(dtype).max
    x = torch.linspace(60.0, math.log(largest) - 1.0, 40, dtype=torch.float64)
    found = [torch.stack([x, factor * x.exp() / x], 1) for factor in (0.01, 0.5, 1.0, 1.5, 30.0)]
    low = torch.linspace(-80.0, -40.0, 20, dtype=torch.float64)
    return [*found, *(torch.stack([low, torch.full_like(low, largest * factor)], 1) for factor in (1e-3, 1e-8))]


def scale(what, operands, given):
    """Two sums are rounded before a function of them is taken.

    1. The rate `input + eps`. The result is exact for a slightly different eps, a number without a meaning of its own,
       but that is worth half a ULP of the target.
    2. `target + 1`, the argument of the gamma function, unless the target is a count.
    """
    if what == "input":
        return 0.0
    of_rate = 0.0 if given["log_input"] else operands["target"] if what == "value" else 1.0
    return of_rate + (1.0 if given["full"] and not given["stirling"] else 0.0)


proof = PointwiseProof(
    name="poisson_nll_loss",
    exact=exact,
    variants=[
        {"full": True},
        {"log_input": False},
        {"log_input": False, "eps": 0.5},
        {"log_input": False, "full": True},
        {"full": True, "stirling": False},
    ],
    # The sum of three terms that cancel, each good to 1 or 2 ULP; eager: torch.digamma alone is off by 4.
    bars=Bars(value=3.1, gradient=2.2, eager_value=3.1, eager_gradient=5.2),
    others={"target": [0.0, 1.0, 3.0, 40.0]},
    points=points,
    scale=scale,
    example=Example(
        data="""log_rates = torch.randn(10, 1)  # the model predicts the logarithm of a rate
target = torch.poisson(torch.full((10, 1), 2.0))  # counts""",
        by_hand="by_hand = log_rates.exp() - target * log_rates",
        operands="log_rates, target",
        more="""# log_input=False takes the rate itself; eps keeps its logarithm finite.
rates, eps = log_rates.exp(), 1e-8
plain = rates - target * (rates + eps).log()
loss = losskit.PoissonNLLLoss(log_input=False, eps=eps)(rates, target)
torch.testing.assert_close(loss, plain.mean())
print("log_input=False", loss)

# The term that depends on the target alone, exactly: log(target!).
exact = losskit.PoissonNLLLoss(full=True, stirling=False)(log_rates, target)
torch.testing.assert_close(exact, (by_hand + torch.lgamma(target + 1)).mean())
print("full=True, stirling=False", exact)""",
    ),
)
