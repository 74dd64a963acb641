"""The truth about the clipped ratio of probabilities times an advantage, and a divergence from a reference."""

import math

import numpy as np
import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, log_prob, old_log_prob, advantage, ref_log_prob=None, *, epsilon_low, epsilon_high, beta, loss_type):
    low, high = 1 - epsilon_low, 1 + epsilon_high
    ratio = m.exp(log_prob - old_log_prob)
    negative = advantage < 0
    if loss_type == "clip":
        held = m.where(negative, m.maximum(ratio, low + 0 * ratio), -m.maximum(-ratio, -high + 0 * ratio))
        beyond = m.where(negative, ratio < low, ratio > high)
        value, slope = (-m.times(advantage, held),), (-m.times(advantage, m.where(beyond, 0 * high, ratio)),)
    else:
        weight = -m.times(advantage, -m.maximum(-ratio, -high + 0 * ratio))
        value, slope = (weight * log_prob,), (weight,)
    nothing = (0 * log_prob,)
    gradients = {"old_log_prob": nothing, "advantage": nothing}
    if ref_log_prob is not None:
        ahead = ref_log_prob - log_prob
        value += (m.times(beta, m.where(ahead == m.inf, ahead, m.expm1(ahead) - ahead)),)
        slope += (-m.times(beta, m.expm1(ahead)),)
        gradients["ref_log_prob"] = nothing
    return value, {"log_prob": slope, **gradients}


def differences(operands):
    """How much likelier a token became, and how much likelier it is by the reference."""
    x = np.float64(operands["log_prob"])
    return x - operands["old_log_prob"], np.float64(operands.get("ref_log_prob", x)) - x


def scale(what, operands, given):
    """Differences of log-probabilities are rounded before their exponential is taken."""
    if what not in ("value", "log_prob"):
        return 0.0
    with np.errstate(all="ignore"):
        moved, ahead = differences(operands)
        advantage, ratio = np.float64(operands["advantage"]), np.exp(moved)
        limited = ratio > 1.01 * (1 + given["epsilon_high"])
        if given["loss_type"] == "clip":
            limited = np.where(advantage < 0, ratio < 0.99 * (1 - given["epsilon_low"]), limited)
        weight = np.where(limited, 0.0, advantage * ratio)
        if given["loss_type"] == "cispo" and what == "value":
            weight = weight * operands["log_prob"]
        steep = np.expm1(ahead) if what == "value" else np.exp(ahead)
        shown = lambda x: np.nan_to_num(np.abs(x), nan=0.0, posinf=1e308)
        return (shown(weight * moved) + shown(given["beta"] * steep * ahead))[()]


def subnormal_factor(what, operands):
    """The ratio may be subnormal."""
    return abs(operands["advantage"]) * max(1.0, abs(operands["log_prob"])) if what in ("value", "log_prob") else 0.0


def undecided(operands, given, dtype):
    """What is too large on the way and may come back, an infinite advantage, the slope at the limits of the ratio."""
    with np.errstate(all="ignore"):
        moved, ahead = map(float, differences(operands))
    info = torch.finfo(dtype)
    largest = math.log(info.max) - 1e-3
    large = largest < moved < math.inf or largest < ahead < math.inf or math.isinf(operands["advantage"])
    factors = operands["advantage"], operands["log_prob"] if given["loss_type"] == "cispo" else 0.0
    if large or max(map(abs, factors)) > math.sqrt(info.max):
        return ("value", "log_prob")
    limit = 1 - given["epsilon_low"] if operands["advantage"] < 0 else 1 + given["epsilon_high"]
    near = limit > 0 and abs(moved - math.log(limit)) <= 4 * info.eps * (1 + abs(moved))
    return ("log_prob",) if near and given["loss_type"] == "clip" else ()


proof = PointwiseProof(
    name="grpo_loss",
    exact=exact,
    variants=[
        {"beta": 0.04, "epsilon_high": 0.28},
        {"ref_log_prob": None, "epsilon_low": 0.1},
        {"loss_type": "cispo", "epsilon_high": 2.0, "beta": 0.04},
        {"loss_type": "cispo", "ref_log_prob": None},
    ],
    # An exponential, two products and a sum.
    bars=Bars(value=2.3, gradient=2.4, eager_value=2.3, eager_gradient=2.2),
    others={
        "old_log_prob": [-1.0, -0.5, -2.0, -8.0],
        "advantage": [1.0, -1.0, 0.0, -0.25],
        "ref_log_prob": [-1.0, -0.25, -2.0, -5.0],
    },
    scale=scale,
    subnormal_factor=subnormal_factor,
    undecided=undecided,
    example=Example(
        data="""log_prob = -3 * torch.rand(4, 6)  # of 6 tokens of 4 answers
old_log_prob = (log_prob + 0.4 * torch.randn(4, 6)).clamp(max=0)  # of when they were given
ref_log_prob = (log_prob + 0.1 * torch.randn(4, 6)).clamp(max=0)  # by the reference model
rewards = torch.tensor([1.0, 0.0, 0.0, 1.0])
advantage = (rewards - rewards.mean()) / (rewards.std() + 1e-4)  # one for each answer""",
        by_hand="""ratio = torch.exp(log_prob - old_log_prob)
A = advantage[:, None]
gain = torch.minimum(ratio * A, ratio.clamp(0.8, 1.28) * A)
ahead = ref_log_prob - log_prob
by_hand = 0.04 * (torch.exp(ahead) - ahead - 1) - gain""",
        operands="log_prob, old_log_prob, advantage, ref_log_prob",
        arguments="epsilon_high=0.28, beta=0.04, ",
        more="""# Answers differ in length. What "mean" divides by tells the methods apart.
mask = torch.arange(6) < torch.tensor([6, 4, 5, 2])[:, None]
length = mask.sum(1, keepdim=True)
criterion = losskit.GRPOLoss(epsilon_high=0.28, beta=0.04)
call = (log_prob, old_log_prob, advantage, ref_log_prob)
dapo = criterion(*call, mask=mask)  # tokens; TRL's bnpo, too
# Means of answers.
grpo = criterion(*call, mask=mask, sample_weight=1 / length, normalizer=len(mask))
dr_grpo = criterion(*call, mask=mask, normalizer=4 * 6)  # answers times the largest length
assert torch.allclose(dapo, (by_hand * mask).sum() / mask.sum())
assert torch.allclose(grpo, ((by_hand * mask).sum(1) / length[:, 0]).mean())
assert torch.allclose(dr_grpo, (by_hand * mask).sum() / 24)""",
    ),
)
