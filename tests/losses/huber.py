"""The truth about Huber's loss: a parabola near zero, lines outside."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, delta):
    d = input - target
    inside = abs(d) < delta
    value = m.where(inside, d * d / 2, delta * (abs(d) - delta / 2))
    slope = m.where(inside, d, delta * m.sign(d))
    return (value,), {"input": (slope,), "target": (-slope,)}


proof = PointwiseProof(
    name="huber_loss",
    exact=exact,
    variants=[{"delta": 0.5}, {"delta": 2.0}],
    bars=Bars(value=2.0, gradient=0.5, eager_value=2.0, eager_gradient=0.5),
    example=Example(
        data="""output = torch.randn(10, 1)
target = torch.randn(10, 1)
delta = 0.5""",
        by_hand="""d = (output - target).abs()
by_hand = torch.where(d < delta, 0.5 * d**2, delta * (d - 0.5 * delta))""",
        operands="output, target",
        arguments="delta=delta, ",
        more="""# It is delta times SmoothL1Loss with beta = delta, so with delta = 1 the two are equal.
huber = losskit.HuberLoss(delta=delta)(output, target)
smooth = losskit.SmoothL1Loss(beta=delta)(output, target)
torch.testing.assert_close(huber, delta * smooth)
print("Huber", huber, "= delta * smooth L1", delta * smooth)

huber = losskit.HuberLoss()(output, target)
smooth = losskit.SmoothL1Loss()(output, target)
torch.testing.assert_close(huber, smooth)
print("with delta = beta = 1:", huber, smooth)""",
    ),
)
