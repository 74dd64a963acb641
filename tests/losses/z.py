"""The truth about the squared log-sum-exp of class scores."""

import math

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, normal

from losses.cross_entropy import scores as of_cross_entropy


def exact(m, input, coefficient=1e-4):
    p, _, log_p = m.softmax(input)
    top = max(input)
    rest = -log_p(list(input).index(top))
    # The log-sum-exp is the sum of these two, which may cancel.
    value = tuple(coefficient * x for x in (top * top, 2 * top * rest, rest * rest))
    return value, {0: [(2 * coefficient * top * x, 2 * coefficient * rest * x) for x in p]}


def scores(n, g):
    return (normal(n, CLASSES, g=g),)


def sizes(dtype):
    """Those of cross entropy, and rows whose log-sum-exp is nearly 0."""
    for (x, _), _ in of_cross_entropy(dtype):
        yield (x,), {"coefficient": 1.0}
    for classes in (2, 5, 40, 130):
        x = torch.randn(6, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - math.log(classes)
        yield (x,), {}
        yield (x - x.logsumexp(1, keepdim=True),), {}


def certain(dtype):
    """A class that is almost certain, anywhere in the row, whose score is 0 or nearly: so is the log-sum-exp."""
    for classes, place in ((2, 0), (2, 1), (40, 17), (130, 129)):
        for top, below in ((0.0, 12.0), (0.0, 40.0), (1e-9, 20.0), (0.03, 9.0)):
            x = torch.full((1, classes), -below, dtype=torch.float64)
            x[0, place] = top
            yield (x,), {"coefficient": 1.0}


proof = RowProof(
    name="z_loss",
    exact=exact,
    bars=Bars(value=3.0, gradient=3.1, eager_value=2.0, eager_gradient=2.3),
    points={"sizes": sizes, "certain": certain},
    # The gradient by the largest score is 1 less the sum of the other probabilities, of up to 129 classes.
    formula_at={"sizes": 160.0},
    variants=[Variant("scores", scores), Variant("coefficient", scores, {"coefficient": 0.5})],
    example=Example(
        data="""logits = torch.randn(10, 5)  # (B, C): a score for each of 5 classes
coefficient = 1e-4""",
        by_hand="""by_hand = coefficient * logits.exp().sum(dim=1).log() ** 2""",
        operands="logits",
        arguments="coefficient=coefficient, ",
        more="""# Beside cross entropy, which does not change when all scores of a row grow alike.
target = torch.randint(0, 5, (10,))
price = losskit.ZLoss(coefficient=coefficient)(logits)
loss = losskit.CrossEntropyLoss()(logits, target) + price
print("with cross entropy", loss)""",
    ),
)
