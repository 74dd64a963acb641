"""The truth about the Dice loss of all classes of a sample together, each weighed by its size."""

import torch
from proofs import Bars, Example, RowProof, Variant
from region_rows import PIXELS, gradient, ratio, sums

CLASSES = 3


def samples(n, g):
    """Scores and labels of some classes; each sample has at least one of them, most lack none."""
    x = torch.randn(n, CLASSES, PIXELS, generator=g, dtype=torch.float64) * 2.0
    t = (torch.rand(n, CLASSES, PIXELS, generator=g, dtype=torch.float64) < 0.4).double()
    t[:, 0, 0] = 1.0
    return x, t


def exact(m, input, target, smooth=1e-5, weight_type="square", **_):
    found = [sums(m, x, t) for x, t in zip(input, target)]
    sizes = [m.sum(t) for t in target]
    power = {"square": 2, "simple": 1, "uniform": 0}[weight_type]
    weights = [1 / size**power if size else m.zero for size in sizes]
    weights = [w if size else m.one if not power else max(weights) for w, size in zip(weights, sizes)]
    overlap = m.sum(w * x.overlap for w, x in zip(weights, found))
    wrong = m.sum(w * (x.positives + x.negatives) for w, x in zip(weights, found))
    value, by_wrong, by_both = ratio(wrong, 2 * overlap, smooth)
    rows = [gradient(x, 2 * w * by_both, w * by_wrong, w * by_wrong) for w, x in zip(weights, found)]
    return (value,), {0: rows}


proof = RowProof(
    name="generalized_dice_loss",
    exact=exact,
    # Eager: sums of probabilities of 2 ULP, and a quotient of them.
    bars=Bars(1.9, 3.8, 1.8, 4.6),
    variants=[
        Variant("square", samples),
        Variant("simple", samples, {"weight_type": "simple", "smooth": 1.0}),
        Variant("uniform", samples, {"weight_type": "uniform"}),
    ],
    example=Example(
        data="""scores = torch.randn(2, 3, 16, 16)  # two images, three classes
target = torch.randint(0, 3, (2, 16, 16))
smooth = 1e-5""",
        by_hand="""p = scores.softmax(dim=1)
t = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
size = t.sum(dim=(2, 3))
overlap = ((p * t).sum(dim=(2, 3)) / size**2).sum(dim=1)
both = ((p.sum(dim=(2, 3)) + size) / size**2).sum(dim=1)
by_hand = 1 - (2 * overlap + smooth) / (both + smooth)""",
        operands="scores, target",
        arguments="smooth=smooth, activation='softmax', ",
    ),
)
