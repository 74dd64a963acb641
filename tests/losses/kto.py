"""The truth about the sigmoid of how far an answer is from its reference, for desirable answers and others."""

import math

import numpy as np
import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, log_prob, ref_log_prob, target, kl, beta, desirable_weight, undesirable_weight):
    t = target
    gain = beta * (log_prob - ref_log_prob - kl)
    p, q = m.sigmoid(gain), m.sigmoid(-gain)
    up, down = (1 - t) * undesirable_weight * beta * p * q, -t * desirable_weight * beta * p * q
    return (t * desirable_weight * q, (1 - t) * undesirable_weight * p), {
        "log_prob": (up, down),
        "ref_log_prob": (-up, -down),
        "target": (desirable_weight * q, -undesirable_weight * p),
        "kl": (-up, -down),
    }


def scale(what, operands, given):
    """The gain is rounded before its sigmoid is taken."""
    x, ref, kl, t = (np.float64(operands[name]) for name in ("log_prob", "ref_log_prob", "kl", "target"))
    beta, good, bad = given["beta"], given["desirable_weight"], given["undesirable_weight"]
    with np.errstate(all="ignore"):
        gain = beta * (x - ref - kl)
        size = beta * (np.abs(x - ref) + kl)
        bend = 1 / (1 + np.exp(-gain)) / (1 + np.exp(gain))
        weight = good + bad if what == "target" else t * good + (1 - t) * bad
        found = size * bend * weight * (beta if what in ("log_prob", "ref_log_prob", "kl") else 1.0)
        return np.where(np.isfinite(found), found, 0.0)[()]


def undecided(operands, given, dtype):
    """All but the weights, where the rounding of the gain is as large as itself."""
    x, ref, kl = operands["log_prob"], operands["ref_log_prob"], operands["kl"]
    rounding = 4 * torch.finfo(dtype).eps * max(abs(0.5 * x - 0.5 * ref), 0.5 * kl)
    lost = rounding > 1e-3 and abs((0.5 * x - 0.5 * ref) - 0.5 * kl) < rounding < math.inf
    return ("value", *operands) if lost else ()


def points(given, dtype):
    """Answers that are as likely as their reference."""
    return [torch.tensor([[-3.0, -3.0, 1.0, 0.0], [-3.0, -3.0, 0.0, 0.0]], dtype=torch.float64)]


proof = PointwiseProof(
    name="kto_loss",
    exact=exact,
    variants=[{"beta": 0.5, "desirable_weight": 1.5}, {"undesirable_weight": 3.0}],
    # Two products of a weight, a label and a sigmoid, and their sum.
    bars=Bars(value=2.3, gradient=3.0, eager_value=2.8, eager_gradient=3.3),
    others={"ref_log_prob": [0.0, -1.0, -30.0, -400.0], "target": [1.0, 0.0, 0.25, 0.0], "kl": [0.0, 0.5, 3.0, 0.1]},
    scale=scale,
    undecided=undecided,
    points=points,
    example=Example(
        data="""log_prob = -20 * torch.rand(10)  # log-probabilities of whole answers
ref_log_prob = -20 * torch.rand(10)  # by the reference model
target = torch.randint(0, 2, (10,)).float()  # 1: desirable
kl = torch.tensor([0.5])  # one number for all
beta = 0.1""",
        by_hand="""gain = beta * (log_prob - ref_log_prob - kl)
by_hand = torch.where(target == 1, torch.sigmoid(-gain), torch.sigmoid(gain))""",
        operands="log_prob, ref_log_prob, target, kl",
        arguments="beta=beta, ",
    ),
)
