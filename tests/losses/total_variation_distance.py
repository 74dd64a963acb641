"""The truth about half the sum of the differences between a student's and a teacher's probabilities."""

from proofs import Bars, Example, RowProof, Variant
from two_row_operands import POINTS, pairs, softened, spread


def exact(m, input, target):
    p, q, *_ = softened(m, input, target, 1)
    value = m.sum(abs(a - b) for a, b in zip(p, q)) / 2
    slopes = [m.sign(a - b) * a / 2 for a, b in zip(p, q)]
    return (value,), {0: spread(m, p, slopes)}


proof = RowProof(
    name="total_variation_distance_loss",
    exact=exact,
    bars=Bars(value=2.2, gradient=3.2, eager_value=3.2, eager_gradient=2.1),
    points=POINTS,
    formula_at={"near": 6.0},
    variants=[Variant("default", pairs)],
    example=Example(
        data="""student = torch.randn(10, 5)  # (N, C): a score for each of 5 classes
teacher = torch.randn(10, 5)""",
        by_hand="by_hand = (student.softmax(dim=1) - teacher.softmax(dim=1)).abs().sum(dim=1) / 2",
        operands="student, teacher",
    ),
)
