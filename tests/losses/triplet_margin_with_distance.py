"""The truth about the triplet loss of one's own distance; by default it is the Euclidean one."""

from proofs import Bars, Example, RowProof, Variant
from row_operands import triplets

from losses.triplet_margin import exact as of_norm


def exact(m, anchor, positive, negative, margin=1.0, swap=False):
    return of_norm(m, anchor, positive, negative, margin, swap=swap)


proof = RowProof(
    name="triplet_margin_with_distance_loss",
    exact=exact,
    bars=Bars(value=1.5, gradient=1.7, eager_value=2.0, eager_gradient=3.0),
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
        arguments="distance_function=manhattan, margin=margin, ",
    ),
)
