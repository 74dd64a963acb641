"""The truth about cross entropy in which a class's margin is the larger the rarer it is."""

import math

import torch
from cosine_rows import cosines, of_changed
from cosine_rows import scale as of_doubles
from proofs import Bars, Example, RowProof, Variant
from row_operands import CLASSES, WEIGHT, indices

from losses.cross_entropy import scores as of_cross_entropy

COUNTS = torch.tensor([900.0, 400.0, 80.0, 9.0, 2.0], dtype=torch.float64)


def exact(m, input, target, counts, max_m=0.5, scale=30, **given):
    def reduced(x):
        return x - max_m * m.sqrt(m.sqrt(min(counts) / counts[target])), m.one

    return of_changed(m, input, target, scale, reduced, **given)[:2]


def scores(dtype):
    """Those of cross entropy, times 1/30; classes of which a few are frequent, and most are rare."""
    for (x, target), _ in of_cross_entropy(dtype):
        counts = torch.full((x.shape[1],), 3.0, dtype=torch.float64)
        counts[:2] = 2.0**20
        yield (x / 32.0, target), {"counts": counts}


def scale(what, largest, row, given, dtype):
    most = max([abs(x) for x in row[0] if abs(x) < math.inf], default=0)
    return of_doubles(what, largest, row, given, dtype, given.get("scale", 30), most + given.get("max_m", 0.5))


proof = RowProof(
    name="ldam_loss",
    exact=exact,
    bars=Bars(value=1.0, gradient=1.0, eager_value=0.7, eager_gradient=1.0),
    points={"scores": scores},
    formula_at={"scores": 1.0},
    scale=scale,
    variants=[
        Variant("cosines", cosines, {"counts": COUNTS}),
        Variant("scores", indices, {"counts": COUNTS, "max_m": 1.5, "scale": 2.0}),
        Variant(
            "weight_smoothing", cosines, {"counts": COUNTS, "weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2}
        ),
        Variant("balanced", indices, {"counts": torch.full((CLASSES,), 7.0, dtype=torch.float64), "scale": 1.0}),
    ],
    example=Example(
        data="""scores = torch.tanh(torch.randn(10, 5))  # (B, C): cosines of features and weights
target = torch.randint(0, 5, (10,))
counts = torch.tensor([800.0, 100.0, 50.0, 40.0, 10.0])  # training samples of each class
max_m, scale = 0.5, 30.0""",
        by_hand="""margins = max_m * (counts.min() / counts) ** 0.25
own = torch.nn.functional.one_hot(target, 5)  # 1 for the class of the row
by_hand = -((scale * (scores - margins * own)).log_softmax(dim=1) * own).sum(dim=1)""",
        operands="scores, target",
        arguments="counts=counts, max_m=max_m, scale=scale, ",
    ),
)
