"""The truth about soft maxima of positive and negative pairs."""

from pair_rows import labelled, of_labels, remembered
from proofs import Bars, Example, PairsProof, Variant


def exact(m, input, target, memory=(), memory_target=(), alpha=2.0, beta=50.0, base=0.5, normalize=True):
    def of_row(positives, negatives):
        near = [m.exp(-alpha * (s - base)) for s in positives]
        far = [m.exp(beta * (s - base)) for s in negatives]
        value = m.log1p(m.sum(near)) / alpha + m.log1p(m.sum(far)) / beta
        return value, [-x / (1 + m.sum(near)) for x in near], [x / (1 + m.sum(far)) for x in far]

    measure = "cosine" if normalize else "dot"
    values, gradients, largest = of_labels(m, of_row, "nothing", input, target, memory, memory_target, measure)
    return values, gradients, max(alpha, beta) * m.maximum(largest, m.one)


proof = PairsProof(
    name="multi_similarity_loss",
    exact=exact,
    bars=Bars(value=1.1, gradient=1.5, eager_value=1.2, eager_gradient=1.1),
    variants=[
        Variant("default", labelled),
        Variant("memory", remembered, {"alpha": 1.0, "beta": 5.0, "base": 0.1}, gradients=(0, 2)),
        Variant("dots", labelled, {"alpha": 0.5, "beta": 0.75, "normalize": False}),
    ],
    example=Example(
        data="""embeddings = torch.randn(10, 8)
target = torch.arange(10) % 3
alpha, beta, base = 2.0, 50.0, 0.5""",
        by_hand="""rows = torch.nn.functional.normalize(embeddings)
s = rows @ rows.T
alike = target.unsqueeze(1) == target
positive = alike & ~torch.eye(10, dtype=torch.bool)
near = torch.log1p(((-alpha * (s - base)).exp() * positive).sum(dim=1)) / alpha
far = torch.log1p(((beta * (s - base)).exp() * ~alike).sum(dim=1)) / beta
by_hand = near + far""",
        operands="embeddings, target",
        arguments="alpha=alpha, beta=beta, base=base, ",
    ),
)
