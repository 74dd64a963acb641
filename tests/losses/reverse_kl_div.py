"""The truth about the divergence of a teacher from its student at a temperature."""

from proofs import Bars, Example, RowProof, Variant
from two_row_operands import POINTS, pairs, relative, softened, spread


def exact(m, input, target, temperature=1):
    p, _, log_p, log_q = softened(m, input, target, temperature)
    value = relative(m, p, log_p, log_q)
    slopes = [a * (x - y) if a else m.zero for a, x, y in zip(p, log_p, log_q)]
    return (temperature**2 * value,), {0: spread(m, p, [temperature * g for g in slopes])}


proof = RowProof(
    name="reverse_kl_div",
    exact=exact,
    # The difference of two logarithms.
    bars=Bars(value=3.3, gradient=3.2, eager_value=2.6, eager_gradient=2.9),
    points=POINTS,
    formula_at={"near": 6.0},
    variants=[Variant("default", pairs), Variant("temperature", pairs, {"temperature": 3.0})],
    example=Example(
        data="""student = torch.randn(10, 5)  # (N, C): a score for each of 5 classes
teacher = torch.randn(10, 5)""",
        by_hand="""log_p, log_q = student.log_softmax(dim=1), teacher.log_softmax(dim=1)
by_hand = (log_p.exp() * (log_p - log_q)).sum(dim=1)""",
        operands="student, teacher",
        more="""# Exchanged, the rows have the forward divergence.
forward = losskit.KnowledgeDistillationLoss()(teacher, student)
torch.testing.assert_close(losskit.ReverseKLDivLoss()(student, teacher), forward)""",
    ),
)
