"""The truth about the absolute error with a parabola near zero."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, beta):
    d = input - target
    inside = abs(d) < beta
    width = beta if beta != 0 else 1  # nothing is inside then
    value = m.where(inside, d * d / (2 * width), abs(d) - beta / 2)
    slope = m.where(inside, d / width, m.sign(d))
    return (value,), {"input": (slope,), "target": (-slope,)}


proof = PointwiseProof(
    name="smooth_l1_loss",
    exact=exact,
    variants=[{"beta": 0.5}, {"beta": 0.0}],
    bars=Bars(value=1.7, gradient=0.5, eager_value=1.7, eager_gradient=0.5),
    example=Example(
        data="""output = torch.randn(10, 3, 5, 7)
target = torch.randn(10, 3, 5, 7)
beta = 0.5""",
        by_hand="""d = (output - target).abs()
by_hand = torch.where(d < beta, 0.5 * d**2 / beta, d - 0.5 * beta)""",
        operands="output, target",
        arguments="beta=beta, ",
    ),
)
