"""The truth about pairs with weights of their own, which are constants."""

from pair_rows import labelled, of_labels, remembered
from proofs import Bars, Example, PairsProof, Variant


def log_sum_exp(m, terms):
    """With the shares of the terms in it."""
    top = max(terms)
    powers = [m.exp(t - top) for t in terms]
    total = m.sum(powers)
    return top + m.log(total), [x / total for x in powers]


def exact(m, input, target, memory=(), memory_target=(), margin=0.4, gamma=80.0, normalize=True):
    def of_row(positives, negatives):
        up = [gamma * m.maximum(1 + margin - s, m.zero) for s in positives]
        down = [gamma * m.maximum(s + margin, m.zero) for s in negatives]
        near, shares = log_sum_exp(m, [-a * (s - (1 - margin)) for a, s in zip(up, positives)])
        far, others = log_sum_exp(m, [a * (s - margin) for a, s in zip(down, negatives)])
        slope = m.sigmoid(near + far)
        return (
            m.softplus(near + far),
            [-slope * a * share for a, share in zip(up, shares)],
            [slope * a * share for a, share in zip(down, others)],
        )

    values, gradients, largest = of_labels(
        m, of_row, "both", input, target, memory, memory_target, "cosine" if normalize else "dot"
    )
    return values, gradients, gamma * m.maximum(largest, m.one) * m.maximum(largest, m.one)


proof = PairsProof(
    name="circle_loss",
    exact=exact,
    bars=Bars(value=2.7, gradient=1.8, eager_value=2.4, eager_gradient=2.5),
    variants=[
        Variant("default", labelled),
        Variant("memory", remembered, {"margin": 0.25, "gamma": 2.0}, gradients=(0, 2)),
        Variant("dots", labelled, {"gamma": 0.2, "normalize": False}),
    ],
    example=Example(
        data="""embeddings = torch.randn(10, 8)
target = torch.arange(10) % 3
margin, gamma = 0.4, 80.0""",
        by_hand="""rows = torch.nn.functional.normalize(embeddings)
s = rows @ rows.T
alike = target.unsqueeze(1) == target
itself = torch.eye(10, dtype=torch.bool)
up, down = (
    (1 + margin - s).clamp(min=0) * (1 - margin - s),
    (s + margin).clamp(min=0) * (s - margin),
)
near = (gamma * up).masked_fill(~alike | itself, float("-inf")).logsumexp(dim=1)
far = (gamma * down).masked_fill(alike, float("-inf")).logsumexp(dim=1)
by_hand = torch.nn.functional.softplus(near + far)""",
        operands="embeddings, target",
        arguments="margin=margin, gamma=gamma, ",
    ),
)
