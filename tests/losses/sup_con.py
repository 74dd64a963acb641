"""The truth about rows that look for all rows of their label."""

from pair_rows import contrastive, labelled, of_labels, remembered
from proofs import Bars, Example, PairsProof, Variant


def exact(m, input, target, memory=(), memory_target=(), temperature=0.1, normalize=True):
    measure = "cosine" if normalize else "dot"
    scale = 1 / (temperature * m.one)
    return of_labels(m, contrastive(m), "positive", input, target, memory, memory_target, measure, scale)


proof = PairsProof(
    name="sup_con_loss",
    exact=exact,
    bars=Bars(value=1.3, gradient=1.0, eager_value=1.7, eager_gradient=1.5),
    variants=[
        Variant("default", labelled),
        Variant("memory", remembered, {"temperature": 0.4}, gradients=(0, 2)),
        Variant("dots", labelled, {"temperature": 3.0, "normalize": False}),
    ],
    example=Example(
        data="""embeddings = torch.randn(10, 8)
target = torch.arange(10) % 3
temperature = 0.1""",
        by_hand="""rows = torch.nn.functional.normalize(embeddings)
itself = torch.eye(10, dtype=torch.bool)
similarities = (rows @ rows.T / temperature).masked_fill(itself, float("-inf"))
positive = (target.unsqueeze(1) == target) & ~itself
logs = similarities.log_softmax(dim=1).masked_fill(~positive, 0.0)
by_hand = -logs.sum(dim=1) / positive.sum(dim=1)""",
        operands="embeddings, target",
        arguments="temperature=temperature, ",
    ),
)
