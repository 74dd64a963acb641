"""The truth about asymmetric least squares."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, expectile):
    d = input - target
    weight = m.where(d > 0, 1 - expectile, expectile)
    return (weight * d * d,), {"input": (2 * weight * d,), "target": (-2 * weight * d,)}


proof = PointwiseProof(
    name="expectile_loss",
    exact=exact,
    variants=[{"expectile": 0.875}, {"expectile": 0.25}],
    # A rounded difference, squared, and two more factors.
    bars=Bars(value=2.8, gradient=1.4, eager_value=2.8, eager_gradient=1.4),
    example=Example(
        data="""output = torch.randn(10, 1)
target = torch.randn(10, 1)
expectile = 0.7""",
        by_hand="""d = output - target
by_hand = torch.where(d > 0, 1 - expectile, expectile) * d**2""",
        operands="output, target",
        arguments="expectile=expectile, ",
        more="""# With 0.5 it is half the squared error.
half = losskit.ExpectileLoss()(output, target)
torch.testing.assert_close(half, 0.5 * losskit.MSELoss()(output, target))
print("0.5", half)""",
    ),
)
