"""The truth about ordered classes as yes-or-no questions, the costs of which are added."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal

QUESTIONS = 4


def exact(m, input, target):
    value = m.sum(m.softplus(-x if target > k else x) for k, x in enumerate(input))
    return (value,), {0: [-m.sigmoid(-x) if target > k else m.sigmoid(x) for k, x in enumerate(input)]}


def grades(n, g):
    """Scores of the questions, and classes, one more than there are questions."""
    return normal(n, QUESTIONS, g=g), torch.randint(0, QUESTIONS + 1, (n,), generator=g)


def sizes(dtype):
    """Scores of every size, for every class; one question, and many."""
    top = 3e4 if dtype == torch.float16 else 1e30
    every = [0.0, *(sign * x for x in (1e-7, 1e-3, 0.5, 3.0, 17.0, 60.0, 88.0, 103.0, 700.0, top) for sign in (1, -1))]
    x = torch.tensor(every, dtype=torch.float64)
    for questions in (1, 3, 17, 100):
        for target in {0, 1, questions // 2, questions}:
            yield (torch.stack([x.roll(k) for k in range(questions)], 1), torch.full((len(x),), target)), {}


proof = RowProof(
    name="coral_loss",
    exact=exact,
    bars=Bars(value=1.3, gradient=1.2, eager_value=1.3, eager_gradient=1.4),
    points={"sizes": sizes},
    formula_at={"sizes": 1.5},
    variants=[
        Variant("grades", grades),
        Variant("numbers", lambda n, g: (lambda x, y: (x, y.double()))(*grades(n, g))),
    ],
    example=Example(
        data="""scores = torch.randn(10, 4)  # (B, K - 1): is the class above 0, above 1, above 2, above 3?
target = torch.randint(0, 5, (10,))""",
        by_hand="""above = (target.unsqueeze(1) > torch.arange(4)).float()
each = torch.nn.functional.binary_cross_entropy_with_logits(scores, above, reduction="none")
by_hand = each.sum(dim=1)""",
        operands="scores, target",
        more="""predicted = (scores > 0).sum(dim=1)  # the number of questions that are answered with yes
print("predicted classes", predicted.tolist())""",
    ),
)
