"""The truth about the deviance of a gamma distribution, given its mean or the logarithm of it."""

import math

import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, log_input):
    t = target
    if not log_input:
        ratio = t / input
        value = (2 * ratio, -2 + 0 * ratio, -2 * m.log(t), 2 * m.log(input))
        by_input = (2 / input, -2 * ratio / input)
        return value, {"input": by_input, "target": (2 / input, -2 / t)}
    inverse = m.exp(-input)
    ratio = m.times(t, inverse)
    endless = input == -m.inf  # the ratio outgrows the logarithm
    value = (2 * ratio, -2 + 0 * t, -2 * m.log(t), m.where(endless, 0 * t, 2 * input))
    return value, {"input": (2 + 0 * t, -2 * ratio), "target": (2 * inverse, -2 / t)}


def points(given, dtype):
    """Log-means whose inverse mean overflows although the product with the target does not, and good fits."""
    if not given["log_input"]:
        return []
    largest = math.log(torch.finfo(dtype).max)
    tiny = torch.finfo(dtype).smallest_normal
    x = torch.linspace(-2.0 * largest, -largest, 40, dtype=torch.float64)
    close = torch.linspace(-80.0, 80.0, 160, dtype=torch.float64)
    fits = [torch.stack([close, (close + off).exp()], 1) for off in (0.0, 1e-6, 0.1, -0.1)]
    return [*fits, *(torch.stack([x, torch.full_like(x, factor * tiny)], 1) for factor in (1.0, 1e3))]


proof = PointwiseProof(
    name="gamma_deviance_loss",
    exact=exact,
    variants=[{"log_input": False}],
    # The product with the inverse mean is two roundings and that of the exponential, taken of half the logarithm.
    bars=Bars(value=2.5, gradient=2.5, eager_value=2.5, eager_gradient=2.7),
    others={"target": [0.5, 1.0, 3.0, 40.0]},
    points=points,
    example=Example(
        data="""log_means = torch.randn(10, 1)  # the model predicts the logarithm of the mean
target = log_means.exp() * (torch.rand(10, 1) + 0.5)""",
        by_hand="""ratio = target / log_means.exp()
by_hand = 2 * (ratio - 1 - ratio.log())""",
        operands="log_means, target",
        more="""# Twice what the likelihood is above its smallest value, where the mean is the target.
likelihood = losskit.GammaNLLLoss(reduction="none")
above = likelihood(log_means, target) - likelihood(target.log(), target)
deviance = losskit.GammaDevianceLoss(reduction="none")(log_means, target)
torch.testing.assert_close(deviance, 2 * above, atol=1e-5, rtol=1e-5)

# log_input=False takes the mean itself.
means = losskit.GammaDevianceLoss(log_input=False)(log_means.exp(), target)
torch.testing.assert_close(means, by_hand.mean())""",
    ),
)
