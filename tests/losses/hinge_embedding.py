"""The truth about a hinge on distances. A distance exactly at the margin is active."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, margin):
    similar = target == 1
    value = m.where(similar, input, m.maximum(margin - input, 0 * target))
    slope = m.where(similar, 1, m.where(input <= margin, -1, 0))
    return (value,), {"input": (m.where(input == input, slope, input) + 0 * target,), "target": (0 * target,)}


proof = PointwiseProof(
    name="hinge_embedding_loss",
    exact=exact,
    variants=[{"margin": 0.3}],
    bars=Bars(value=0.5, gradient=0.0, eager_value=0.5, eager_gradient=0.0),
    example=Example(
        data="""left, right = torch.randn(2, 10, 8)
distance = (left - right).abs().mean(dim=1)
target = torch.randint(0, 2, (10,)) * 2.0 - 1.0  # 1: similar; -1: not
margin = 1.5""",
        by_hand="by_hand = torch.where(target == 1, distance, (margin - distance).clamp(min=0))",
        operands="distance, target",
        arguments="margin=margin, ",
    ),
)
