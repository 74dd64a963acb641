"""Calls of a loss of the cosine of pairs, and the loss by hand. Its truth is in tests/test_embeddings.py."""

import torch
from proofs import Example, RowProof, Variant
from row_operands import WIDTH, normal


def pairs(n, g):
    """Embeddings on the left and on the right, and whether they are similar: 1 or -1."""
    target = torch.randint(0, 2, (n,), generator=g) * 2 - 1
    return normal(n, WIDTH, g=g), normal(n, WIDTH, g=g), target.double()


proof = RowProof(
    name="cosine_embedding_loss",
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
