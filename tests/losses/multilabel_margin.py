"""The truth about a hinge on the margins of all right classes, a list that ends with -1, to the others."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, labels, normal

from losses.multi_margin import of_classes


def exact(m, input, target):
    return of_classes(m, input, target[: target.index(-1)] if -1 in target else target)


def label_lists(n, g):
    """Scores, and lists of classes that end with -1, of different lengths."""
    target = torch.stack([torch.randperm(CLASSES, generator=g) for _ in range(n)]) if n else labels(0, CLASSES, g=g)
    for row in range(n):
        target[row, 1 + row % (CLASSES - 1)] = -1
    return normal(n, CLASSES, g=g), target


def long_lists(dtype):
    """Lists of up to 5 and up to 20 classes of 30, the same class more than once."""
    g = torch.Generator().manual_seed(4)
    for longest in (5, 20):
        target = torch.randint(0, 30, (24, 30), generator=g)
        for row in range(24):
            target[row, row % (longest + 1) :] = -1
        yield (torch.randn(24, 30, generator=g, dtype=torch.float64), target), {}


proof = RowProof(
    name="multilabel_margin_loss",
    exact=exact,
    bars=Bars(value=1.5, gradient=0.5, eager_value=1.5, eager_gradient=0.5),
    points={"long lists": long_lists},
    formula_at={"long lists": 3.0},
    variants=[
        Variant("lists", label_lists),
    ],
    example=Example(
        data="""scores = torch.randn(3, 4)
# The classes of each row, then -1.
target = torch.tensor([[3, 0, -1, -1], [1, -1, -1, -1], [2, 1, 0, -1]])""",
        by_hand="""rows = []
for x, labels in zip(scores, target.tolist()):
    right = labels[: labels.index(-1)]
    wrong = [c for c in range(4) if c not in right]
    rows.append(sum((1 - (x[j] - x[i])).clamp(min=0) for j in right for i in wrong) / 4)
by_hand = torch.stack(rows)""",
        operands="scores, target",
    ),
)
