"""What templates whose unit is a row share: numbers for each row, widths as parts, the last rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor


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
