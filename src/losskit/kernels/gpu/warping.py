"""Soft alignments of two series on a GPU: what `csrc/warping.cpp` is to the CPU, part of a loss that torch computes.

1. Squared distances do not depend on each other: `distances_kernel` computes them in tiles and lays them along
   anti-diagonals d = i + j, so that a diagonal is read from neighbouring places.
2. `walk_kernel` has a program for each pair of series and a lane for each step of the shorter one. Forward, a cell's
   soft minimum needs the diagonal before and the one before that; lanes exchange once. Backward, a cell hands its
   probability on to the three before it by the shares that forward has left; lanes exchange once, too. Loads are issued
   two diagonals ahead.
3. Everything is float64: what a cost is rounded by counts as much as gamma.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from losskit.kernels.gpu.masses import right_of, shifted
from losskit.kernels.gpu.shared import OPTIONS, cdiv, power_of_2

TILE = 32  # cells of a tile, in both directions
MOST = 2048  # steps of the shorter series, a lane each: with 4,096 a thread holds more than its registers
LARGEST = tl.constexpr(1.7976931348623157e308)


def takes(x: Tensor) -> bool:
    """Whether the kernels take series of which this is the shorter one."""
    return 0 < x.shape[1] <= MOST


def soft_alignment(
    x: Tensor, y: Tensor, of_x: Tensor, of_y: Tensor, gamma: float, loss: Tensor, alignment: Tensor
) -> None:
    """Series (N, T, D) and (N, U, D), contiguous and in float64, of which each sample has some steps, one or more. The
    losses (N,) are filled in, and what lies within the lengths of the alignment (N, T, U), unless that has no elements.
    """
    if x.is_cuda and x.device.index != torch.cuda.current_device():
        with torch.cuda.device(x.device):
            return soft_alignment(x, y, of_x, of_y, gamma, loss, alignment)
    samples, rows, features = x.shape
    columns = y.shape[1]
    if not samples:
        return None
    diagonals, keep = rows + columns - 1, alignment.numel() > 0
    costs = x.new_empty(samples * diagonals * rows)
    shares = x.new_empty(3 * costs.numel() if keep else 1)
    distances_kernel[(samples, cdiv(rows, TILE), cdiv(columns, TILE))](
        x, y, of_x, of_y, costs, rows, columns, features, TILE=min(max(power_of_2(columns), 2), TILE), **OPTIONS
    )
    width = max(power_of_2(rows), 2)
    walk_kernel[(samples,)](
        costs, shares, of_x, of_y, torch.full((), gamma, dtype=torch.float64, device=x.device), loss, alignment,
        rows, columns, KEEP=keep, W=width, num_warps=min(max(width // 32, 1), 16), **OPTIONS,
    )  # fmt: skip
    return None


@triton.jit(do_not_specialize=["rows", "columns", "features"])
def distances_kernel(x, y, of_x, of_y, costs, rows, columns, features, TILE: tl.constexpr):
    """A tile of the squared distances, from differences, so that series far from 0 keep their digits."""
    n = tl.program_id(0).to(tl.int64)
    i, j = tl.program_id(1) * TILE + tl.arange(0, TILE), tl.program_id(2) * TILE + tl.arange(0, TILE)
    of_i, of_j = i < tl.load(of_x + n), j < tl.load(of_y + n)
    x_at, y_at = x + (n * rows + i) * features, y + (n * columns + j) * features
    total = tl.zeros((TILE, TILE), tl.float64)
    for f in range(0, features):
        apart = tl.load(x_at + f, mask=of_i, other=0.0)[:, None] - tl.load(y_at + f, mask=of_j, other=0.0)[None, :]
        total += apart * apart
    at = (n * (rows + columns - 1) + i[:, None] + j[None, :]) * rows + i[:, None]
    tl.store(costs + at, total, mask=of_i[:, None] & of_j[None, :])


@triton.jit
def cells_of(d, lane, m, n):
    """Which cells a diagonal has."""
    return (lane < m) & (d >= lane) & (d - lane < n)


@triton.jit
def shares_of(shares, d, lane, m, n, rows):
    """By how much the three cells before each cell count."""
    at, there = shares + d * 3 * rows + lane, cells_of(d, lane, m, n)
    return (
        tl.load(at, mask=there, other=0.0),
        tl.load(at + rows, mask=there, other=0.0),
        tl.load(at + 2 * rows, mask=there, other=0.0),
    )


@triton.jit(do_not_specialize=["rows", "columns"])
def walk_kernel(
    costs, shares, of_x, of_y, softness, loss, alignment, rows, columns, KEEP: tl.constexpr, W: tl.constexpr
):  # fmt: skip
    """A pair of series: its loss, and the probability of each cell."""
    sample = tl.program_id(0).to(tl.int64)
    m, n, gamma = tl.load(of_x + sample), tl.load(of_y + sample), tl.load(softness)
    lane = tl.arange(0, W)
    first = sample * (rows + columns - 1) * rows
    costs += first
    shares += 3 * first
    none = tl.full((W,), float("inf"), tl.float64)
    before = tl.maximum(lane - 1, 0)
    end = m + n - 2
    last, across = none, none  # the diagonal before, and the one before that, a lane further
    cost1 = tl.load(costs + lane, mask=cells_of(0 * m, lane, m, n), other=float("inf"))
    ahead = tl.minimum(end, 1)
    cost2 = tl.load(costs + ahead * rows + lane, mask=cells_of(ahead, lane, m, n), other=float("inf"))
    for step in range(0, end + 1):
        d = step + 0 * m
        cost, cost1 = cost1, cost2
        ahead = tl.minimum(end, d + 2)
        cost2 = tl.load(costs + ahead * rows + lane, mask=cells_of(ahead, lane, m, n), other=float("inf"))
        down = tl.where(lane == 0, float("inf"), tl.gather(last, before, 0))
        least = tl.minimum(tl.minimum(tl.minimum(down, last), across), LARGEST)
        p = libdevice.exp((least - down) / gamma)
        q = libdevice.exp((least - last) / gamma)
        r = libdevice.exp((least - across) / gamma)
        total = (p + q) + r
        there = cells_of(d, lane, m, n)
        now = cost + tl.where(d > 0, least - gamma * libdevice.log(total), 0.0)
        if KEEP:
            at, inverse = shares + d * 3 * rows + lane, tl.where(total != 0, 1.0 / total, 0.0)
            tl.store(at, p * inverse, mask=there)
            tl.store(at + rows, q * inverse, mask=there)
            tl.store(at + 2 * rows, r * inverse, mask=there)
        across, last = down, tl.where(there, now, float("inf"))
    tl.store(loss + sample, tl.sum(tl.where(lane == m - 1, last, 0.0), 0))
    if KEEP:
        tl.debug_barrier()  # other threads may have written the shares
        after = right_of(W)
        here = tl.where(lane == m - 1, 1.0, 0.0).to(tl.float64)
        later = tl.zeros((W,), tl.float64)  # what the diagonal after has handed to the one before this
        p1, q1, r1 = shares_of(shares, end, lane, m, n, rows)
        ahead = tl.maximum(end - 1, 0)
        p2, q2, r2 = shares_of(shares, ahead, lane, m, n, rows)
        for step in range(0, end + 1):
            d = end - step
            p, q, r, p1, q1, r1 = p1, q1, r1, p2, q2, r2
            ahead = tl.maximum(d - 2, 0)
            p2, q2, r2 = shares_of(shares, ahead, lane, m, n, rows)
            at = alignment + (sample * rows + lane) * columns + (d - lane)
            tl.store(at, here, mask=cells_of(d, lane, m, n))
            down, across = shifted(p * here, r * here, after)
            edge = lane == W - 1
            here = (tl.where(edge, 0.0, down) + q * here) + later
            later = tl.where(edge, 0.0, across)
