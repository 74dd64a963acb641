"""What the host knows of rows: how they lie in memory, what a program takes of them, and their order."""

from __future__ import annotations

from typing import NamedTuple, overload

import torch
from torch import Tensor

from losskit.kernels.gpu.frame import Frame
from losskit.kernels.gpu.rows import PROGRAMS
from losskit.kernels.gpu.shared import cdiv, power_of_2

TILE = 1024  # elements that a program takes at once, two for each thread: a tie's scan takes 128 registers for them
WIDE = (torch.float64, torch.int64)  # what is sorted by 64 bits


class Tile(NamedTuple):
    """What a program takes at a time: rows, elements of each, and by how many warps; and how many blocks a row has."""

    rows: int
    block: int
    warps: int
    blocks: int


def tile_of(rows: int, width: int) -> Tile:
    """Several short rows if enough programs remain, a long one in blocks."""
    block = min(power_of_2(width), TILE)
    together = TILE // block
    while together > 1 and rows < PROGRAMS * together:
        together //= 2
    return Tile(together, block, min(max(together * block // 64, 1), 16), cdiv(width, block))


@overload
def flat(x: Tensor, rows: int, width: int) -> Tensor: ...
@overload
def flat(x: Tensor | None, rows: int, width: int) -> Tensor | None: ...
def flat(x: Tensor | None, rows: int, width: int) -> Tensor | None:
    """A tensor as rows of elements in the order of its dimensions, copied where it does not lie so."""
    return None if x is None else x.reshape(rows, width)


def steps_of(x: Tensor | None) -> tuple[int, int]:
    """From one row to the next, and from one element to the next."""
    if x is None:
        return 0, 0
    return (x.stride(0) if x.shape[0] > 1 else 0), (x.stride(1) if x.shape[1] > 1 else 0)


def reach_of(x: Tensor | None) -> int:
    """How far the last element is from the first."""
    return 0 if x is None else sum((n - 1) * step for n, step in zip(x.shape, steps_of(x), strict=True))


def keys_of(frame: Frame, dtype: torch.dtype, rows: int, width: int) -> Tensor:
    """Room for the integers by which rows of this dtype are sorted."""
    return frame.empty((rows, width), torch.int64 if dtype in WIDE else torch.int32)
