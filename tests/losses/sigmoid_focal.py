"""The truth about the focal loss of labels 0 and 1: cross entropy, times a power of what the probability misses."""

import math

import numpy as np
import torch
from mpmath import mpf
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, alpha, gamma):
    x, t = input, target
    p, q = m.sigmoid(x), m.sigmoid(-x)
    missed = t * q + (1 - t) * p
    focus = missed**gamma
    entropy = m.times(t, m.softplus(-x)) + m.times(1 - t, m.softplus(x))
    weight = 1 + 0 * t if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    by_weight = 0 if alpha is None else 2 * alpha - 1
    hard = (t == 0) | (t == 1)
    ratio = m.where(hard, m.where(t == 1, p, q), m.div(p * q, m.where(missed == 0, 1 + 0 * t, missed)))
    scale = weight * focus
    # The cross entropy over what is missed: 1 where nothing is.
    cost = m.where(missed == 0, 1 + 0 * t, m.div(entropy, m.where(missed == 0, 1 + 0 * t, missed)))
    return (m.times(scale, entropy),), {
        "input": (
            scale * (1 - t) * p,
            -scale * t * q,
            m.times(scale * gamma * (1 - 2 * t), m.times(ratio, entropy)),
        ),
        "target": (
            m.times(by_weight * focus, entropy),
            m.times(scale * gamma * q, cost),
            -m.times(scale * gamma * p, cost),
            -m.times(scale, x),
        ),
    }


def scale(what, operands, given):
    """A logarithm is rounded before its multiple by gamma is an exponent, and so is what a probability as label misses."""
    x, t, alpha, gamma = np.float64(operands["input"]), operands["target"], given["alpha"], given["gamma"]
    with np.errstate(all="ignore"):
        p, q = 1 / (1 + np.exp(-x)), 1 / (1 + np.exp(x))
        missed = t * q + (1 - t) * p
        soft = (t != 0) & (t != 1)
        entropy = t * np.logaddexp(0.0, -x) + (1 - t) * np.logaddexp(0.0, x)
        weight = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
        lost = missed**gamma * (gamma * np.where(soft, 1 - np.log(missed), np.log1p(np.exp(-np.abs(x)))))
        size = {
            "value": weight * lost * entropy,
            "input": weight * lost * (1 + gamma * np.nan_to_num(p * q / missed * entropy)),
            "target": weight * (lost * gamma * entropy / missed + lost * np.abs(x)) + lost * entropy,
        }[what]
        return np.nan_to_num(size, posinf=0.0)[()]


def subnormal_factor(what, operands):
    """The score and gamma, by which the power is multiplied."""
    return min(1.0 + 5.0 * abs(operands["input"]), 1e308)


def undecided(operands, given, dtype):
    """Two things at labels that are probabilities.

    1. An infinitely wrong score whose power rounds to 0 costs 0 or inf.
    2. A missing probability that is subnormal has few digits, and so has a power of it.
    """
    x, t = operands["input"], operands["target"]
    if t in (0.0, 1.0):
        return ()
    smallest, wrong = torch.finfo(dtype).smallest_normal, 1 - t if x > 0 else t
    endless = math.isinf(x) and mpf(wrong) ** max(given["gamma"], 1.0) < smallest
    few = given["gamma"] > 0 and wrong + math.exp(-abs(x)) < smallest
    return ("value", "input", "target") if endless or few else ()


def points(given, dtype):
    """The score at which the default settings are steepest, for a negative label."""
    return [torch.tensor([[2.7903774805517591944, 0.0]], dtype=torch.float64)]


proof = PointwiseProof(
    name="sigmoid_focal_loss",
    exact=exact,
    variants=[{"gamma": 0.5, "alpha": None}, {"gamma": 3.0, "alpha": 0.7}, {"gamma": 0.0}],
    # The product of a weight, a power and a sum, each good to 1 ULP, where the label is a probability.
    bars=Bars(value=3.8, gradient=3.2, eager_value=3.8, eager_gradient=3.8),
    others={"target": [0.0, 1.0, 0.5, 0.1]},
    scale=scale,
    subnormal_factor=subnormal_factor,
    undecided=undecided,
    points=points,
    example=Example(
        data="""logits = torch.randn(10, 1)
target = torch.randint(0, 2, (10, 1)).float()
alpha, gamma = 0.25, 2.0""",
        by_hand="""p = logits.sigmoid()
entropy = -(target * p.log() + (1 - target) * (1 - p).log())
missed = target * (1 - p) + (1 - target) * p
weight = target * alpha + (1 - target) * (1 - alpha)
by_hand = weight * missed**gamma * entropy""",
        operands="logits, target",
        arguments="alpha=alpha, gamma=gamma, ",
        more="""# Detectors divide by the number of positive labels.
positives = target.sum().clamp(min=1)
loss = losskit.SigmoidFocalLoss()(logits, target, normalizer=positives)
torch.testing.assert_close(loss, by_hand.sum() / positives)
print("over positives", loss)

# Without alpha and gamma it is binary cross entropy.
plain = losskit.SigmoidFocalLoss(alpha=None, gamma=0)(logits, target)
torch.testing.assert_close(plain, entropy.mean())""",
    ),
)
