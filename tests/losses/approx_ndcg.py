"""The truth about NDCG of ranks that are sums of sigmoids."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import WIDTH, normal


def gains(m, target):
    """Gains over that of the best order, of lists in which something is relevant."""
    gain = [m.one * 2**y - 1 for y in target]
    best = m.sum(x / m.log(m.one * r) * m.log(m.one * 2) for r, x in enumerate(sorted(gain, reverse=True), 2))
    return [x / best for x in gain]


def exact(m, input, target, temperature=0.1):
    own = gains(m, target)
    others = [[j for j in range(len(input)) if j != i] for i in range(len(input))]
    wins = lambda i, j: m.sigmoid((input[j] - input[i]) / temperature)
    ranks = [1 + m.sum(wins(i, j) for j in others[i]) for i in range(len(input))]
    two = m.log(m.one * 2)
    value = m.one, *(-x * two / m.log(1 + r) for x, r in zip(own, ranks, strict=True))
    a = [x * two / ((1 + r) * m.log(1 + r) ** 2) for x, r in zip(own, ranks, strict=True)]
    pull = lambda i, k: wins(i, k) * wins(k, i) / temperature
    by_input = [tuple(x * pull(i, k) for i in others[k] for x in (a[i], -a[k])) for k in range(len(input))]
    return value, {0: by_input}


def lists(n, g):
    """Scores and grades of lists in which something is relevant."""
    target = torch.randint(0, 4, (n, WIDTH), generator=g).double()
    target[:, 2] += 1.0
    return normal(n, WIDTH, g=g), target


proof = RowProof(
    name="approx_ndcg_loss",
    exact=exact,
    # The difference of two sums, of what others pull and of what they are pulled.
    bars=Bars(value=1.3, gradient=7.0, eager_value=1.3, eager_gradient=7.0),
    variants=[
        Variant("sharp", lists),
        Variant("smooth", lists, {"temperature": 1.5}),
    ],
    example=Example(
        data="""scores = torch.randn(10, 6)
relevance = torch.randint(0, 4, (10, 6)).float()
temperature = 0.1""",
        by_hand="""wins = torch.sigmoid((scores.unsqueeze(1) - scores.unsqueeze(2)) / temperature)
ranks = 0.5 + wins.sum(2)  # half before itself
gains = 2**relevance - 1
best = (gains.sort(1, descending=True).values / torch.log2(torch.arange(2.0, 8.0))).sum(1)
by_hand = 1 - (gains / torch.log2(1 + ranks)).sum(1) / best""",
        operands="scores, relevance",
        arguments="temperature, ",
    ),
)
