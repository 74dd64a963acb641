"""What templates whose unit is a row share: tiles, numbers for each row, widths as parts, the last rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from losskit.kernels.gpu.shared import power_of_2

TILE = 2048  # elements that a program takes at a time, where a row is not longer
PROGRAMS = 1024  # so many, before a program takes more than one row


class Tile(NamedTuple):
    """What a program takes at a time: rows, elements of each, and by how many warps."""

    rows: int
    block: int
    warps: int


def tile_of(rows: int, width: int, longest: int, most_warps: int, registers: int = 1) -> Tile:
    """Whole rows up to the `longest`, as many as leave enough programs; longer ones by half of that.

    A thread has 16 elements, half as many where each takes two registers.
    """
    longest //= registers
    block = power_of_2(max(width, 1)) if width <= longest else longest // 2
    together = max(1, TILE // block)
    while together > 1 and rows < PROGRAMS * together:
        together //= 2
    return Tile(together, block, min(max(together * block * registers // 512, 1), most_warps))


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
