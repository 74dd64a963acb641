"""The truth about a tempered softmax, whose normalisation is found by bisection and Newton's steps, and its divergence."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import indices


def probabilities(m, input, t2):
    """exp_t2 of scores, less what makes them add up to 1."""
    if t2 == 1:
        return m.softmax(input)[0]
    top = max(input)
    each = lambda shift: [(1 + (t2 - 1) * (shift - x + top)) ** (1 / (1 - t2)) for x in input]
    low, high = m.zero, (m.one * len(input)) ** (t2 - 1) / (t2 - 1)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if m.sum(each(middle)) > 1 else (low, middle)
    for _ in range(6):
        p = each(low)
        low += (m.sum(p) - 1) / m.sum(x**t2 for x in p)
    return each(low)


def exact(m, input, target, t1=0.8, t2=1.2):
    t1, t2 = m.one * t1, m.one * t2
    p = probabilities(m, input, t2)
    own = p[target]
    logarithm = m.log(own) if t1 == 1 else (own ** (1 - t1) - 1) / (1 - t1)
    value = -logarithm, -1 / (2 - t1), m.sum(x ** (2 - t1) for x in p) / (2 - t1)
    v = [x ** (t2 - t1) * (x - (1 if c == target else 0)) for c, x in enumerate(p)]
    total, escort = m.sum(v), m.sum(x**t2 for x in p)
    return value, {0: [(y, -(x**t2) / escort * total) for x, y in zip(p, v, strict=True)]}


def scales(dtype):
    """Scores of ordinary sizes, all temperatures."""
    for scale in (1e-3, 1.0, 10.0, 30.0):
        x = torch.randn(12, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * scale
        for t1, t2 in ((0.8, 1.2), (0.25, 4.0), (1.0, 1.5), (0.5, 1.0)):
            yield (x, torch.arange(12) % 5), {"t1": t1, "t2": t2}


proof = RowProof(
    name="bi_tempered_logistic_loss",
    exact=exact,
    # The difference of what the label and the others pull, in rows that are nearly certain.
    bars=Bars(value=2.4, gradient=7.9, eager_value=2.4, eager_gradient=5.3),
    points={"scales": scales},
    formula_at={"scales": 11.0},
    variants=[
        Variant("usual", indices),
        Variant("heavy", indices, {"t1": 0.25, "t2": 3.0}),
        Variant("softmax", indices, {"t1": 0.5, "t2": 1.0}),
    ],
    example=Example(
        data="""scores = torch.randn(10, 5)
target = torch.randint(0, 5, (10,))
t1, t2 = 0.8, 1.2""",
        by_hand="""shift = scores.max(1, keepdim=True).values
for _ in range(30):
    p = (1 + (1 - t2) * (scores - shift)).clamp(min=0) ** (1 / (1 - t2))
    shift = shift + (p.sum(1, keepdim=True) - 1) / (p**t2).sum(1, keepdim=True)
own = p.gather(1, target.unsqueeze(1)).squeeze(1)
by_hand = (1 - own ** (1 - t1)) / (1 - t1) - (1 - (p ** (2 - t1)).sum(1)) / (2 - t1)""",
        operands="scores, target",
        arguments="t1, t2, ",
    ),
)
