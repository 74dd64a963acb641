"""The truth about the pinball loss. At a tie its slope is zero."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target, quantile):
    d = input - target
    slope = m.where(d > 0, 1 - quantile, m.where(d < 0, -quantile, 0 * d))
    return (slope * d,), {"input": (slope,), "target": (-slope,)}


proof = PointwiseProof(
    name="pinball_loss",
    exact=exact,
    variants=[{"quantile": 0.875}, {"quantile": 0.25}],
    bars=Bars(value=1.4, gradient=0.0, eager_value=1.4, eager_gradient=0.0),
    example=Example(
        data="""output = torch.randn(10, 1)
target = torch.randn(10, 1)
quantile = 0.9""",
        by_hand="""d = target - output
by_hand = torch.maximum(quantile * d, (quantile - 1) * d)""",
        operands="output, target",
        arguments="quantile=quantile, ",
        more="""# The constant with the smallest mean loss is the quantile of the targets.
targets = torch.arange(1.0, 101.0)
guesses = torch.arange(1.0, 101.0)
criterion = losskit.PinballLoss(0.895)
losses = torch.stack([criterion(guess.expand(100), targets) for guess in guesses])
assert guesses[losses.argmin()] == 90
print("the best constant", guesses[losses.argmin()])""",
    ),
)
