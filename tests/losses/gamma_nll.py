"""The truth about the likelihood of a gamma distribution of shape 1, given its mean or the logarithm of it."""

import math

import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, log_input):
    if not log_input:
        ratio = target / input
        by_input = (1 / input, -ratio / input)
        return (m.log(input), ratio), {"input": by_input, "target": (1 / input + 0 * target,)}
    inverse = m.exp(-input)
    ratio = m.times(target, inverse)
    return (input + 0 * target, ratio), {"input": (1 + 0 * target, -ratio), "target": (inverse + 0 * target,)}


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
    name="gamma_nll_loss",
    exact=exact,
    variants=[{"log_input": False}],
    # The product with the inverse mean is two roundings and that of the exponential, taken of half the logarithm.
    bars=Bars(value=2.5, gradient=2.5, eager_value=2.5, eager_gradient=2.7),
    others={"target": [0.0, 1.0, 3.0, 40.0]},
    points=points,
    example=Example(
        data="""log_means = torch.randn(10, 1)  # the model predicts the logarithm of the mean
target = log_means.exp() * torch.rand(10, 1)""",
        by_hand="by_hand = log_means + target * torch.exp(-log_means)",
        operands="log_means, target",
        more="""# log_input=False takes the mean itself.
means = log_means.exp()
loss = losskit.GammaNLLLoss(log_input=False)(means, target)
torch.testing.assert_close(loss, (means.log() + target / means).mean())

# It is minus the logarithm of the density of an exponential distribution.
density = torch.distributions.Exponential(1 / means).log_prob(target)
torch.testing.assert_close(loss, -density.mean())""",
    ),
)
