"""The truth about soft dynamic time warping: the recursion of both series, cell by cell."""

import torch
from differences import slopes
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal


def cost(m, x, y, gamma):
    """R of the last cell."""
    above = None
    for p in x:
        row = []
        for j, q in enumerate(y):
            distance = m.sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
            ways = [] if above is None else [above[j]] + ([above[j - 1]] if j else [])
            ways += row[-1:]
            least = min(ways) if ways else 0
            softly = least - gamma * m.log(m.sum(m.exp(-(way - least) / gamma) for way in ways)) if ways else least
            row.append(distance + softly)
        above = row
    return above[-1]


def exact(m, input, target, input_lengths=None, target_lengths=None, gamma=1.0, normalize=False):
    steps = len(input) if input_lengths is None else int(input_lengths)
    others = len(target) if target_lengths is None else int(target_lengths)

    def value(x, y):
        x, y = x[:steps], y[:others]
        if not normalize:
            return (cost(m, x, y, gamma),)
        return cost(m, x, y, gamma), -cost(m, x, x, gamma) / 2, -cost(m, y, y, gamma) / 2

    by_input = slopes(lambda x: sum(value(x, target)), input)
    return value(input, target), {0: by_input, 1: slopes(lambda y: sum(value(input, y)), target)}


def series(n, g):
    """Five steps of two numbers, and four."""
    return 0.5 * normal(n, 5, 2, g=g), 0.5 * normal(n, 4, 2, g=g)


def short(n, g):
    """Four steps and six, of which each sample has some."""
    x, y = normal(n, 4, 1, g=g), normal(n, 6, 1, g=g)
    return x, y, torch.randint(1, 5, (n,), generator=g), torch.randint(1, 7, (n,), generator=g)


proof = RowProof(
    name="soft_dtw_loss",
    exact=exact,
    # Costs are sums of all steps' distances, and rounded as such; shares are exponentials of them, divided by gamma.
    bars=Bars(value=2.6, gradient=9.4, eager_value=2.6, eager_gradient=9.4),
    variants=[
        Variant("series", series, gradients=(0, 1)),
        Variant("lengths", short, {"gamma": 0.125}, gradients=(0, 1)),
        Variant("divergence", series, {"normalize": True, "gamma": 2.0}, gradients=(0, 1)),
    ],
    example=Example(
        data="""one, other = torch.randn(8, 20, 3).cumsum(1), torch.randn(8, 15, 3).cumsum(1)
gamma = 0.5""",
        by_hand="""D = (one.unsqueeze(2) - other.unsqueeze(1)).square().sum(-1)
R = {(0, 0): D[:, 0, 0]}
for i in range(20):
    for j in range(15):
        ways = [R[cell] for cell in ((i - 1, j), (i, j - 1), (i - 1, j - 1)) if cell in R]
        if ways:
            R[i, j] = D[:, i, j] - gamma * torch.logsumexp(-torch.stack(ways) / gamma, 0)
by_hand = R[19, 14]""",
        operands="one, other",
        arguments="gamma=gamma, ",
    ),
)
