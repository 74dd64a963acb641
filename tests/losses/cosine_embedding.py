"""The truth about the cosine of pairs that are similar or not. At the margin exactly a pair still pushes."""

import itertools

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import WIDTH, every_scale, normal


def cosine_of(m, x, y):
    """The cosine, and its gradients by both rows."""
    xx, yy = m.sum(a * a for a in x), m.sum(b * b for b in y)
    if xx == 0 or yy == 0:
        return m.zero, [m.zero] * len(x), [m.zero] * len(y)
    root = m.sqrt(xx * yy)
    cosine = m.sum(a * b for a, b in zip(x, y)) / root
    return (
        cosine,
        [b / root - cosine * a / xx for a, b in zip(x, y)],
        [a / root - cosine * b / yy for a, b in zip(x, y)],
    )


def exact(m, input1, input2, target, margin=0.0):
    cosine, *by_rows = cosine_of(m, input1, input2)
    if target == 1:
        value, slope = (1 - cosine,), -1
    else:
        value, slope = ((cosine, -margin), 1) if cosine >= margin else ((m.zero,), 0)
    return value, dict(enumerate([slope * g for g in row] for row in by_rows))


def undecided(m, row, given, dtype):
    """The direction of a gradient that is all but 0, of rows in one line; and whether a cosine at the margin pushes."""
    x, y, target = row
    cosine, eps = cosine_of(m, x, y)[0], torch.finfo(dtype).eps
    in_line = len(x) == 1 or 1 - abs(cosine) <= 1e3 * eps**2
    at_margin = target == -1 and 0 < abs(cosine - given.get("margin", 0)) <= 4 * eps
    return (0, 1) if in_line or at_margin else ()


def pairs(n, g):
    """Embeddings on the left and on the right, and whether they are similar: 1 or -1."""
    target = torch.randint(0, 2, (n,), generator=g) * 2 - 1
    return normal(n, WIDTH, g=g), normal(n, WIDTH, g=g), target.double()


def related(dtype):
    """Unrelated, alike to the last digit, opposite, orthogonal, of mixed magnitudes."""
    eps = torch.finfo(dtype).eps
    for width in (1, 2, 5, 16, 37, 130):
        g = torch.Generator().manual_seed(0)
        x, y = (torch.randn(40, width, generator=g, dtype=torch.float64).to(dtype) for _ in range(2))
        for row, nearness in enumerate((0.5, 0.1, 1e-2, 1e-3, 1e-5, 20 * eps, 2 * eps, 0.0)):
            for k, sign in enumerate((1.0, -1.0, 3.7, -0.01)):
                at = 4 * row + k
                y[at] = sign * (x[at] + nearness * y[at])
        x[32, ::2], y[32, 1::2] = 0.0, 0.0
        x[33] *= torch.logspace(-8, 8, width).clamp(max=torch.finfo(dtype).max / 8).to(dtype)
        for label in (1.0, -1.0):
            yield (x, y, torch.full((40,), label)), {"margin": -1.5}


def scales(dtype):
    """Rows from the smallest numbers to the largest, each with each."""
    for left, right in itertools.product(every_scale(dtype), repeat=2):
        g = torch.Generator().manual_seed(3)
        x, y = (torch.randn(3, 9, generator=g, dtype=torch.float64) * scale for scale in (left, right))
        yield (x, y, torch.ones(3)), {}


proof = RowProof(
    name="cosine_embedding_loss",
    exact=exact,
    # Two sums of squares, a root, a quotient; the gradient is a difference of two of them.
    bars=Bars(value=4.0, gradient=3.5, eager_value=2.2, eager_gradient=3.5),
    points={"related": related, "scales": scales},
    least=2.0**-104,  # parallel rows whose lengths no ratio of doubles expresses
    undecided=undecided,
    variants=[
        Variant("margin", pairs, {"margin": -0.3}, gradients=(0, 1)),
    ],
    example=Example(
        data="""left, right = torch.randn(2, 10, 8)  # 10 pairs of embeddings with 8 numbers
target = torch.randint(0, 2, (10,)) * 2 - 1  # 1: similar; -1: not
margin = 0.2""",
        by_hand="""cosine = (left * right).sum(dim=1) / (left.norm(dim=1) * right.norm(dim=1))
by_hand = torch.where(target == 1, 1 - cosine, (cosine - margin).clamp(min=0))""",
        operands="left, right, target",
        arguments="margin=margin, ",
    ),
)
