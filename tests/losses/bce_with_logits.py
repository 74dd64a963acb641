"""The truth about the cross entropy of a probability that is given by its logit."""

import math

import torch
from mpmath import mpf
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, pos_weight=None):
    x, t = input, target
    w = 1 if pos_weight is None else pos_weight
    up, down = m.softplus(x), m.softplus(-x)
    value = m.times(1 - t, up) + m.times(w * t, down)
    gradients = {
        "input": ((1 - t) * m.sigmoid(x), -(w * t) * m.sigmoid(-x)),
        "target": (-x,) if pos_weight is None else (m.times(w, down), -up),
    }
    if pos_weight is not None:
        gradients["pos_weight"] = (m.times(t, down),)
    return (value,), gradients


def subnormal_factor(what, operands):
    """The weight of a positive label whose score is all but certainly right."""
    return operands.get("pos_weight", 0.0)


def undecided(operands, given, dtype):
    """An infinitely wrong score whose weight rounds to 0 costs 0 or inf."""
    if not operands.get("pos_weight") or operands["input"] != -math.inf:
        return ()
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return ("value",) if mpf(operands["pos_weight"]) * operands["target"] < smallest else ()


proof = PointwiseProof(
    name="binary_cross_entropy_with_logits",
    exact=exact,
    variants=[{"pos_weight": 2.5}],
    # Eager: torch's exp and log1p under both labels.
    bars=Bars(value=2.1, gradient=3.3, eager_value=2.6, eager_gradient=2.6),
    others={"target": [0.0, 1.0, 0.5, 0.1], "pos_weight": [2.5, 2.5, 1.0, 0.3]},
    subnormal_factor=subnormal_factor,
    undecided=undecided,
    example=Example(
        data="""logits = torch.randn(10, 1)
target = torch.randint(0, 2, (10, 1)).float()""",
        by_hand="""p = logits.sigmoid()
by_hand = -(target * p.log() + (1 - target) * (1 - p).log())""",
        operands="logits, target",
        more="""# pos_weight: a positive label counts three times.
pos_weight = torch.tensor([3.0])
weighted = -(pos_weight * target * p.log() + (1 - target) * (1 - p).log())
loss = losskit.BCEWithLogitsLoss(pos_weight=pos_weight)(logits, target)
torch.testing.assert_close(loss, weighted.mean())
print("pos_weight", loss)""",
    ),
)
