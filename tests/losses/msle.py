"""The truth about the squared difference of logarithms."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target):
    d = m.log1p(input) - m.log1p(target)
    return (d * d,), {"input": (2 * d / (1 + input),), "target": (-2 * d / (1 + target),)}


proof = PointwiseProof(
    name="msle_loss",
    exact=exact,
    # A quotient of two rounded sums, in a logarithm, squared.
    bars=Bars(value=3.5, gradient=3.2, eager_value=3.8, eager_gradient=3.2),
    others={"target": [0.0, 1.0, -0.5, 1000.0]},
    example=Example(
        data="""output = 100 * torch.rand(10, 1)
target = 100 * torch.rand(10, 1)""",
        by_hand="by_hand = (output.log1p() - target.log1p()) ** 2",
        operands="output, target",
        more="""# Its root is what competitions call RMSLE.
print("RMSLE", losskit.MSLELoss()(output, target).sqrt())""",
    ),
)
