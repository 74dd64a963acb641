"""The truth about cross entropy: of scores, and the class or the probabilities that are right."""

import math

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, WEIGHT, indices, normal


def exact(m, input, target, weight=None, ignore_index=-100, label_smoothing=0.0):
    classes = len(input)
    by_class = isinstance(target, int)
    if by_class and target == ignore_index:
        return (m.zero,), {0: [m.zero] * classes}
    right = [m.one if c == target else m.zero for c in range(classes)] if by_class else target
    weight = weight or [m.one] * classes
    share = [w * ((1 - label_smoothing) * t + label_smoothing / classes) for w, t in zip(weight, right)]
    p, missing, log_p = m.softmax(input)
    cost = [m.times(s, -log_p(c)) if s else m.zero for c, s in enumerate(share)]
    all_shares = m.sum(share)
    by_score = [((all_shares - s) * p[c], -s * missing(c) if s else m.zero) for c, s in enumerate(share)]
    if by_class:
        return (m.sum(cost),), {0: by_score}
    return (m.sum(cost),), {0: by_score, 1: [-(1 - label_smoothing) * w * log_p(c) for c, w in enumerate(weight)]}


def probabilities(n, g):
    """Scores, and a probability for each class."""
    return normal(n, CLASSES, g=g), normal(n, CLASSES, g=g).softmax(1)


def scores(dtype):
    """Ordinary, large, tied, far apart and masked scores, in several widths; the first class or a middle one is right."""
    generator = torch.Generator().manual_seed(7)
    top = 1e4 if dtype != torch.float16 else 1e3
    for classes in (2, 3, 5, 12, 16, 19, 40, 130):
        made = [
            torch.randn(3, classes, generator=generator, dtype=torch.float64) * scale
            for scale in (1e-3, 1.0, 5.0, 20.0, 80.0, top)
        ]
        margins = torch.zeros(8, classes, dtype=torch.float64)
        margins[:, 0] = torch.tensor([8.0, 17.0, 30.0, 60.0, 88.0, 95.0, 103.0, 700.0], dtype=torch.float64)
        masked = torch.randn(3, classes, generator=generator, dtype=torch.float64)
        masked[:, 1::2] = -math.inf
        for x in (*made, torch.zeros(2, classes, dtype=torch.float64), margins, margins + 1000.0, masked):
            for right in (0, classes // 2):
                yield (x, torch.full((len(x),), right)), {}


def certain(dtype):
    """Right rows, down to the smallest loss that there is: they keep learning."""
    smallest = -math.log(torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps)
    margins = torch.linspace(1.0, smallest - 0.5, 60, dtype=torch.float64)
    x = torch.stack([margins, torch.zeros_like(margins)], 1)
    yield (x, torch.zeros(60, dtype=torch.int64)), {}
    yield (x, torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(60, 2)), {}


proof = RowProof(
    name="cross_entropy",
    exact=exact,
    bars=Bars(value=2.0, gradient=3.2, eager_value=1.8, eager_gradient=3.1),
    each=3.5,
    points={"scores": scores, "certain": certain},
    # Sums of more than a hundred exponentials that are subnormal, each of them rounded.
    formula_at={"scores": 64.0, "certain": 1.5},
    variants=[
        Variant("indices", indices),
        Variant("smoothing", indices, {"label_smoothing": 0.2}),
        Variant("weight", indices, {"weight": WEIGHT, "ignore_index": 1}),
        Variant("weight_smoothing", indices, {"weight": WEIGHT, "label_smoothing": 0.2}),
        Variant("probabilities", probabilities, gradients=(0, 1)),
        Variant("probabilities_weight", probabilities, {"weight": WEIGHT, "label_smoothing": 0.1}, gradients=(0, 1)),
    ],
    example=Example(
        data="""logits = torch.randn(10, 5)  # (B, C): a score for each of 5 classes
target = torch.randint(0, 5, (10,))""",
        by_hand="""log_p = logits - logits.exp().sum(dim=1, keepdim=True).log()  # log-softmax
by_hand = -log_p[torch.arange(10), target]  # the log-probability of the right class""",
        operands="logits, target",
        more="""# Soft targets: a probability for each class.
soft = torch.randn(10, 5).softmax(dim=1)
loss = losskit.CrossEntropyLoss()(logits, soft)
torch.testing.assert_close(loss, -(soft * log_p).sum(dim=1).mean())
print("soft targets", loss)

# It is the log-softmax followed by NLLLoss.
torch.testing.assert_close(losskit.NLLLoss()(log_p, target), by_hand.mean())""",
    ),
)
