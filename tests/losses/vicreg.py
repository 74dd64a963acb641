"""The truth about the distance of two views, and the deviations and covariances of each."""

from differences import slopes
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal


def covariances(m, x):
    columns = [[v - m.sum(column) / len(column) for v in column] for column in zip(*x, strict=True)]
    return [[m.sum(a * b for a, b in zip(p, q, strict=True)) / (len(p) - 1) for q in columns] for p in columns]


def terms(m, input1, input2, invariance, variance, covariance, eps):
    n, d = len(input1), len(input1[0])
    apart = m.sum((x - y) ** 2 for a, b in zip(input1, input2, strict=True) for x, y in zip(a, b, strict=True))
    found = [invariance * apart / (n * d)]
    for x in (input1, input2):
        c = covariances(m, x)
        found.append(variance * m.sum(max(m.zero, 1 - m.sqrt(c[i][i] + eps)) for i in range(d)) / (2 * d))
        found.append(covariance * m.sum(c[i][j] ** 2 for i in range(d) for j in range(d) if i != j) / d)
    return tuple(found)


def exact(m, input1, input2, invariance=25.0, variance=25.0, covariance=1.0, eps=1e-4):
    given = invariance, variance, covariance, eps
    value = lambda a, b: sum(terms(m, a, b, *given))
    by_first = slopes(lambda a: value(a, input2), input1)
    return terms(m, input1, input2, *given), {0: by_first, 1: slopes(lambda b: value(input1, b), input2)}


def views(n, g):
    """Batches of five samples with three features, one of which hardly varies; the second view is near the first."""
    a = normal(n, 5, 3, g=g)
    a[..., 0] *= 0.125
    return a, a + 0.25 * normal(n, 5, 3, g=g)


def few(n, g):
    """More features than samples."""
    return 0.5 * normal(n, 3, 7, g=g), 0.5 * normal(n, 3, 7, g=g)


proof = RowProof(
    name="vicreg_loss",
    exact=exact,
    # A sum of four terms, each of sums.
    bars=Bars(value=3.2, gradient=5.2, eager_value=3.2, eager_gradient=5.2),
    variants=[
        Variant("views", views, gradients=(0, 1)),
        Variant("few", few, {"invariance": 2.0, "variance": 3.0, "covariance": 0.5, "eps": 0.125}, gradients=(0, 1)),
    ],
    example=Example(
        data="one, other = torch.randn(64, 16), torch.randn(64, 16)",
        by_hand="""by_hand = 25 * (one - other).square().mean()
for x in (one, other):
    C = torch.cov(x.T)
    deviations = (C.diagonal() + 1e-4).sqrt()
    by_hand = by_hand + 25 / 2 * (1 - deviations).clamp(min=0).mean()
    by_hand = by_hand + (C - torch.diag(C.diagonal())).square().sum() / 16""",
        operands="one, other",
        mean="by_hand",
    ),
)
