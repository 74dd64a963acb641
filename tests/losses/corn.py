"""The truth about ordered classes as yes-or-no questions, each asked if the answers before it were yes."""

from proofs import Bars, Example, RowProof, Variant

from losses.coral import grades, sizes


def exact(m, input, target):
    asked = [k for k in range(len(input)) if k <= target]
    value = m.sum(m.softplus(-input[k] if target > k else input[k]) for k in asked)
    slopes = [m.zero if k not in asked else -m.sigmoid(-x) if target > k else m.sigmoid(x) for k, x in enumerate(input)]
    return (value,), {0: slopes}


proof = RowProof(
    name="corn_loss",
    exact=exact,
    bars=Bars(value=1.3, gradient=1.2, eager_value=1.2, eager_gradient=1.4),
    points={"sizes": sizes},
    formula_at={"sizes": 2.1},
    variants=[
        Variant("grades", grades),
        Variant("numbers", lambda n, g: (lambda x, y: (x, y.double()))(*grades(n, g))),
    ],
    example=Example(
        data="""scores = torch.randn(10, 4)  # (B, K - 1): is the class above k, if it is above k - 1?
target = torch.randint(0, 5, (10,))""",
        by_hand="""above = (target.unsqueeze(1) > torch.arange(4)).float()
asked = target.unsqueeze(1) >= torch.arange(4)
each = torch.nn.functional.binary_cross_entropy_with_logits(scores, above, reduction="none")
by_hand = (each * asked).sum(dim=1)""",
        operands="scores, target",
        mean="by_hand.sum() / asked.sum()",
        more="""above_each = scores.sigmoid().cumprod(dim=1)  # probabilities of being above 0, above 1, ...
predicted = (above_each > 0.5).sum(dim=1)
print("predicted classes", predicted.tolist())""",
    ),
)
