"""What templates whose unit is a row share: numbers for each row, the denominator of their mean, the last rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from losskit.kernels.gpu.shared import Call


@triton.jit
def narrow(x, like):
    """x in the dtype that a pointer points to; by way of float32, as halves of float64 are not everywhere."""
    if (x.dtype == tl.float64) & (like.dtype.element_ty.primitive_bitwidth == 16):
        x = x.to(tl.float32)
    return x.to(like.dtype.element_ty)


def per_row(x: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """One number for each row as a vector, whose stride may be 0; `shape` is the rows'."""
    return None if x is None else x.expand(shape).reshape(torch.Size(shape).numel())


def step_of(x: Tensor | None) -> int:
    """From one row to the next, in elements."""
    return 0 if x is None or x.shape[0] == 1 else x.stride(0)


def alignment(*lengths: int) -> int:
    """A power of two, up to 16, that divides them all. A kernel gets them divided by it and multiplies them again: so
    the compiler knows that it may read as many elements at a time; it asks for multiples of 16 itself, and no others.
    """
    return math.gcd(16, *lengths)


def denominator_of(call: Call, rows: int) -> tuple[Tensor | None, int]:
    """What the loss is divided by: a number on the device, unless the number of rows is it, and that number."""
    weight, mask = call.sample_weight, call.mask
    if call.plan.reduction != "mean":
        return None, 1
    if call.normalizer is not None:
        return call.normalizer, 1
    if weight is None and mask is None:
        return None, rows
    if weight is None or mask is None:
        present = mask if weight is None else weight
        assert present is not None
        counts = present.sum(dtype=torch.float64)
        seen = present.numel()
    else:
        kept = torch.where(mask, weight.to(torch.float64), 0.0)  # a weight behind the mask may be NaN
        counts, seen = kept.sum(), kept.numel()
    return (counts if seen == rows else counts * (rows / max(seen, 1))), 1
