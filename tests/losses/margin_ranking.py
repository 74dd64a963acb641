"""The truth about a hinge on the difference of two scores. A difference exactly at the margin is active."""

from mpmath import mpf
from proofs import Bars, Example, PointwiseProof
from reference import ulp


def exact(m, input1, input2, target, margin):
    d = input1 - input2
    excess = margin - target * d
    active, idle = excess >= 0, 0 * excess  # a NaN where both scores are infinite
    idle = m.where(excess == -m.inf, 0 * target, idle)
    value = (m.where(active, margin + 0 * target, idle), m.where(active, -target * d, idle))
    slope = m.where(active, -target, idle)
    return value, {"input1": (slope,), "input2": (-slope,), "target": (m.where(active, -d, idle),)}


def undecided(operands, given, dtype):
    """The rounded difference of the scores may be on the other side of the margin."""
    if given["margin"] == 0.0:
        return ()
    d = mpf(operands["input1"]) - mpf(operands["input2"])
    excess = given["margin"] - operands["target"] * d
    near = excess != 0 and abs(excess) <= ulp(max(abs(d), given["margin"]), dtype)
    return ("input1", "input2", "target") if near else ()


proof = PointwiseProof(
    name="margin_ranking_loss",
    exact=exact,
    variants=[{"margin": 0.7}],
    bars=Bars(value=1.0, gradient=0.5, eager_value=1.0, eager_gradient=0.5),
    others={"input2": [0.0, 1.0, -3.0, 0.1], "target": [1.0, -1.0, 1.0, -1.0]},
    undecided=undecided,
    example=Example(
        data="""first, second = torch.randn(2, 10, 1)
order = torch.randint(0, 2, (10, 1)) * 2.0 - 1.0  # 1: the first is to rank higher
margin = 0.5""",
        by_hand="by_hand = (-order * (first - second) + margin).clamp(min=0)",
        operands="first, second, order",
        arguments="margin=margin, ",
    ),
)
