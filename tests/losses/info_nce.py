"""The truth about queries that look for their keys."""

from pair_rows import contrastive, of_diagonal, pairs, queued
from proofs import Bars, Example, PairsProof, Variant


def exact(m, query, key, temperature=0.1, symmetric=False, normalize=True):
    measure = "cosine" if normalize else "dot"
    return of_diagonal(m, contrastive(m), query, key, symmetric, measure, 1 / (temperature * m.one))


proof = PairsProof(
    name="info_nce_loss",
    exact=exact,
    bars=Bars(value=1.8, gradient=1.6, eager_value=2.4, eager_gradient=1.1),
    variants=[
        Variant("default", pairs, gradients=(0, 1)),
        Variant("queue", queued, {"temperature": 0.3}, gradients=(0, 1)),
        Variant("both_dots", pairs, {"temperature": 2.0, "symmetric": True, "normalize": False}, gradients=(0, 1)),
    ],
    example=Example(
        data="""query = torch.randn(10, 8)
key = query + torch.randn(10, 8)  # row i belongs to query i
temperature = 0.1""",
        by_hand="""normalized = torch.nn.functional.normalize
similarities = normalized(query) @ normalized(key).T / temperature
by_hand = -similarities.log_softmax(dim=1).diagonal()""",
        operands="query, key",
        arguments="temperature=temperature, ",
    ),
)
