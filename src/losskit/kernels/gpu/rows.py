"""What templates whose unit is a row share: tiles, numbers for each row, widths as parts, the last rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from losskit.kernels.gpu.frame import factor_of
from losskit.kernels.gpu.shared import power_of_2

TILE = 2048  # elements that a program takes at a time; longer rows: see tile_of
PROGRAMS = 1024  # with fewer programs than this, each takes one row


class Tile(NamedTuple):
    """What a program takes at a time: rows, elements of each, and by how many warps."""

    rows: int
    block: int
    warps: int


def tile_of(rows: int, width: int, longest: int, most_warps: int, registers: int = 1) -> Tile:
    """Several whole rows if enough programs remain; a row longer than `longest` in blocks of half of it.

    A thread holds 16 elements, 8 if an element takes two registers.
    """
    longest //= registers
    block = power_of_2(max(width, 1)) if width <= longest else longest // 2
    together = max(1, TILE // block)
    while together > 1 and rows < PROGRAMS * together:
        together //= 2
    return Tile(together, block, min(max(together * block * registers // 512, 1), most_warps))


@triton.jit
def narrow(x, like):
    """x in the dtype of a pointer. float64 becomes a half through float32: not every device converts directly."""
    if (x.dtype == tl.float64) & (like.dtype.element_ty.primitive_bitwidth == 16):
        x = x.to(tl.float32)
    return x.to(like.dtype.element_ty)


@triton.jit
def conclude_rows(
    total, weigh, row, rows, kept, sample_weight, each_upstream, upstream, denominator, divisor, values, sums, steps
):
    """Write the losses of rows. What their gradients are multiplied by, and which rows have one: a mean over nothing
    has none. steps: from one row to the next of sample weights, of masks and of upstream gradients."""
    if sample_weight is not None:
        weigh *= tl.load(sample_weight + row * steps[0], mask=kept, other=0).to(tl.float64)
    value = tl.where(kept, total * weigh, 0.0)
    if values is not None:
        tl.store(values + row, narrow(value, values), mask=row < rows)
    if sums is not None:
        tl.store(sums + tl.program_id(0), tl.sum(value, 0))
    factor = factor_of(upstream, denominator, divisor, tl.float64)
    weigh *= factor
    if each_upstream is not None:
        weigh *= tl.load(each_upstream + row * steps[2], mask=kept, other=0).to(tl.float64)
    if denominator is not None:
        kept = kept & (row < tl.where(factor == 0, 0, rows))
    return weigh, kept


def per_row(x: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """One number for each row as a vector, whose stride may be 0; `shape` is the rows'."""
    return None if x is None else x.expand(shape).reshape(torch.Size(shape).numel())


def step_of(x: Tensor | None) -> int:
    """The distance from one row to the next, in elements."""
    return 0 if x is None or x.shape[0] == 1 else x.stride(0)


def alignment(*lengths: int) -> int:
    """The largest power of two, at most 16, that divides all lengths. The host divides the lengths by it and the kernel
    multiplies them back. This proves to the compiler that rows are aligned, so that it emits vector loads. (Triton
    detects multiples of 16 by itself, but no smaller ones.)
    """
    return math.gcd(16, *lengths)
