"""The truth about cross entropy times a power of the missing probability."""

import math

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, WEIGHT, indices, normal

from losses.cross_entropy import scores

ALPHA = torch.linspace(0.75, 0.25, CLASSES, dtype=torch.float64)


def exact(m, input, target, gamma=2, alpha=None, weight=None, ignore_index=-100, label_smoothing=0.0):
    classes = len(input)
    by_class = isinstance(target, int)
    if by_class and target == ignore_index:
        return (m.zero,), {0: [m.zero] * classes}
    right = [m.one if c == target else m.zero for c in range(classes)] if by_class else target
    weight = weight or [m.one] * classes
    weight = [w * a for w, a in zip(weight, alpha)] if alpha else weight
    share = [w * ((1 - label_smoothing) * t + label_smoothing / classes) for w, t in zip(weight, right)]
    p, missing, log_p = m.softmax(input)
    cost = [m.times(missing(c) ** gamma, -log_p(c)) for c in range(classes)]
    # Of a class that misses nothing the quotient of the logarithm by that is 1.
    steep = [
        missing(c) ** gamma * (1 + gamma * m.times(p[c], -log_p(c) / missing(c) if missing(c) else m.one))
        for c in range(classes)
    ]
    pull = [m.times(s, g) if s else m.zero for s, g in zip(share, steep)]
    every = m.sum(pull)
    by_score = [((every - pull[c]) * p[c], -pull[c] * missing(c)) for c in range(classes)]
    value = (m.sum(m.times(s, x) if s else m.zero for s, x in zip(share, cost)),)
    if by_class:
        return value, {0: by_score}
    return value, {0: by_score, 1: [(1 - label_smoothing) * w * x for w, x in zip(weight, cost)]}


def probabilities(n, g):
    """Scores, and a probability for each class."""
    return normal(n, CLASSES, g=g), normal(n, CLASSES, g=g).softmax(1)


def certain(dtype):
    """Right rows, down to the smallest loss that there is."""
    smallest = -math.log(torch.finfo(dtype).smallest_normal) / 3
    margins = torch.linspace(1.0, smallest, 60, dtype=torch.float64)
    x = torch.stack([margins, torch.zeros_like(margins)], 1)
    yield (x, torch.zeros(60, dtype=torch.int64)), {}
    for gamma in (0.0, 0.5):
        yield (
            (torch.tensor([[200.0, 0.0, 0.0]], dtype=torch.float64), torch.zeros(1, dtype=torch.int64)),
            {"gamma": gamma},
        )


proof = RowProof(
    name="softmax_focal_loss",
    exact=exact,
    # The error of the missing probability, times gamma.
    bars=Bars(value=4.6, gradient=4.3, eager_value=3.5, eager_gradient=3.3),
    points={"scores": scores, "certain": certain},
    formula_at={"scores": 9.0, "certain": 5.0},
    variants=[
        Variant("indices", indices),
        Variant("gamma", indices, {"gamma": 0.5}),
        Variant("weight_smoothing", indices, {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2}),
        Variant("alpha", indices, {"alpha": ALPHA}),
        Variant("alpha_weight", indices, {"alpha": ALPHA, "weight": WEIGHT, "label_smoothing": 0.1}),
        Variant("probabilities", probabilities, {"gamma": 3.0}, gradients=(0, 1)),
    ],
    example=Example(
        data="""logits = torch.randn(10, 5)  # (B, C): a score for each of 5 classes
target = torch.randint(0, 5, (10,))
gamma = 2.0""",
        by_hand="""p = logits.softmax(dim=1)[torch.arange(10), target]  # the probability of the right class
by_hand = -((1 - p) ** gamma) * p.log()""",
        operands="logits, target",
        arguments="gamma=gamma, ",
        more="""# With gamma = 0 it is cross entropy.
plain = losskit.SoftmaxFocalLoss(gamma=0)(logits, target)
torch.testing.assert_close(plain, losskit.CrossEntropyLoss()(logits, target))""",
    ),
)
