"""The kernel of soft ranks: gains over the logarithms of ranks that are sums of sigmoids, and the gradient of them.

The soft rank of an item is 1 and the sigmoids of all differences of other scores to its own, over a temperature. The
kernel (`csrc/soft_ranks.cpp`) keeps no pair of items, where torch's operations keep matrices of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.kernels.choice import helps


def called(
    op: str, scores: Tensor, gains: Tensor, counts: Tensor | None, *numbers: float
) -> tuple[tuple[Tensor, Tensor], Tensor] | None:
    """One less the discounted gains of each list (..., K), over those of the best order; None where torch does it.

    A pair: the losses, and which lists have one since they have a gain; and the gradient by the scores. counts: which
    items there are. op: the op that knows the ranks, and its numbers.
    """
    if not helps(scores):
        return None
    given = [x.detach().contiguous().view(-1, scores.shape[-1]) for x in (scores, gains)]
    loss, gradient = scores.new_empty(scores.shape[:-1]), torch.empty_like(given[0])
    has_loss = torch.empty_like(loss, dtype=torch.bool)
    there = torch.empty(0, dtype=torch.bool) if counts is None else counts.contiguous()
    getattr(torch.ops.losskit, op).default(*given, there, *numbers, loss, has_loss, gradient)
    return (loss, has_loss), gradient.view(scores.shape)


def missed_by_kernel(scores: Tensor, gains: Tensor, counts: Tensor | None, temperature: float) -> Any:
    """What `called` gives, of soft ranks."""
    return called("soft_ranks", scores, gains, counts, temperature)


def parts(input: Tensor, *_: Any) -> str:
    """Where ranks are computed, in words; "" if torch does."""
    return "ranks, discounts and the gradient of them in a fused CPU kernel" if helps(input) else ""
