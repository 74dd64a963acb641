"""The truth about the squared error."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target):
    d = input - target
    return (d * d,), {"input": (2 * d,), "target": (-2 * d,)}


proof = PointwiseProof(
    name="mse_loss",
    exact=exact,
    bars=Bars(value=2.0, gradient=0.5, eager_value=2.0, eager_gradient=0.5),
    example=Example(
        data="""output = torch.randn(10, 3, 5, 7)
target = torch.randn(10, 3, 5, 7)""",
        by_hand="by_hand = (output - target) ** 2",
        operands="output, target",
    ),
)
