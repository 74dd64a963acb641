"""The truth about the squared epsilon-insensitive loss."""

from proofs import Bars, Example, PointwiseProof
from reference import Wide


def exact(m, input, target, epsilon):
    d = input - target
    over = m.maximum(abs(d) - epsilon, 0 * epsilon)
    slope = 2 * m.times(m.sign(d), over)
    return (over * over,), {"input": (slope,), "target": (-slope,)}


def scale(what, operands, given):
    """The rounded residual less epsilon: a rounding of |d|, and in its square 2 (|d| - epsilon) times that.

    Where the excess itself is below a rounding of float32, that rounding stands for it.
    """
    d = abs(operands["input"] - operands["target"])
    over = Wide.maximum(d - given["epsilon"], d * 2.0**-23)
    return 2.0 * d * (over if what == "value" else 1.0)


proof = PointwiseProof(
    name="squared_epsilon_insensitive_loss",
    exact=exact,
    variants=[{"epsilon": 0.5}, {"epsilon": 0.0}],
    bars=Bars(value=1.5, gradient=1.0, eager_value=1.5, eager_gradient=1.0),
    scale=scale,
    example=Example(
        data="""output = torch.randn(10, 1)
target = torch.randn(10, 1)
epsilon = 0.2""",
        by_hand="by_hand = ((output - target).abs() - epsilon).clamp(min=0) ** 2",
        operands="output, target",
        arguments="epsilon=epsilon, ",
        more="""# Without a tolerance it is the squared error.
squared = losskit.SquaredEpsilonInsensitiveLoss(0.0)(output, target)
torch.testing.assert_close(squared, losskit.MSELoss()(output, target))""",
    ),
)
