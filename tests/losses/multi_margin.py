"""Calls of a hinge on margins to other classes, and the loss by hand. Its truth is in tests/test_margins.py."""

from proofs import Example, RowProof, Variant
from row_operands import WEIGHT, indices

proof = RowProof(
    name="multi_margin_loss",
    variants=[
        Variant("p1", indices),
        Variant("p2_weight", indices, {"p": 2, "margin": 0.7, "weight": WEIGHT}),
    ],
    example=Example(
        data="""scores = torch.randn(10, 5)
target = torch.randint(0, 5, (10,))
p, margin = 2, 1.0""",
        by_hand="""difference = scores[torch.arange(10), target].unsqueeze(1) - scores
hinge = (margin - difference).clamp(min=0) ** p
hinge[torch.arange(10), target] = 0.0  # the right class has no margin to itself
by_hand = hinge.sum(dim=1) / 5""",
        operands="scores, target",
        arguments="p=p, margin=margin, ",
    ),
)
