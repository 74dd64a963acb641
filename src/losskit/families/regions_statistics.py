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
    p: Tensor,
    missing: Tensor,
    shares: Tensor,
    names: Sequence[str],
    batch: bool,
    *,
    squares: bool = False,
    smaller: bool = False,
) -> list[Tensor]:
    """What a formula speaks of, by name: sums over the pixels, and over the samples with `batch`.

    squares: sizes are of squares. smaller: what both regions have of a pixel is the smaller of p and its share.
    """

    def added(x: Tensor) -> Tensor:
        total = x.sum(-1)
        return total.sum(0) if batch else total

    def apart() -> Tensor:
        """p less the share, of digits that both have."""
        return torch.where(shares > 0.5, (1.0 - shares) - missing, p - shares)

    def one(name: str) -> Tensor:
        if name in ("predicted", "actual"):
            x = p if name == "predicted" else shares
            return added(x * x if squares else x)
        if name == "overlap" and smaller:
            wrong = apart()
            same = 0.5 * (p + shares)  # whose slope is that of both sides
            return added(torch.where(wrong < 0, p, torch.where(wrong > 0, shares, same)))
        if name == "overlap":
            return added(p * shares)
        if squares:
            return 0.5 * added(apart() * apart())
        if smaller:
            wrong = apart().abs()  # whose slope is 0 at p = t: both sides have half
            return 0.5 * added(wrong + (apart() if name == "false_positives" else -apart()))
        return added(p * (1.0 - shares) if name == "false_positives" else missing * shares)

    return [one(name) for name in names]


def _sigmoid() -> Differentiable:
    trace = Trace()
    made = Differentiable(sigmoid(trace.variable("x")), ["x"], {})
    made.prepare({})
    return made


_SIGMOID = _sigmoid()
