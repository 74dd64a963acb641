"""The kernel of a smooth sorting: NeuralSort, Sinkhorn's steps, and the gradient of the discounted gain.

The kernel (`csrc/soft_sorting.cpp`) works on one list at a time, whose matrix stays in a cache while torch's operations
take all lists through each step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.kernels.choice import helps


def missed_by_kernel(
    scores: Tensor, gains: Tensor, counts: Tensor | None, temperature: float, steps: int
) -> tuple[tuple[Tensor, Tensor], Tensor] | None:
    """One less the discounted gains of each list (..., K), over those of the best order; None where torch does it.

    A pair: the losses, and which lists have one since they have a gain; and the gradient by the scores. counts: which
    items there are. steps: of Sinkhorn.
    """
    if not helps(scores):
        return None
    given = [x.detach().contiguous().view(-1, scores.shape[-1]) for x in (scores, gains)]
    loss, gradient = scores.new_empty(scores.shape[:-1]), torch.empty_like(given[0])
    has_loss = torch.empty_like(loss, dtype=torch.bool)
    there = torch.empty(0, dtype=torch.bool) if counts is None else counts.contiguous()
    torch.ops.losskit.soft_sorting.default(*given, there, temperature, steps, loss, has_loss, gradient)
    return (loss, has_loss), gradient.view(scores.shape)


def parts(input: Tensor, *_: Any) -> str:
    """Where lists are sorted, in words; "" if torch does."""
    return "sorting, Sinkhorn's steps and the gradient of them in a fused CPU kernel" if helps(input) else ""
