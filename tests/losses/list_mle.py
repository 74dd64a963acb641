"""The truth about the probability of an order: each item is drawn by a softmax over those that are left."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, normal


def shares(m, v, others, weight=1):
    """Minus the logarithm of the share of v in the exponentials of v and others, as terms, and what the others take.

    weight: of the exponential of v in the sum.
    """
    top = max([v, *others])
    parts = [m.exp(x - top) for x in others]
    own, rest = weight * m.exp(v - top), m.sum(parts)
    total = own + rest
    if weight == 1:
        # The share of the largest is near 1, and the logarithm is that of what the others add.
        term = m.log1p(rest / own) if own else top - v + m.log(total)
        return (term,), rest / total, [x / total for x in parts]
    return (top - v, m.log(total)), 1 - own / total, [x / total for x in parts]


def exact(m, input, target, element_mask=None):
    places = [i for i in range(len(input)) if element_mask is None or element_mask[i]]
    order = sorted(places, key=lambda i: -target[i])
    value, slopes = [m.zero], [[m.zero] for _ in input]
    for k, i in enumerate(order):
        after = order[k + 1 :]
        terms, missing, taken = shares(m, input[i], [input[j] for j in after])
        value += terms
        slopes[i].append(-missing)
        for j, part in zip(after, taken):
            slopes[j].append(part)
    return tuple(value), {0: [(m.sum(x for x in s if x > 0), m.sum(x for x in s if x < 0)) for s in slopes]}


def relevance(n, g):
    """Scores, and relevances of which some are alike."""
    return normal(n, CLASSES, g=g), torch.randint(0, 4, (n, CLASSES), generator=g).double()


def padded(n, g):
    """Lists of 2 to 5 items."""
    lengths = 2 + torch.arange(n) % 4
    return *relevance(n, g), torch.arange(CLASSES).flip(0) < lengths.unsqueeze(1)


def scales(dtype):
    """Scores that differ by every magnitude, in orders that are right and wrong."""
    for scale in (1e-4, 1.0, 30.0, 1e3):
        x = torch.randn(8, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * scale
        yield (x, torch.randn(8, 12, generator=torch.Generator().manual_seed(3), dtype=torch.float64)), {}
        yield (x, x), {}
        yield (x, -x), {}


proof = RowProof(
    name="list_mle_loss",
    exact=exact,
    # In float64 there is nothing wider in which running sums could be taken.
    bars=Bars(value=1.5, gradient=3.0, eager_value=1.4, eager_gradient=5.5),
    points={"scales": scales},
    variants=[Variant("relevance", relevance), Variant("padded", padded)],
    example=Example(
        data="""scores = torch.randn(2, 4)
relevance = torch.tensor([[2, 0, 3, 1], [0, 1, 1, 3]])""",
        by_hand="""rows = []
for x, t in zip(scores, relevance):
    x = x[t.argsort(descending=True, stable=True)]
    rows.append(sum(x[k:].logsumexp(0) - x[k] for k in range(4)))
by_hand = torch.stack(rows)""",
        operands="scores, relevance",
    ),
)
