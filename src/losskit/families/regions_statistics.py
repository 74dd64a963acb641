"""The sums of regions in torch operations, with their digits and their gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from losskit.calculus import Differentiable
from losskit.formula import sigmoid
from losskit.graph import Trace
from losskit.kernels import eager


def activated(scores: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """The probabilities of scores (N, C, pixels), and what is missing to 1, each with its own digits."""
    if activation == "sigmoid":
        return eager.apply(_SIGMOID, [scores]), eager.apply(_SIGMOID, [-scores])
    if activation == "none" or scores.shape[1] == 0:
        return scores, 1.0 - scores
    # The others' distances to the largest score: its own is a constant, whose gradient would swallow theirs.
    pivot = scores.argmax(1, keepdim=True)
    is_pivot = torch.arange(scores.shape[1], device=scores.device).unsqueeze(-1) == pivot
    distance = torch.where(is_pivot, 0.0, scores - scores.gather(1, pivot))
    others = torch.where(is_pivot, 0.0, torch.exp(distance))
    rest = others.sum(1, keepdim=True)
    share = 1.0 / (1.0 + rest)
    p = torch.where(is_pivot, share, others * share)
    return p, torch.where(is_pivot, rest * share, 1.0 - p)


def sums_of(
    p: Tensor, missing: Tensor, shares: Tensor, squares: bool, batch: bool, names: Sequence[str]
) -> list[Tensor]:
    """What a formula speaks of, by name: sums over the pixels, and over the samples with `batch`."""

    def added(x: Tensor) -> Tensor:
        total = x.sum(-1)
        return total.sum(0) if batch else total

    def one(name: str) -> Tensor:
        if name == "overlap":
            return added(p * shares)
        if name in ("predicted", "actual"):
            x = p if name == "predicted" else shares
            return added(x * x if squares else x)
        if squares:
            apart = p * (1.0 - shares) - missing * shares
            return 0.5 * added(apart * apart)
        return added(p * (1.0 - shares) if name == "false_positives" else missing * shares)

    return [one(name) for name in names]


def _sigmoid() -> Differentiable:
    trace = Trace()
    made = Differentiable(sigmoid(trace.variable("x")), ["x"], {})
    made.prepare({})
    return made


_SIGMOID = _sigmoid()
