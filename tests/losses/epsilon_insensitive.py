"""The truth about the epsilon-insensitive loss. A residual exactly at epsilon costs nothing and has no slope."""

from mpmath import mpf
from proofs import Bars, Example, PointwiseProof
from reference import ulp


def exact(m, input, target, epsilon):
    d = input - target
    active, idle = abs(d) > epsilon, m.where(d == d, 0 * epsilon, d)
    value = (m.where(active, abs(d), idle), m.where(active, -epsilon + 0 * target, idle))
    slope = m.where(active, m.sign(d), idle)
    return value, {"input": (slope,), "target": (-slope,)}


def undecided(operands, given, dtype):
    """The rounded residual may be on the other side of epsilon."""
    size = abs(mpf(operands["input"]) - mpf(operands["target"]))
    over = size - given["epsilon"]
    near = over != 0 and abs(over) <= ulp(max(size, given["epsilon"]), dtype)
    return ("input", "target") if near else ()


proof = PointwiseProof(
    name="epsilon_insensitive_loss",
    exact=exact,
    variants=[{"epsilon": 0.5}, {"epsilon": 0.0}],
    bars=Bars(value=1.0, gradient=0.0, eager_value=1.0, eager_gradient=0.0),
    undecided=undecided,
    example=Example(
        data="""output = torch.randn(10, 1)
target = torch.randn(10, 1)
epsilon = 0.2""",
        by_hand="by_hand = ((output - target).abs() - epsilon).clamp(min=0)",
        operands="output, target",
        arguments="epsilon=epsilon, ",
        more="""# Without a tolerance it is the absolute error.
plain = losskit.EpsilonInsensitiveLoss(0.0)(output, target)
torch.testing.assert_close(plain, losskit.L1Loss()(output, target))""",
    ),
)
