"""The kernel of softmaxes whose rarer and mistaken classes are compensated (`csrc/compensated.cpp`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.kernels.choice import helps


def compensated_by_kernel(
    scores: Tensor, index: Tensor, counts: Tensor, p: float, q: float
) -> tuple[Tensor, Tensor] | None:
    """Minus the logarithm of the label's probability, and its gradient; None where torch computes them.

    scores: rows (..., C); index: the labels, of shape (...); counts: how often there is each class, of shape (C,).
    p, q: the powers of the ratios of counts, and of probabilities.
    """
    if not helps(scores):
        return None
    rows = scores.detach().contiguous().view(-1, scores.shape[-1])
    loss, gradient = scores.new_empty(scores.shape[:-1]), torch.empty_like(rows)
    of_rows = index.contiguous(), counts.detach().to(scores.dtype).contiguous()
    torch.ops.losskit.compensated_share.default(rows, *of_rows, p, q, loss, gradient)
    return loss, gradient.view(scores.shape)


def parts(input: Tensor, *_: Any) -> str:
    """What is computed so, in words; "" if torch does it."""
    return "both softmaxes and the gradient in a fused CPU kernel" if helps(input) else ""
