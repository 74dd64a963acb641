"""The truth about the absolute error. At zero its slope is zero."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target):
    d = input - target
    return (abs(d),), {"input": (m.sign(d),), "target": (-m.sign(d),)}


proof = PointwiseProof(
    name="l1_loss",
    exact=exact,
    bars=Bars(value=0.5, gradient=0.0, eager_value=0.5, eager_gradient=0.0),
    example=Example(
        data="""output = torch.randn(10, 3, 5, 7)
target = torch.randn(10, 3, 5, 7)""",
        by_hand="by_hand = (output - target).abs()",
        operands="output, target",
    ),
)
