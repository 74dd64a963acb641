"""The truth about cross entropy of cosines of which the own class's angle counts as larger."""

import math

from cosine_rows import SCALES, cosines, near, of_changed, rows
from cosine_rows import scale as of_doubles
from proofs import Bars, Example, RowProof, Variant
from row_operands import WEIGHT

MARGINS = (0.5, 0.0, 1.2, 3.0)


def exact(m, input, target, margin=0.5, scale=64, **given):
    def widened(c):
        if c < -m.cos(margin):
            return c - margin * m.sin(margin), m.one
        sine = m.sqrt((1 - c) * (1 + c))
        # Where the sine is 0 its slope is infinite, and does not count.
        slope = m.cos(margin) + (c * m.sin(margin) / sine if sine else m.zero)
        return c * m.cos(margin) - sine * m.sin(margin), slope

    return of_changed(m, input, target, scale, widened, **given)[:2]


def edges(dtype):
    """Cosines at 1 and -1, at 0, and where angle and margin are half a turn."""
    for margin in MARGINS:
        own = near([1.0, -1.0, 0.0, 0.5, -0.5, -math.cos(margin), 1 - 1e-3, -0.999], dtype)
        for factor in SCALES:
            for x, target in rows(own, dtype):
                yield (x, target), {"margin": margin, "scale": factor}


def scale(what, largest, row, given, dtype):
    return of_doubles(what, largest, row, given, dtype, given.get("scale", 64))


def undecided(m, row, given, dtype):
    """The branch depends on a cosine that is rounded."""
    own, turn = row[0][row[1]] if row[1] >= 0 else 0, m.cos(given.get("margin", m.one / 2))
    return ("value", 0) if dtype.itemsize == 8 and abs(own + turn) < 2.0**-52 else ()


proof = RowProof(
    name="arcface_loss",
    exact=exact,
    bars=Bars(value=1.9, gradient=3.5, eager_value=0.7, eager_gradient=0.7),
    points={"edges": edges},
    formula_at={"edges": 4.0},
    scale=scale,
    undecided=undecided,
    variants=[
        Variant("cosines", cosines),
        Variant("margin", cosines, {"margin": 1.2, "scale": 5.0}),
        Variant("weight_smoothing", cosines, {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2}),
    ],
    example=Example(
        data="""embeddings = torch.nn.functional.normalize(torch.randn(10, 8), dim=1)
classes = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
cosines = embeddings @ classes.T
target = torch.randint(0, 5, (10,))
margin, scale = 0.5, 16.0""",
        by_hand="""rows = torch.arange(10)
angle = cosines[rows, target].acos()
beyond = angle + margin > torch.pi  # half a turn: there a number is subtracted
less = angle.cos() - margin * torch.tensor(margin).sin()
widened = torch.where(beyond, less, (angle + margin).cos())
scores = cosines.clone()
scores[rows, target] = widened
by_hand = -(scale * scores).log_softmax(dim=1)[rows, target]""",
        operands="cosines, target",
        arguments="margin=margin, scale=scale, ",
    ),
)
