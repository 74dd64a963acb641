"""Which dtype a loss has, and which it is computed in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALVES)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def stretched(operands: Sequence[Tensor], shape: Sequence[int]) -> tuple[list[Tensor], torch.dtype | None]:
    """The operands, expanded to this shape, and the dtype of the loss if theirs no longer tell it (else None).

    A half that is stretched and wants a gradient becomes float32: autograd then sums the gradients of all its places
    in float32 and rounds once, where it would round each of them and their sum.
    """
    full: list[Tensor] = []
    for x in operands:
        if len(x.shape) != len(shape) or x.shape != shape:
            summed = x.dtype in HALVES and x.requires_grad and torch.is_grad_enabled()
            x = (x.float() if summed else x).expand(shape)
        full.append(x)
    told = result_dtype(operands)
    return full, None if result_dtype(full) == told else told


def result_dtype(operands: Sequence[Tensor]) -> torch.dtype:
    """torch's promotion among the floating dtypes of the operands."""
    dtype = operands[0].dtype
    for x in operands[1:]:
        if x.dtype != dtype and x.dtype in FLOATS:  # torch.promote_types would be an operator of an exported graph
            mixed = dtype in HALVES and x.dtype in HALVES
            dtype = torch.float32 if mixed else max(dtype, x.dtype, key=lambda d: d.itemsize)
    return dtype


def compute_dtype(operands: Sequence[Tensor]) -> torch.dtype:
    """float64 if an operand is, else float32: halves are computed in float32 and rounded once."""
    return torch.float64 if result_dtype(operands) == torch.float64 else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Under autocast a loss of halves is float32, as torch's own are."""
    return torch.float32 if dtype in HALVES and torch.is_autocast_enabled(device.type) else dtype
