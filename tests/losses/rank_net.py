"""The truth about RankNet: the mean of logistic losses over the pairs of a list."""

import torch
from list_rows import graded, of_pairs, padded, tied
from proofs import Bars, Example, RowProof, Variant


def exact(m, input, target, element_mask=None, sigma=1, pair_weight="none", k=None):
    def weigh(i, j, ranks):
        return m.one if pair_weight == "none" else target[i] - target[j]

    return of_pairs(m, input, target, element_mask, sigma, k, weigh, averaged=True)


def scales(dtype):
    """Scores of every size, from all alike to an order that is beyond doubt, and its reverse."""
    g = torch.Generator().manual_seed(3)
    for scale in (1e-6, 1e-2, 1.0, 8.0):
        yield (
            (
                torch.randn(12, 9, generator=g, dtype=torch.float64) * scale,
                torch.randint(0, 3, (12, 9), generator=g).double(),
            ),
            {},
        )


proof = RowProof(
    name="rank_net_loss",
    exact=exact,
    bars=Bars(value=2.2, gradient=2.2, eager_value=2.2, eager_gradient=2.4),
    points={"scales": scales},
    formula_at={"scales": 8.0},
    variants=[
        Variant("graded", graded),
        Variant("tied", tied, {"pair_weight": "relevance", "sigma": 0.5}),
        Variant("padded", padded, {"k": 4}),
    ],
    example=Example(
        data="""scores = torch.randn(10, 6)
relevance = torch.randint(0, 4, (10, 6))
relevance[0] = torch.arange(6)  # every list has a pair
relevance[1:, 0], relevance[1:, 1] = 3, 0
sigma = 2.0""",
        by_hand="""difference = scores.unsqueeze(2) - scores.unsqueeze(1)
pairs = relevance.unsqueeze(2) > relevance.unsqueeze(1)
logistic = torch.log1p(torch.exp(-sigma * difference)) * pairs
by_hand = logistic.sum(dim=(1, 2)) / pairs.sum(dim=(1, 2))""",
        operands="scores, relevance",
        arguments="sigma=sigma, ",
    ),
)
