"""The truth about ListNet: the cross entropy of a softmax of scores, by probabilities that the relevance gives."""

import torch
from list_rows import graded, padded
from proofs import Bars, Example, RowProof, Variant


def exact(m, input, target, element_mask=None, target_transform="softmax"):
    there = [i for i in range(len(input)) if element_mask is None or element_mask[i]]
    gradient = [m.zero for _ in input]
    weights = [m.exp(target[i]) if target_transform == "softmax" else target[i] for i in there]
    total = m.sum(weights)
    if not total > 0:
        return (m.zero,), {0: gradient}
    value = []
    each = m.sum([m.exp(input[j] - max(input[i] for i in there)) for j in there])
    for i, weight in zip(there, weights, strict=True):
        log_p = input[i] - max(input[j] for j in there) - m.log(each)
        value.append(-weight / total * log_p)
        gradient[i] = (m.exp(log_p), -weight / total)
    return (m.sum(value),), {0: gradient}


def scales(dtype):
    """Scores and relevance of every size."""
    g = torch.Generator().manual_seed(3)
    for scale in (1e-3, 1.0, 20.0):
        scores = torch.randn(6, 9, generator=g, dtype=torch.float64) * scale
        yield (scores, torch.rand(6, 9, generator=g, dtype=torch.float64) * scale), {}


proof = RowProof(
    name="list_net_loss",
    exact=exact,
    # The gradient is the difference of two softmaxes, each of them rounded.
    bars=Bars(value=2.5, gradient=4.9, eager_value=2.6, eager_gradient=2.9),
    points={"scales": scales},
    formula_at={"scales": 17.0},
    variants=[
        Variant("graded", graded),
        Variant("normalized", graded, {"target_transform": "normalize"}),
        Variant("padded", padded),
    ],
    example=Example(
        data="""scores = torch.randn(10, 6)
relevance = torch.randint(0, 4, (10, 6))""",
        by_hand="""of_relevance = torch.exp(relevance.float()) / torch.exp(relevance.float()).sum(
    dim=1, keepdim=True
)
of_scores = torch.exp(scores) / torch.exp(scores).sum(dim=1, keepdim=True)
by_hand = -(of_relevance * torch.log(of_scores)).sum(dim=1)""",
        operands="scores, relevance",
    ),
)
