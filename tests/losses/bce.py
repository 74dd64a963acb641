"""The truth about the cross entropy of a probability. The value is limited at 100, the gradient is not."""

from proofs import Bars, Example, PointwiseProof


def exact(m, input, target):
    p, t = input, target
    log_p, log_q = m.maximum(m.log(p), -100), m.maximum(m.log1p(-p), -100)
    spread = p * (1 - p)
    certain = m.where(p == t, 1 - 2 * p, (p - t) * 10**12)
    by_input = m.where(spread == 0, certain, m.div(p - t, m.where(spread == 0, 1 + 0 * p, spread)))
    return (-(t * log_p) - (1 - t) * log_q,), {"input": (by_input,), "target": (log_q, -log_p)}


proof = PointwiseProof(
    name="binary_cross_entropy",
    exact=exact,
    # Eager: the logarithms of torch are good to 1 ULP, times t, added.
    bars=Bars(value=2.0, gradient=2.0, eager_value=2.3, eager_gradient=2.0),
    example=Example(
        data="""p = torch.rand(10, 1)  # predicted probabilities
target = torch.randint(0, 2, (10, 1)).float()""",
        by_hand="by_hand = -(target * p.log() + (1 - target) * (1 - p).log())",
        operands="p, target",
    ),
)
