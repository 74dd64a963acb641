"""The truth about cross entropy of cosines of which the own class's angle is multiplied."""

import math

import torch
from cosine_rows import cosines, near, of_changed, rows
from cosine_rows import scale as of_doubles
from proofs import Bars, Example, RowProof, Variant
from row_operands import WEIGHT


def exact(m, input, target, norm, margin=4, **given):
    def multiplied(c):
        angle = m.acos(c)
        turns = m.floor(margin * angle / m.pi)
        sign = 1 if turns % 2 == 0 else -1
        # Where the sine is 0 the slope is the limit.
        slope = sign * margin * m.sin(margin * angle) / m.sin(angle) if abs(c) < 1 else m.one * margin**2
        return sign * m.cos(margin * angle) - 2 * turns, slope

    value, slopes, by_norm = of_changed(m, input, target, norm, multiplied, **given)
    return value, {**slopes, 2: [by_norm]}


def embeddings(n, g):
    """Cosines, the own classes, and lengths of embeddings."""
    return *cosines(n, g), torch.rand(n, generator=g, dtype=torch.float64) * 3.0 + 0.5


def edges(dtype):
    """Cosines at 1 and -1, at 0, and where the multiplied angle is a number of half turns."""
    for margin in (4, 1, 2, 3):
        own = near([1.0, -1.0, 0.0, *(math.cos(math.pi * k / margin) for k in range(1, margin))], dtype)
        for x, target in rows(own, dtype):
            for norm in (0.25, 8.0):
                yield (x, target, torch.full((len(x),), norm, dtype=torch.float64)), {"margin": margin}


def scale(what, largest, row, given, dtype):
    """The multiplied angle of a double is rounded, and where it is a number of half turns score or slope is 0."""
    if what == 2:
        largest = max(largest, 2.0**-29 if dtype == torch.float32 else 1)
    return of_doubles(what, largest, row, given, dtype, max(row[2], 1), given.get("margin", 4) ** 2)


proof = RowProof(
    name="sphereface_loss",
    exact=exact,
    bars=Bars(value=1.0, gradient=3.2, eager_value=0.7, eager_gradient=1.0),
    points={"edges": edges},
    formula_at={"edges": 3.2},
    scale=scale,
    variants=[
        Variant("embeddings", embeddings, gradients=(0, 2)),
        Variant("margin", embeddings, {"margin": 3}, gradients=(0, 2)),
        Variant(
            "weight_smoothing",
            embeddings,
            {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.2},
            gradients=(0, 2),
        ),
    ],
    example=Example(
        data="""embeddings = torch.randn(10, 8)
norm = embeddings.norm(dim=1)
classes = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)  # a vector for each class
cosines = embeddings @ classes.T / norm.unsqueeze(1)
target = torch.randint(0, 5, (10,))
margin = 4""",
        by_hand="""rows = torch.arange(10)
angle = margin * cosines[rows, target].acos()
turns = (angle / torch.pi).floor()
scores = cosines.clone()
scores[rows, target] = (-1) ** turns * angle.cos() - 2 * turns
by_hand = -(norm.unsqueeze(1) * scores).log_softmax(dim=1)[rows, target]""",
        operands="cosines, target, norm",
        arguments="margin=margin, ",
    ),
)
