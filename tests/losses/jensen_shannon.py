"""The truth about the divergence of a student and a teacher from their mixture; at shares of 0 and 1, that of one side."""

from proofs import Bars, Example, RowProof, Variant
from two_row_operands import POINTS, pairs, relative, softened, spread


def exact(m, input, target, beta=0.5, temperature=1):
    p, q, log_p, log_q = softened(m, input, target, temperature)
    if beta in (0, 1):
        value = relative(m, p, log_p, log_q) if beta == 1 else relative(m, q, log_q, log_p)
        slopes = [a * (x - y) if beta == 1 and a else a for a, x, y in zip(p, log_p, log_q)]
        slopes = slopes if beta == 1 else [a - b for a, b in zip(p, q)]
    else:
        log_m = [m.log(beta * b + (1 - beta) * a) for a, b in zip(p, q)]
        value = beta * relative(m, q, log_q, log_m) + (1 - beta) * relative(m, p, log_p, log_m)
        slopes = [(1 - beta) * a * (x - y) if a else m.zero for a, x, y in zip(p, log_p, log_m)]
    return (temperature**2 * value,), {0: spread(m, p, [temperature * g for g in slopes])}


proof = RowProof(
    name="jensen_shannon_loss",
    exact=exact,
    # Of the logarithms of the two ratios to the mixture one is a difference, which costs digits where shares differ.
    bars=Bars(value=4.0, gradient=8.2, eager_value=5.4, eager_gradient=7.2),
    points=POINTS,
    formula_at={"near": 6.0},
    variants=[
        Variant("default", pairs),
        Variant("share", pairs, {"beta": 0.1, "temperature": 2.0}),
        Variant("forward", pairs, {"beta": 0.0}),
        Variant("reverse", pairs, {"beta": 1.0}),
        Variant("teacher", pairs, {"beta": 0.8}),
    ],
    example=Example(
        data="""student = torch.randn(10, 5)  # (N, C): a score for each of 5 classes
teacher = torch.randn(10, 5)
beta = 0.3  # the teacher's share""",
        by_hand="""p, q = student.softmax(dim=1), teacher.softmax(dim=1)
mixture = beta * q + (1 - beta) * p
of_teacher, of_student = (
    (q * (q / mixture).log()).sum(dim=1),
    (p * (p / mixture).log()).sum(dim=1),
)
by_hand = beta * of_teacher + (1 - beta) * of_student""",
        operands="student, teacher",
        arguments="beta=beta, ",
    ),
)
