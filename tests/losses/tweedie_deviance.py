"""The truth about the deviance of a Tweedie distribution of a power between 1 and 2."""

import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, p, log_input):
    k, j = 2 - p, p - 1
    x = input if log_input else m.log(input)
    t, zero = target, 0 * target
    none = t == 0
    log_t = m.log(m.where(none, 1 + zero, t))
    mean_k, mean_j = m.exp(k * x), m.exp(-j * x)
    target_k = m.where(none, zero, m.exp(k * log_t))
    target_j = m.where(none, m.inf, m.exp(-j * log_t))
    value = (2 * mean_k / k, 2 * m.times(t, mean_j) / j, -2 * target_k / (k * j))
    by_x = (2 * mean_k + zero, -2 * m.times(t, mean_j))
    by_input = by_x if log_input else tuple(term / input for term in by_x)
    return value, {"input": by_input, "target": (2 * mean_j / j, -2 * target_j / j)}


def scale(what, operands, given):
    """The mean and the target to a power are exponentials of rounded products with their logarithms.

    The result is exact for a power that differs by a rounding, which counts as often as the logarithm is large.
    """
    k, j = 2.0 - given["p"], given["p"] - 1.0
    x, t = (torch.as_tensor(operands[name], dtype=torch.float64) for name in ("input", "target"))
    x, log_t = x if given["log_input"] else x.log(), t.log()
    less = x if what == "input" and not given["log_input"] else 0.0
    if what == "target":
        terms = [(x / j, -j * x), (log_t / j, -j * log_t)]
    elif what == "value":
        terms = [(x, k * x), (x, log_t - j * x), (log_t / j, k * log_t)]
    else:
        terms = [(k * x, k * x - less), (j * x, log_t - j * x - less)]
    found = sum((factor.abs() * exponent.exp()).nan_to_num(0.0, 0.0) for factor, exponent in terms)
    return (2.0 * found).clamp(max=1e308).numpy()[()]


proof = PointwiseProof(
    name="tweedie_deviance_loss",
    exact=exact,
    variants=[{"p": 1.125}, {"p": 1.875}, {"log_input": False}, {"p": 1.25, "log_input": False}],
    # An exponential, times the relative deviation of the target and what the two are divided by.
    bars=Bars(value=3.5, gradient=2.6, eager_value=3.5, eager_gradient=3.0),
    others={"target": [0.0, 1.0, 3.0, 40.0]},
    scale=scale,
    example=Example(
        data="""log_means = torch.randn(10, 1)  # the model predicts the logarithm of the mean
target = log_means.exp() * torch.rand(10, 1) * torch.randint(0, 2, (10, 1))
p = 1.5""",
        by_hand="""means = log_means.exp()
ours = means ** (2 - p) / (2 - p) + target * means ** (1 - p) / (p - 1)
best = target ** (2 - p) / ((2 - p) * (p - 1))
by_hand = 2 * (ours - best)""",
        operands="log_means, target",
        arguments="p=p, ",
        more="""# log_input=False takes the mean itself.
loss = losskit.TweedieDevianceLoss(log_input=False)(means, target)
torch.testing.assert_close(loss, by_hand.mean())

# Where the power tends to 2 it is the deviance of the gamma distribution.
some = target + 0.1
near = losskit.TweedieDevianceLoss(p=1.9999)(log_means, some)
gamma = losskit.GammaDevianceLoss()(log_means, some)
torch.testing.assert_close(near, gamma, rtol=1e-3, atol=1e-3)""",
    ),
)
