"""The truth about a hinge on the margins of the right class to the others. At the margin exactly nothing pushes."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import WEIGHT, indices


def of_classes(m, input, right, p=1, margin=1.0, weight=1):
    """The hinge of each of some right classes to each other class."""
    n = len(input)
    value, slopes = [], {}
    for t in right:
        for other in set(range(n)) - set(right):
            short = margin - input[t] + input[other]
            if short > 0:
                factor = weight / n if p == 1 else short * weight / n
                parts = margin * factor, -input[t] * factor, input[other] * factor
                value.append(parts)
                slope = (factor,) if p == 1 else tuple(2 * weight / n * x for x in (margin, -input[t], input[other]))
                slopes.setdefault(other, []).append(slope)
                slopes.setdefault(t, []).append(tuple(-x for x in slope))
    added = lambda many: tuple(map(m.sum, zip(*many))) if many else (m.zero,)
    return added(value), {0: [added(slopes.get(c, [])) for c in range(n)]}


def exact(m, input, target, p=1, margin=1.0, weight=None):
    return of_classes(m, input, [target], p, margin, weight[target] if weight else m.one)


def scales(dtype):
    """Scores of every size beside the margin."""
    for scale in (1e-3, 1.0, 30.0, 1e4):
        x = torch.randn(12, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * scale
        for p in (1, 2):
            yield (x, torch.arange(12) % 9), {"p": p, "margin": 0.75}


proof = RowProof(
    name="multi_margin_loss",
    exact=exact,
    bars=Bars(value=2.0, gradient=2.0, eager_value=2.0, eager_gradient=1.5),
    points={"scales": scales},
    formula_at={"scales": 2.5},
    variants=[
        Variant("p1", indices),
        Variant("p2_weight", indices, {"p": 2, "margin": 0.7, "weight": WEIGHT}),
    ],
    example=Example(
        data="""scores = torch.randn(10, 5)
target = torch.randint(0, 5, (10,))
p, margin = 2, 1.0""",
        by_hand="""difference = scores[torch.arange(10), target].unsqueeze(1) - scores
hinge = (margin - difference).clamp(min=0) ** p
hinge[torch.arange(10), target] = 0.0  # the right class has no margin to itself
by_hand = hinge.sum(dim=1) / 5""",
        operands="scores, target",
        arguments="p=p, margin=margin, ",
    ),
)
