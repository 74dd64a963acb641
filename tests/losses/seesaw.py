"""The truth about cross entropy with factors for the other classes, which are constants for the gradient."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import indices

COUNTS = torch.tensor([5000.0, 100.0, 7.0, 100.0, 1.0], dtype=torch.float64)


def exact(m, input, target, counts, p=0.8, q=2.0):
    _, _, logs = m.softmax(input)
    floor = max(logs(target), m.log(m.one / 100))
    shift = []
    for c in range(len(input)):
        rarer = min(m.zero, m.log(counts[c]) - m.log(counts[target]))
        mistaken = max(m.zero, logs(c) - floor)
        shift.append(m.zero if c == target else p * rarer + q * mistaken)
    changed, misses, after = m.softmax([x + s for x, s in zip(input, shift, strict=True)])
    return (-after(target),), {0: [-misses(c) if c == target else x for c, x in enumerate(changed)]}


def scales(dtype):
    """Scores of every size."""
    for scale in (1e-3, 1.0, 10.0, 30.0):
        x = torch.randn(12, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * scale
        yield (x, torch.arange(12) % 5), {"counts": COUNTS}


proof = RowProof(
    name="seesaw_loss",
    exact=exact,
    bars=Bars(value=2.1, gradient=2.1, eager_value=2.1, eager_gradient=2.1),
    points={"scales": scales},
    variants=[
        Variant("usual", indices, {"counts": COUNTS}),
        Variant("other", indices, {"counts": COUNTS, "p": 0.25, "q": 0.5}),
    ],
    example=Example(
        data="""scores = torch.randn(10, 3)
target = torch.randint(0, 3, (10,))
counts = torch.tensor([5000.0, 100.0, 7.0])""",
        by_hand="""ratio = (counts / counts[target].unsqueeze(1)).clamp(max=1)
p = scores.softmax(1)
mistaken = (p / p.gather(1, target.unsqueeze(1)).clamp(min=0.01)).clamp(min=1)
factor = ratio**0.8 * mistaken**2
factor[torch.arange(10), target] = 1.0
by_hand = torch.nn.functional.cross_entropy(scores + factor.log(), target, reduction="none")""",
        operands="scores, target",
        arguments="counts, ",
    ),
)
