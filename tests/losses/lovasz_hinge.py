"""The truth about the Lovasz extension of the Jaccard loss, of hinges."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal

PIXELS = 7


def steps(m, errors, labels):
    """The places in decreasing order of the errors, and what each adds to the Jaccard loss."""
    order = sorted(range(len(errors)), key=lambda i: -errors[i])
    total, found, last = sum(labels), [], m.zero
    for k in range(1, len(order) + 1):
        right = sum(labels[i] for i in order[:k])
        now = 1 - m.one * (total - right) / (total + k - right)
        found.append(now - last)
        last = now
    return list(zip(order, found))


def exact(m, input, target, element_mask=None, per_image=True):
    there = [i for i in range(len(input)) if element_mask is None or element_mask[i]]
    labels = [int(target[i]) for i in there]
    signs = [2 * label - 1 for label in labels]
    errors = [1 - input[i] * sign for i, sign in zip(there, signs)]
    value, gradient = [m.zero], [m.zero for _ in input]
    for k, step in steps(m, errors, labels):
        if errors[k] > 0:
            value += [step, -input[there[k]] * signs[k] * step]
            gradient[there[k]] = -signs[k] * step
    return (m.sum(value[1::2]), m.sum(value[2::2])), {0: gradient}


def masks(n, g):
    """Scores of pixels, and which are in the object."""
    return normal(n, PIXELS, g=g), torch.randint(0, 2, (n, PIXELS), generator=g).double()


def padded(n, g):
    """Images of which not all pixels count."""
    return *masks(n, g), torch.arange(PIXELS) < 3 + torch.arange(n).unsqueeze(1) % 5


def sizes(dtype):
    """More pixels, few and many of them in the object, none and all."""
    g = torch.Generator().manual_seed(6)
    for part in (0.0, 0.1, 0.5, 1.0):
        for scale in (1e-3, 1.0, 100.0):
            x = torch.randn(4, 60, generator=g, dtype=torch.float64) * scale
            yield (x, (torch.rand(4, 60, generator=g) < part).double()), {}


proof = RowProof(
    name="lovasz_hinge_loss",
    exact=exact,
    bars=Bars(value=1.3, gradient=0.8, eager_value=1.4, eager_gradient=0.8),
    points={"sizes": sizes},
    variants=[
        Variant("masks", masks, {"per_image": True}),
        Variant("padded", padded),
    ],
    example=Example(
        data="""scores = torch.randn(2, 5)
mask = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 1, 0]])""",
        by_hand="""rows = []
for x, t in zip(scores, mask):
    errors, order = (1 - x * (2 * t - 1)).sort(descending=True)
    t = t[order]
    jaccard = 1 - (t.sum() - t.cumsum(0)) / (t.sum() + (1 - t).cumsum(0))
    steps = jaccard - torch.cat([torch.zeros(1), jaccard[:-1]])
    rows.append((errors.clamp(min=0) * steps).sum())
by_hand = torch.stack(rows)""",
        operands="scores, mask",
    ),
)
