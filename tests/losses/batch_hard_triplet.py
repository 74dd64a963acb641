"""The truth about the farthest positive and the nearest negative."""

from pair_rows import labelled, of_labels, remembered
from proofs import Bars, Example, PairsProof, Variant


def exact(m, input, target, memory=(), memory_target=(), margin=1.0, soft=False):
    def of_row(positives, negatives):
        excess = max(positives) - min(negatives) + margin
        slope = m.sigmoid(excess) if soft else m.one if excess >= 0 else m.zero
        at, to = positives.index(max(positives)), negatives.index(min(negatives))
        return (
            m.softplus(excess) if soft else m.maximum(excess, m.zero),
            [slope if j == at else m.zero for j in range(len(positives))],
            [-slope if j == to else m.zero for j in range(len(negatives))],
        )

    return of_labels(m, of_row, "both", input, target, memory, memory_target, "distance")


proof = PairsProof(
    name="batch_hard_triplet_loss",
    exact=exact,
    bars=Bars(value=1.1, gradient=0.5, eager_value=1.3, eager_gradient=0.7),
    variants=[
        Variant("default", labelled),
        Variant("memory", remembered, {"margin": 0.3}, gradients=(0, 2)),
        Variant("soft", labelled, {"margin": 0.0, "soft": True}),
    ],
    example=Example(
        data="""embeddings = torch.randn(10, 8)
target = torch.arange(10) % 3
margin = 1.0""",
        by_hand="""distances = (embeddings.unsqueeze(1) - embeddings).norm(dim=2)
alike = target.unsqueeze(1) == target
farthest = distances.masked_fill(~alike, 0.0).amax(dim=1)
nearest = distances.masked_fill(alike, float("inf")).amin(dim=1)
by_hand = (farthest - nearest + margin).clamp(min=0)""",
        operands="embeddings, target",
        arguments="margin=margin, ",
    ),
)
