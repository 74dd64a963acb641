"""The truth about cross entropy of cosines of which the own class's counts as smaller."""

from cosine_rows import SCALES, cosines, near, of_changed, rows
from cosine_rows import scale as of_doubles
from proofs import Bars, Example, RowProof, Variant
from row_operands import WEIGHT


def exact(m, input, target, margin=0.35, scale=64, **given):
    return of_changed(m, input, target, scale, lambda c: (c - margin, m.one), **given)[:2]


def edges(dtype):
    """Cosines at 1 and -1, at 0, and at the margin."""
    for margin in (0.35, 0.0, 0.99):
        for factor in SCALES:
            for x, target in rows(near([1.0, -1.0, 0.0, 0.5, margin], dtype), dtype):
                yield (x, target), {"margin": margin, "scale": factor}


def scale(what, largest, row, given, dtype):
    return of_doubles(what, largest, row, given, dtype, given.get("scale", 64))


proof = RowProof(
    name="cosface_loss",
    exact=exact,
    bars=Bars(value=1.4, gradient=1.6, eager_value=0.7, eager_gradient=0.7),
    points={"edges": edges},
    formula_at={"edges": 2.0},
    scale=scale,
    variants=[
        Variant("cosines", cosines),
        Variant("margin", cosines, {"margin": 0.1, "scale": 5.0}),
        Variant("weight_smoothing", cosines, {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2}),
    ],
    example=Example(
        data="""embeddings = torch.nn.functional.normalize(torch.randn(10, 8), dim=1)
classes = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)  # a vector for each class
cosines = embeddings @ classes.T
target = torch.randint(0, 5, (10,))
margin, scale = 0.35, 16.0""",
        by_hand="""own = torch.nn.functional.one_hot(target, 5)  # 1 for the class of the row
by_hand = -((scale * (cosines - margin * own)).log_softmax(dim=1) * own).sum(dim=1)""",
        operands="cosines, target",
        arguments="margin=margin, scale=scale, ",
    ),
)
