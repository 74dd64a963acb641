"""The truth about a hinge on the distances in triplets. At the margin exactly a triplet still pushes."""

import itertools
import math

import torch
from proofs import Bars, Example, RowProof, Variant
from reference import ulp
from row_operands import every_scale, triplets

POWERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 100.0, math.inf)


def distance(m, x, y, p, eps):
    """The p-norm of x - y + eps, and its gradient by x. Ties of the largest share it."""
    d = [a - b + eps for a, b in zip(x, y)]
    size = [abs(v) for v in d]
    most = max(size)
    if p == 0 or most == 0:
        return m.sum(v != 0 for v in size), [m.zero] * len(d)
    if p == math.inf:
        return most, [m.sign(v) / size.count(most) if abs(v) == most else m.zero for v in d]
    value = m.sum(v**p for v in size if v) ** (1 / p)
    return value, [m.sign(v) * (abs(v) / value) ** (p - 1) if v else m.zero for v in d]


def exact(m, anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False):
    near, by_near = distance(m, anchor, positive, p, eps)
    far, by_far = distance(m, anchor, negative, p, eps)
    other, by_other = distance(m, positive, negative, p, eps) if swap else (m.inf, by_far)
    direct = 1 if far < other else 0 if far > other else m.one / 2  # a tie shares the gradient
    far = min(far, other)
    if near - far + margin < 0:
        return (m.zero,), {i: [m.zero] * len(anchor) for i in range(3)}
    f, s = [direct * g for g in by_far], [(1 - direct) * g for g in by_other]
    return (near, -far, margin + m.zero), {
        0: [(a, -b) for a, b in zip(by_near, f)],
        1: [(-a, -b) for a, b in zip(by_near, s)],
        2: [a + b for a, b in zip(f, s)],
    }


def magnified(p, dtype):
    """By how much a power magnifies the rounding of what it is taken of; float32 is computed in float64."""
    return 1 if dtype != torch.float64 or p >= 1 or p == 0 else 1 / p


def scale(what, largest, row, given, dtype):
    """A root, and in float64 the roundings of a difference and of its logarithm, times p - 1."""
    p = given.get("p", 2.0)
    if what == "value":
        return largest * magnified(p, dtype)
    if dtype != torch.float64 or p in (0.0, math.inf) or 1 <= p <= 50:
        return largest
    return largest * ((8 + p) / 8 if p > 50 else (8 + abs(math.log(largest))) / 8 if largest else 1)


def undecided(m, row, given, dtype):
    """Whether a triplet is active, and which of two distances is smaller, where rounding decides."""
    p, eps, margin = given.get("p", 2.0), given.get("eps", 1e-6), given.get("margin", 1.0)
    a, b, c = row
    near, far = distance(m, a, b, p, eps)[0], distance(m, a, c, p, eps)[0]
    other = distance(m, b, c, p, eps)[0] if given.get("swap") else far
    close = 8 * ulp(max(near, far, other, margin), dtype) * magnified(p, dtype)
    excess = near - min(far, other) + margin
    jumps = 0 < abs(excess) < close or 0 < abs(far - other) < close
    # The slope of a distance that is subnormal has no digits.
    lost = any(0 < x <= torch.finfo(dtype).smallest_normal for x in (near, far, other))
    return (0, 1, 2) if jumps or lost else ()


def scales(dtype):
    """One distance, from the smallest numbers to the largest: the negative is the anchor."""
    for p, eps, width, size in itertools.product(POWERS, (0.0, 1e-6), (1, 2, 7, 33), every_scale(dtype)):
        g = torch.Generator().manual_seed(5)
        x, y = (torch.randn(3, width, generator=g, dtype=torch.float64) * size for _ in range(2))
        x[0], y[2, 0] = y[0], x[2, 0]
        yield (x, y, x), {"p": p, "eps": eps, "margin": 1e-45}


def powers(dtype):
    """Every kind of norm, with and without swap."""
    for p, swap in itertools.product(POWERS, (False, True)):
        g = torch.Generator().manual_seed(7)
        rows = tuple(torch.randn(30, 11, generator=g, dtype=torch.float64) for _ in range(3))
        yield rows, {"p": p, "swap": swap, "margin": 0.7}


proof = RowProof(
    name="triplet_margin_loss",
    exact=exact,
    # A power of a quotient; eager: torch's pow.
    bars=Bars(value=2.3, gradient=7.0, eager_value=3.0, eager_gradient=4.0),
    points={"scales": scales, "powers": powers},
    formula_at={"powers": 30.0},  # p = 100 magnifies the rounding of a quotient
    scale=scale,
    undecided=undecided,
    variants=[
        Variant("default", triplets, {"margin": 2.0}, gradients=(0, 1, 2)),
        Variant("swap", triplets, {"p": 3.0, "eps": 0.01, "swap": True}, gradients=(0, 1, 2)),
        Variant("fraction", triplets, {"p": 1.5, "margin": 4.0}, gradients=(0, 1, 2)),
    ],
    example=Example(
        data="""anchor, positive, negative = torch.randn(3, 10, 8)  # 10 triplets, 8 numbers each
margin, eps = 1.0, 1e-6""",
        by_hand="""near = ((anchor - positive + eps) ** 2).sum(dim=1).sqrt()
far = ((anchor - negative + eps) ** 2).sum(dim=1).sqrt()
by_hand = (near - far + margin).clamp(min=0)""",
        operands="anchor, positive, negative",
        arguments="margin=margin, eps=eps, ",
        more="""# swap=True: the negative's distance from the positive counts where it is smaller.
other = ((positive - negative + eps) ** 2).sum(dim=1).sqrt()
swapped = (near - torch.minimum(far, other) + margin).clamp(min=0)
criterion = losskit.TripletMarginLoss(margin=margin, eps=eps, swap=True)
loss = criterion(anchor, positive, negative)
torch.testing.assert_close(loss, swapped.mean())
print("swap", loss)""",
    ),
)
