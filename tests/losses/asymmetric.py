"""The truth about the asymmetric loss: cross entropy with a power for positive labels, another for negative ones."""

import numpy as np
import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, gamma_neg, gamma_pos, clip):
    x, t = input, target
    p, q = m.sigmoid(x), m.sigmoid(-x)
    positive, focus_pos = m.softplus(-x), q**gamma_pos
    counts = p > clip
    over = m.where(counts, p - clip, 1 + 0 * p)
    negative = m.where(counts, m.softplus(x) if clip == 0 else -m.log(q + clip), 0 * p)
    focus_neg = m.where(counts, over**gamma_neg, 0 * p)
    ratio, left = (1, 1) if clip == 0 else (p / over, q / (q + clip))
    return (m.times(t * focus_pos, positive), m.times((1 - t) * focus_neg, negative)), {
        "input": (
            -t * focus_pos * (q + gamma_pos * m.times(p, positive)),
            (1 - t) * focus_neg * (gamma_neg * ratio * m.times(q, negative) + p * left),
        ),
        "target": (m.times(focus_pos, positive), -m.times(focus_neg, negative)),
    }


def scale(what, operands, given):
    """With clip, two things are rounded before a power is taken.

    1. The probability, from which clip is taken: near clip little is left of it.
    2. The logarithm of what is left, whose multiple is an exponent.
    """
    x, t, gamma, clip = np.float64(operands["input"]), operands["target"], given["gamma_neg"], given["clip"]
    with np.errstate(all="ignore"):
        p = 1 / (1 + np.exp(-x))
        over = np.where(p > clip, p - clip, 1.0)
        lost = np.where((p > clip) & (clip > 0), over**gamma * (p / over - np.log(over)), 0.0)
        share = 1.0 if what == "target" else 1 - t
        negative = -np.log1p(-np.where(p > clip, over, 0.0))
        slope = gamma * p / over * negative + p
        return share * np.nan_to_num(lost * gamma * (slope if what == "input" else negative), posinf=0.0)[()]


def points(given, dtype):
    """The score at which the default settings are steepest, for a positive label."""
    return [torch.tensor([[-3.0977010625771394829, 1.0]], dtype=torch.float64)]


proof = PointwiseProof(
    name="asymmetric_loss",
    exact=exact,
    variants=[{"clip": 0.0}, {"gamma_neg": 2.0, "gamma_pos": 0.0, "clip": 0.2}, {"gamma_neg": 1.0, "gamma_pos": 0.5}],
    # The sum of two products of a label, a power and a logarithm.
    bars=Bars(value=3.0, gradient=3.6, eager_value=3.5, eager_gradient=3.8),
    others={"target": [0.0, 1.0, 0.5, 0.1]},
    scale=scale,
    points=points,
    example=Example(
        data="""logits = torch.randn(10, 5)  # 5 labels, each may apply
target = torch.randint(0, 2, (10, 5)).float()
gamma_neg, gamma_pos, clip = 4.0, 1.0, 0.05""",
        by_hand="""p = logits.sigmoid()
over = (p - clip).clamp(min=0)
positive = -((1 - p) ** gamma_pos) * p.log()
negative = -(over**gamma_neg) * (1 - over).log()
by_hand = target * positive + (1 - target) * negative""",
        operands="logits, target",
        arguments="gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip, ",
        more="""# Without powers and clip it is binary cross entropy.
plain = losskit.AsymmetricLoss(gamma_neg=0, gamma_pos=0, clip=0)(logits, target)
torch.testing.assert_close(plain, losskit.BCEWithLogitsLoss()(logits, target))""",
    ),
)
