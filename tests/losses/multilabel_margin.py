"""Calls of a hinge on margins of right classes, and the loss by hand. Its truth is in tests/test_margins.py."""

import torch
from proofs import Example, RowProof, Variant
from row_operands import CLASSES, labels, normal


def label_lists(n, g):
    """Scores, and lists of classes that end with -1, of different lengths."""
    target = torch.stack([torch.randperm(CLASSES, generator=g) for _ in range(n)]) if n else labels(0, CLASSES, g=g)
    for row in range(n):
        target[row, 1 + row % (CLASSES - 1)] = -1
    return normal(n, CLASSES, g=g), target


proof = RowProof(
    name="multilabel_margin_loss",
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
