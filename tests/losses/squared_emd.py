"""The truth about the squared distance of cumulative probabilities."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, indices, normal


def exact(m, input, target):
    p, _, _ = m.softmax(input)
    n = len(input)
    below, above = [m.sum(p[: k + 1]) for k in range(n)], [m.sum(p[k + 1 :]) for k in range(n)]
    # Running sums in two parts that may cancel, where the target is probabilities.
    if isinstance(target, list):
        parts = [(below[k], -m.sum(target[: k + 1])) for k in range(n)]
    else:
        parts = [(below[k], 0) if k < target else (0, -above[k]) for k in range(n)]
    value = zip(*((a * a, 2 * a * b, b * b) for a, b in parts))
    gradient = []
    for c in range(n):
        gained = [2 * p[c] * m.sum(parts[k][i] * above[k] for k in range(c, n)) for i in (0, 1)]
        lost = [-2 * p[c] * m.sum(parts[k][i] * below[k] for k in range(c)) for i in (0, 1)]
        gradient.append((*gained, *lost))
    return tuple(map(m.sum, value)), {0: gradient}


def distributions(n, g):
    """Scores, and probabilities of the classes."""
    return normal(n, CLASSES, g=g), normal(n, CLASSES, g=g).softmax(-1)


def scales(dtype):
    """Scores of which a class is right or wrong by every magnitude."""
    for scale in (1e-3, 1.0, 8.0, 20.0, 1e3):
        x = torch.randn(10, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * scale
        yield (x, torch.arange(10) % 9), {}
        yield (x, x.argmax(-1)), {}


proof = RowProof(
    name="squared_emd_loss",
    exact=exact,
    # In float64 there is nothing wider in which running sums could be taken.
    bars=Bars(value=4.8, gradient=5.0, eager_value=1.9, eager_gradient=6.0),
    points={"scales": scales},
    variants=[Variant("indices", indices), Variant("probabilities", distributions)],
    example=Example(
        data="""scores = torch.randn(3, 5)
grades = torch.tensor([4, 0, 2])""",
        by_hand="""p = scores.softmax(dim=1)
certain = torch.nn.functional.one_hot(grades, 5)
by_hand = ((p - certain).cumsum(dim=1) ** 2).sum(dim=1)""",
        operands="scores, grades",
    ),
)
