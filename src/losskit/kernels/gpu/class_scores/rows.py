"""Rows of class scores: where they lie, which of them count, their class and their weight."""

from __future__ import annotations

import triton
import triton.language as tl

# Tensors that are addressed by row, two strides each: scores, gradients, ...; the first three also have classes.
X, SLOPE, TARGET, SAMPLE_WEIGHT, MASK, UPSTREAM = (tl.constexpr(k) for k in range(6))


@triton.jit
def rows_at(tile, tiles, outer, inner, DIVIDED: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr):
    """The rows of a tile: their places in the outer and the inner dimension, their numbers, whether they exist."""
    lanes = tl.arange(0, ROWS)
    if DIVIDED:
        row = tile.to(INDEX) * ROWS + lanes
        inside = row < outer.to(INDEX) * inner
        o, i = row // inner, row % inner
    else:
        o = (tile // tiles).to(INDEX)
        i = ((tile % tiles) * ROWS + lanes).to(INDEX)
        inside = i < inner * (o < outer).to(INDEX)
        row = o * inner + i
    return o, i, row, inside


@triton.jit
def place(o, i, strides, K: tl.constexpr, ALIGNED: tl.constexpr = 1):
    """Where the rows begin in tensor K. ALIGNED divides its strides, which lets the compiler read vectors."""
    outer, inner = strides[2 * K], strides[2 * K + 1]
    if ALIGNED > 1:
        outer, inner = outer // ALIGNED * ALIGNED, inner // ALIGNED * ALIGNED
    return o * outer + i * inner


@triton.jit
def right_of(target, mask, o, i, inside, classes, ignored, strides, SOFT: tl.constexpr):
    """Which rows count, their class (0 for an index that is no class), which rows are bad, and the raw index."""
    counts = inside
    if mask is not None:
        counts = counts & (tl.load(mask + place(o, i, strides, MASK), mask=inside, other=0) != 0)
    y = tl.zeros_like(i).to(tl.int64)
    if not SOFT:
        y = tl.load(target + place(o, i, strides, TARGET), mask=inside, other=0).to(tl.int64)
        counts = counts & (y != ignored)
    wild = (y < 0) | (y >= classes)
    return counts, tl.where(wild, 0, y).to(tl.int32), counts & wild, y


@triton.jit
def counted(tile, target, weight, sample_weight, mask, outer, inner, classes, ignored, strides, SOFT: tl.constexpr,
            INDEX: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """For each row of a tile, its weight in the denominator of a mean; for indices times the weight of its class."""
    o, i, _, inside = rows_at(tile, 1, outer, inner, True, INDEX, ROWS)
    counts, own, _, _ = right_of(target, mask, o, i, inside, classes, ignored, strides, SOFT)
    one = tl.full((ROWS,), 1.0, tl.float64)
    if sample_weight is not None:
        one = tl.load(sample_weight + place(o, i, strides, SAMPLE_WEIGHT), mask=inside, other=0).to(tl.float64)
    if weight is not None and not SOFT:
        one *= tl.load(weight + own).to(tl.float64)
    return tl.where(counts, one, 0.0)


@triton.jit
def weigh_rows(sample_weight, each_upstream, o, i, inside, strides, T: tl.constexpr):
    """The weights of the rows in the loss and in the gradient."""
    weigh = tl.full(i.shape, 1.0, T)
    if sample_weight is not None:
        weigh = tl.load(sample_weight + place(o, i, strides, SAMPLE_WEIGHT), mask=inside, other=0).to(T)
    slope = weigh
    if each_upstream is not None:
        slope = weigh * tl.load(each_upstream + place(o, i, strides, UPSTREAM), mask=inside, other=0).to(T)
    return weigh, slope
