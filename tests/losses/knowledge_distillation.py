"""The truth about the divergence of a student from its teacher at a temperature."""

from proofs import Bars, Example, RowProof, Variant
from two_row_operands import POINTS, pairs, relative, softened


def exact(m, input, target, temperature=1):
    p, q, log_p, log_q = softened(m, input, target, temperature)
    value = relative(m, q, log_q, log_p)
    return (temperature**2 * value,), {0: [temperature * (a - b) for a, b in zip(p, q)]}


proof = RowProof(
    name="knowledge_distillation_loss",
    exact=exact,
    # An exponential of a distance over the temperature; the formula rounds the distance, too.
    bars=Bars(value=3.0, gradient=3.0, eager_value=5.7, eager_gradient=5.0),
    points=POINTS,
    formula_at={"near": 6.0},
    variants=[Variant("default", pairs), Variant("temperature", pairs, {"temperature": 3.0})],
    example=Example(
        data="""student = torch.randn(10, 5)  # (N, C): a score for each of 5 classes
teacher = torch.randn(10, 5)
temperature = 4.0""",
        by_hand="""log_p = (student / temperature).log_softmax(dim=1)
log_q = (teacher / temperature).log_softmax(dim=1)
by_hand = temperature**2 * (log_q.exp() * (log_q - log_p)).sum(dim=1)""",
        operands="student, teacher",
        arguments="temperature=temperature, ",
        more="""# The teacher's two best classes alone: the others have no probability.
best = teacher.topk(2, dim=1)
cut = torch.full_like(teacher, -torch.inf).scatter(1, best.indices, best.values)
loss = losskit.KnowledgeDistillationLoss()(student, cut)
q = best.values.softmax(dim=1)
log_p = student.log_softmax(dim=1).gather(1, best.indices)
torch.testing.assert_close(loss, (q * (q.log() - log_p)).sum(dim=1).mean())""",
    ),
)
