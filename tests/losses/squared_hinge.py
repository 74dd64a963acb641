"""The truth about the square of the hinge."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target):
    short = m.maximum(1 - target * input, 0 * target)
    by_target = m.where(short == 0, 0 * target, -2 * input * short)
    return (short * short,), {"input": (-2 * target * short,), "target": (by_target,)}


proof = PointwiseProof(
    name="squared_hinge_loss",
    exact=exact,
    bars=Bars(value=1.9, gradient=1.4, eager_value=1.9, eager_gradient=1.4),
    example=Example(
        data="""scores = torch.randn(10, 1)
target = torch.randint(0, 2, (10, 1)) * 2.0 - 1.0  # labels -1 and 1""",
        by_hand="by_hand = (1 - target * scores).clamp(min=0) ** 2",
        operands="scores, target",
    ),
)
