"""The kernel of tempered softmaxes: the shift with which probabilities of a row add up to 1 (`csrc/tempered.cpp`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.kernels.choice import helps


def shift_by_kernel(scores: Tensor, temperature: float) -> Tensor | None:
    """The shifts (..., 1) of rows whose largest score is 0, for a temperature above 1; None where torch finds them."""
    if not (temperature > 1.0 and helps(scores)):
        return None
    shift = scores.new_empty(*scores.shape[:-1], 1)
    torch.ops.losskit.tempered_shift.default(
        scores.detach().contiguous().view(-1, scores.shape[-1]), temperature, shift
    )
    return shift


def parts(input: Tensor, *_: Any) -> str:
    """Where shifts are found, in words; "" if torch does."""
    return "the normalisation in a fused CPU kernel" if helps(input) else ""
