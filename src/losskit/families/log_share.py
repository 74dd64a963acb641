"""The kernel of shares: minus the logarithm of the share of a number in its row (`csrc/log_share.cpp`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.kernels.choice import helps


def share_by_kernel(numbers: Tensor, index: Tensor, raised: float) -> tuple[Tensor, Tensor] | None:
    """Minus the logarithm of the share that a number of each row has, and its gradient; None where torch computes them.

    numbers: rows (..., C); `raised` is added to each number first. index: whose share, of shape (...).
    """
    if not helps(numbers):
        return None
    rows = numbers.detach().contiguous().view(-1, numbers.shape[-1])
    loss, gradient = numbers.new_empty(numbers.shape[:-1]), torch.empty_like(rows)
    torch.ops.losskit.log_share.default(rows, index.contiguous(), raised, loss, gradient)
    return loss, gradient.view(numbers.shape)


def parts(input: Tensor, *_: Any) -> str:
    """What is computed so, in words; "" if torch does it."""
    return "the label's share and the gradient of it in a fused CPU kernel" if helps(input) else ""
