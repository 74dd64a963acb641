"""The truth about two views that look for each other."""

from pair_rows import added, batch, contrastive, views, views_and_negatives
from proofs import Bars, Example, PairsProof, Variant


def exact(m, input1, input2, negatives=(), temperature=0.5, normalize=True):
    rows = [*input1, *input2]
    n, half = len(rows), len(input1)
    columns = [*rows, *negatives]
    sets = lambda i: ([(i + half) % n], [j for j in range(len(columns)) if j not in (i, (i + half) % n)])
    measure = "cosine" if normalize else "dot"
    scale = 1 / (temperature * m.one)
    values, by_rows, by_columns, largest = batch(m, rows, columns, sets, contrastive(m), measure, scale)
    by = added(by_rows, by_columns[:n])
    return values, {0: by[:half], 1: by[half:], 2: by_columns[n:]}, largest


proof = PairsProof(
    name="nt_xent_loss",
    exact=exact,
    bars=Bars(value=1.8, gradient=1.0, eager_value=1.9, eager_gradient=1.3),
    variants=[
        Variant("default", views, gradients=(0, 1)),
        Variant("negatives", views_and_negatives, {"temperature": 0.2}, gradients=(0, 1, 2)),
        Variant("dots", views, {"temperature": 3.0, "normalize": False}, gradients=(0, 1)),
    ],
    example=Example(
        data="""input1 = torch.randn(10, 8)
input2 = input1 + torch.randn(10, 8)  # another view of the same examples
temperature = 0.5""",
        by_hand="""views = torch.nn.functional.normalize(torch.cat([input1, input2]))
similarities = views @ views.T / temperature
similarities.fill_diagonal_(float("-inf"))  # no view is a pair with itself
other = torch.arange(20).roll(10)
by_hand = -similarities.log_softmax(dim=1)[torch.arange(20), other]""",
        operands="input1, input2",
        arguments="temperature=temperature, ",
    ),
)
