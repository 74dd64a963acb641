"""The truth about the correlations of the features of two views."""

from differences import slopes
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal


def standardised(m, x, eps):
    """The columns of a list of rows, of mean 0 and variance 1."""
    found = []
    for column in zip(*x, strict=True):
        mean = m.sum(column) / len(column)
        variance = m.sum((v - mean) ** 2 for v in column) / len(column)
        found.append([(v - mean) / m.sqrt(variance + eps) for v in column])
    return found


def terms(m, input1, input2, lambd, eps):
    a, b = standardised(m, input1, eps), standardised(m, input2, eps)
    c = [[m.sum(x * y for x, y in zip(p, q, strict=True)) / len(p) for q in b] for p in a]
    inside = m.sum((c[i][i] - 1) ** 2 for i in range(len(c)))
    return inside, lambd * m.sum(x * x for i, row in enumerate(c) for j, x in enumerate(row) if i != j)


def exact(m, input1, input2, lambd=5e-3, eps=1e-5):
    value = lambda a, b: sum(terms(m, a, b, lambd, eps))
    by_first = slopes(lambda a: value(a, input2), input1)
    return terms(m, input1, input2, lambd, eps), {0: by_first, 1: slopes(lambda b: value(input1, b), input2)}


def views(n, g):
    """Batches of five samples with three features; the second view is near the first."""
    a = normal(n, 5, 3, g=g)
    return a, a + 0.5 * normal(n, 5, 3, g=g)


def few(n, g):
    """More features than samples."""
    return normal(n, 3, 7, g=g), normal(n, 3, 7, g=g)


proof = RowProof(
    name="barlow_twins_loss",
    exact=exact,
    # The gradient of standardised numbers is what is left of one less its mean and its part along them.
    bars=Bars(value=4.6, gradient=10.4, eager_value=4.6, eager_gradient=10.4),
    variants=[
        Variant("views", views, gradients=(0, 1)),
        Variant("few", few, {"lambd": 0.25, "eps": 0.125}, gradients=(0, 1)),
    ],
    example=Example(
        data="""one, other = torch.randn(64, 16), torch.randn(64, 16)
lambd = 5e-3""",
        by_hand="""standardise = torch.nn.BatchNorm1d(16, affine=False)
C = standardise(one).T @ standardise(other) / 64
others = C - torch.diag(C.diagonal())
by_hand = (C.diagonal() - 1).square().sum() + lambd * others.square().sum()""",
        operands="one, other",
        arguments="lambd=lambd, ",
        mean="by_hand",
    ),
)
