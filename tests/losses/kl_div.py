"""The truth about the Kullback-Leibler divergence. What is impossible costs nothing."""

import math

import mpmath
import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, log_target):
    x, t = input, target
    if not log_target:
        value = (m.times(t, m.log(t)), -m.times(t, x))
        return value, {"input": (-t,), "target": (m.log(t), -x, 1 + 0 * t)}
    p, never = m.exp(t), t == -m.inf  # what is impossible costs nothing
    cost = m.where(never, 0 * p, m.times(p, t - x))
    return (cost,), {"input": (-p,), "target": (cost, p)}


def undecided(operands, given, dtype):
    """An impossible event (input -inf) whose probability exp(target) rounds to 0, but is not 0, costs 0 or inf."""
    if not given["log_target"] or operands["input"] != -math.inf or operands["target"] == -math.inf:
        return ()
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return ("value", "target") if mpmath.exp(operands["target"]) < smallest else ()


proof = PointwiseProof(
    name="kl_div",
    exact=exact,
    variants=[{"log_target": True}],
    bars=Bars(value=1.8, gradient=2.0, eager_value=1.9, eager_gradient=2.0),
    others={"target": [0.0, 1.0, 0.3, 2.5]},
    undecided=undecided,
    example=Example(
        data="""output = torch.randn(10, 5).log_softmax(dim=1)  # predicted log-probabilities
target = torch.randn(10, 5).softmax(dim=1)  # true probabilities""",
        by_hand="by_hand = target * (target.log() - output)",
        operands="output, target",
        more="""# "mean" divides by all 50 elements; "batchmean" by the 10 rows: the divergence itself.
loss = losskit.KLDivLoss("batchmean")(output, target)
torch.testing.assert_close(loss, by_hand.sum() / 10)
print("batchmean", loss)

# log_target=True: the target is logarithms too.
log_target = target.log()
same = losskit.KLDivLoss("batchmean", log_target=True)(output, log_target)
torch.testing.assert_close(same, (log_target.exp() * (log_target - output)).sum() / 10)
print("log_target=True", same)""",
    ),
)
