"""Calls of the triplet loss of one's own distance, and the loss by hand. Its truth is in tests/test_embeddings.py."""

from proofs import Example, RowProof, Variant
from row_operands import triplets

proof = RowProof(
    name="triplet_margin_with_distance_loss",
    variants=[
        Variant("swap", triplets, {"margin": 2.0, "swap": True}, gradients=(0, 1, 2)),
    ],
    example=Example(
        data="""anchor, positive, negative = torch.randn(3, 10, 8)  # 10 triplets, 8 numbers each
margin = 1.0


def manhattan(x, y):
    return (x - y).abs().sum(dim=-1)

""",
        by_hand="""near, far = manhattan(anchor, positive), manhattan(anchor, negative)
by_hand = (near - far + margin).clamp(min=0)""",
        operands="anchor, positive, negative",
        arguments="\n        distance_function=manhattan, margin=margin, ",
    ),
)
