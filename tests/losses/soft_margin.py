"""The truth about the logistic loss of labels -1 and 1."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target):
    wrong = -target * input
    slope = m.sigmoid(wrong)
    return (m.softplus(wrong),), {"input": (-target * slope,), "target": (-m.times(input, slope),)}


def subnormal_factor(what, operands):
    """The score, in the derivative by its label."""
    return abs(operands["input"]) if what == "target" else 0.0


proof = PointwiseProof(
    name="soft_margin_loss",
    exact=exact,
    bars=Bars(value=1.5, gradient=2.0, eager_value=1.5, eager_gradient=2.5),
    subnormal_factor=subnormal_factor,
    example=Example(
        data="""output = torch.randn(10, 1)
target = torch.randint(0, 2, (10, 1)) * 2.0 - 1.0  # -1 or 1""",
        by_hand="by_hand = torch.log(1 + torch.exp(-target * output))",
        operands="output, target",
    ),
)
