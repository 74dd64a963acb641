"""The truth about LambdaLoss: logistic losses of the pairs of a list, each times what the pair means for NDCG."""

import torch
from list_rows import graded, of_pairs, padded, tied
from proofs import Bars, Example, RowProof, Variant


def log2(m, x):
    return m.log(x * m.one) / m.log(m.one + m.one)


def exact(m, input, target, element_mask=None, scheme="lambdarank", sigma=1, k=None, mu=10):
    there = element_mask or [True] * len(input)
    two = m.one + m.one
    gain = [two**y - 1 for y in target]
    best = sorted((gain[i] for i in range(len(gain)) if there[i]), reverse=True)[:k]
    largest = m.sum([g / log2(m, 1 + place) for place, g in enumerate(best, 1)])

    def weigh(i, j, ranks):
        swapped = abs(1 / log2(m, 1 + ranks[i]) - 1 / log2(m, 1 + ranks[j]))
        apart = abs(ranks[i] - ranks[j])
        bound = 1 / log2(m, 1 + apart) - 1 / log2(m, 2 + apart)
        of_ranks = {"lambdarank": swapped, "ndcg2": bound, "ndcg2++": mu * bound + swapped}[scheme]
        return (gain[i] - gain[j]) / largest * of_ranks

    return of_pairs(m, input, target, element_mask, sigma, k, weigh, averaged=False)


def long_lists(dtype):
    """Lists so long that neighbouring discounts differ in their last digits alone."""
    g = torch.Generator().manual_seed(5)
    for scheme in ("lambdarank", "ndcg2"):
        scores = torch.randn(2, 150, generator=g, dtype=torch.float64)
        yield (scores, torch.randint(0, 3, (2, 150), generator=g).double()), {"scheme": scheme}


def large(dtype):
    """Gains beyond the largest number, and such that 2^y - 1 has no digit of y left."""
    scores = torch.tensor([[0.3, -0.2, 1.0, 0.1]], dtype=torch.float64)
    for relevance in ([2000.0, 1999.0, 1990.0, 0.0], [1e-12, 2e-12, 0.0, 1e-20]):
        yield (scores, torch.tensor([relevance], dtype=torch.float64)), {}


proof = RowProof(
    name="lambda_loss",
    exact=exact,
    # Far down a list discounts differ by a few hundredths of themselves: in float64 a subtraction costs five ULP.
    bars=Bars(value=4.2, gradient=5.6, eager_value=3.4, eager_gradient=4.0),
    points={"long lists": long_lists, "large and small": large},
    formula_at={"long lists": 8.0, "large and small": 4.0},
    variants=[
        Variant("graded", graded),
        Variant("tied", tied, {"scheme": "ndcg2", "sigma": 0.5}),
        Variant("padded", padded, {"scheme": "ndcg2++", "mu": 3.0, "k": 4}),
        Variant("first", graded, {"k": 2}),
    ],
    example=Example(
        data="""scores = torch.randn(10, 6)
relevance = torch.randint(0, 4, (10, 6))
relevance[:, 0], relevance[:, 1] = 3, 0  # every list has a pair""",
        by_hand="""rank = (scores.unsqueeze(1) > scores.unsqueeze(2)).sum(dim=2) + 1
discount = 1 / torch.log2(1.0 + rank)
best, _ = (2.0**relevance - 1).sort(dim=1, descending=True)
ideal = (best / torch.log2(torch.arange(2.0, 8.0))).sum(dim=1, keepdim=True)
gain = (2.0**relevance - 1) / ideal
pairs = relevance.unsqueeze(2) > relevance.unsqueeze(1)
swap = (gain.unsqueeze(2) - gain.unsqueeze(1)) * (
    discount.unsqueeze(2) - discount.unsqueeze(1)
).abs()
difference = scores.unsqueeze(2) - scores.unsqueeze(1)
logistic = torch.log1p(torch.exp(-difference))
by_hand = (swap * logistic * pairs).sum(dim=(1, 2))""",
        operands="scores, relevance",
    ),
)
