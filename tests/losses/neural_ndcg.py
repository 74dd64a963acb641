"""The truth about NDCG of a smooth sorting: NeuralSort, then Sinkhorn's steps."""

from differences import slopes
from proofs import Bars, Example, RowProof, Variant

from losses.approx_ndcg import gains, lists


def value_of(m, input, target, temperature, sinkhorn_iters):
    n = len(input)
    far = [m.sum(abs(a - b) for b in input) for a in input]
    p = []
    for i in range(n):
        p.append(m.softmax([((n - 1 - 2 * i) * s - a) / temperature for s, a in zip(input, far, strict=True)])[0])
    for _ in range(sinkhorn_iters):
        sums = [m.sum(row[j] for row in p) for j in range(n)]
        p = [[x / s for x, s in zip(row, sums, strict=True)] for row in p]
        p = [[x / m.sum(row) for x in row] for row in p]
    own, two = gains(m, target), m.log(m.one * 2)
    at_rank = [m.sum(x * y for x, y in zip(row, own, strict=True)) for row in p]
    return m.one, *(-x * two / m.log(m.one * i) for i, x in enumerate(at_rank, 2))


def exact(m, input, target, temperature=1.0, sinkhorn_iters=50):
    given = target, temperature, sinkhorn_iters
    return value_of(m, input, *given), {0: slopes(lambda x: sum(value_of(m, x, *given)), input)}


proof = RowProof(
    name="neural_ndcg_loss",
    exact=exact,
    # Exponents are sums of distances to all items, some 30 in size: their rounding is 15 times that of a weight.
    bars=Bars(value=1.4, gradient=48.0, eager_value=1.4, eager_gradient=48.0),
    variants=[
        Variant("sharp", lists),
        Variant("smooth", lists, {"temperature": 4.0, "sinkhorn_iters": 7}),
    ],
    example=Example(
        data="""scores = torch.randn(10, 6)
relevance = torch.randint(0, 4, (10, 6)).float()
temperature = 1.0""",
        by_hand="""far = (scores.unsqueeze(2) - scores.unsqueeze(1)).abs().sum(2)
rank = torch.arange(1, 7).view(6, 1)
P = (((7 - 2 * rank) * scores.unsqueeze(1) - far.unsqueeze(1)) / temperature).softmax(2)
for _ in range(50):
    P = P / P.sum(1, keepdim=True)
    P = P / P.sum(2, keepdim=True)
gains = 2**relevance - 1
discounts = 1 / torch.log2(torch.arange(2.0, 8.0))
best = (gains.sort(1, descending=True).values * discounts).sum(1)
by_hand = 1 - ((P @ gains.unsqueeze(2)).squeeze(2) * discounts).sum(1) / best""",
        operands="scores, relevance",
        arguments="temperature, ",
    ),
)
