"""The truth about the absolute percentage error. At a tie its slope is zero."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, eps):
    d, size = input - target, abs(target)
    large = size >= eps
    whole = m.maximum(size, eps)
    by_target = m.where(large, -m.sign(d) * m.sign(target) * m.div(input, whole) / whole, -m.sign(d) / whole)
    return (abs(d) / whole,), {"input": (m.sign(d) / whole,), "target": (by_target,)}


proof = PointwiseProof(
    name="mape_loss",
    exact=exact,
    variants=[{"eps": 0.5}],
    bars=Bars(value=1.4, gradient=1.4, eager_value=1.4, eager_gradient=1.4),
    example=Example(
        data="""output = 100 + 10 * torch.randn(10, 1)
target = 100 + 10 * torch.randn(10, 1)""",
        by_hand="by_hand = (output - target).abs() / target.abs()",
        operands="output, target",
        more="""# Targets of 0 have no percentage: leave them out.
target[0] = 0.0
loss = losskit.MAPELoss()(output, target, mask=target != 0)
torch.testing.assert_close(loss, by_hand[1:].mean())
print("masked", loss)""",
    ),
)
