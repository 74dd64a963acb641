"""The kernel of shares: minus the logarithm of the share of a number in its row (`csrc/log_share.cpp`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.kernels import library
from losskit.kernels.torch_internals import hidden


def share_by_kernel(numbers: Tensor, index: Tensor, raised: float) -> tuple[Tensor, Tensor] | None:
    """Of rows (..., C) raised by a number, what `index` (...) names; and the gradient. None where torch does it."""
    if not _takes(numbers):
        return None
    rows = numbers.detach().contiguous().view(-1, numbers.shape[-1])
    loss, gradient = numbers.new_empty(numbers.shape[:-1]), torch.empty_like(rows)
    torch.ops.losskit.log_share.default(rows, index.contiguous(), raised, loss, gradient)
    return loss, gradient.view(numbers.shape)


def parts(input: Tensor, *_: Any) -> str:
    """What is computed so, in words; "" if torch does it."""
    return "the label's share and the gradient of it in a fused CPU kernel" if _takes(input) else ""


def _takes(numbers: Tensor) -> bool:
    return numbers.is_cpu and library.loaded() and not hidden(numbers.detach())
