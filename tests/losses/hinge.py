"""The truth about the hinge of a score. A score exactly at the margin is active."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target):
    short = 1 - target * input
    active, idle = short >= 0, m.where(short == short, 0 * target, short)
    value = m.where(active, short, idle)
    return (value,), {"input": (m.where(active, -target, idle),), "target": (m.where(active, -input, idle),)}


proof = PointwiseProof(
    name="hinge_loss",
    exact=exact,
    bars=Bars(value=0.5, gradient=0.0, eager_value=0.5, eager_gradient=0.0),
    example=Example(
        data="""scores = torch.randn(10, 1)
target = torch.randint(0, 2, (10, 1)) * 2.0 - 1.0  # labels -1 and 1""",
        by_hand="by_hand = (1 - target * scores).clamp(min=0)",
        operands="scores, target",
        more="""# Scores that are right by 1 or more cost nothing and pull nowhere.
scores.requires_grad_()
losskit.HingeLoss("sum")(scores, target).backward()
assert torch.equal(scores.grad == 0, target * scores > 1)
print("active", int((scores.grad != 0).sum()), "of", scores.numel())""",
    ),
)
