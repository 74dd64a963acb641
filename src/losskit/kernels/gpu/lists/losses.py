"""What becomes of the sums of a list's programs: its loss, and the gradient of its items."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels.gpu.frame import factor_of
from losskit.kernels.gpu.lists.pairs import COUNTS, WRONG
from losskit.kernels.gpu.rows import narrow


@triton.jit
def lists_kernel(
    sample_weight, each_upstream, upstream, totals, counts, states, factors, values, sums, weights,
    rows, tiles, steps,
    AVERAGED: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr, LISTS: tl.constexpr,
):  # fmt: skip
    """The losses of lists, and what the slopes of their items are multiplied by: NaN in gives NaN out."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) * LISTS + tl.arange(0, LISTS)
        kept = row < rows
        total, number = tl.zeros((LISTS,), tl.float64), tl.zeros((LISTS,), tl.int64)
        state = tl.zeros((LISTS,), tl.int32)
        for tile in range(0, tiles):
            total += tl.load(totals + row * tiles + tile, mask=kept, other=0.0)
            number += tl.load(counts + row * tiles + tile, mask=kept, other=0).to(tl.int64)
            state = state | tl.load(states + row * tiles + tile, mask=kept, other=0)
        kept = kept & ((state & COUNTS) != 0)
        share = tl.where((state & WRONG) != 0, float("nan"), 1.0).to(tl.float64)
        if AVERAGED:
            share = share / tl.maximum(number, 1).to(tl.float64)
        weigh = tl.full((LISTS,), 1.0, tl.float64)
        if sample_weight is not None:
            weigh = tl.load(sample_weight + row * steps[7], mask=kept, other=0).to(tl.float64)
        value = tl.where(kept, tl.where(share == share, total, 0.0) * share * weigh, 0.0)
        if values is not None:
            tl.store(values + row, narrow(value, values), mask=row < rows)
        if sums is not None:
            tl.store(sums + tl.program_id(0), tl.sum(value, 0))
        if weights is not None:
            tl.store(weights + tl.program_id(0), tl.sum(tl.where(kept, weigh, 0.0), 0))
        if factors is not None:
            if each_upstream is not None:
                weigh *= tl.load(each_upstream + row * steps[8], mask=kept, other=0).to(tl.float64)
            tl.store(factors + row, tl.where(kept, share * weigh, 0.0), mask=row < rows)


@triton.jit(do_not_specialize=["divisor"])
def gradient_kernel(
    items, upstream, denominator, factors, slopes, gradient, rows, width, divisor, steps, gradient_steps,
    REWRITE: tl.constexpr, INDEX: tl.constexpr, LISTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) * LISTS + tl.arange(0, LISTS)
        factor = factor_of(upstream, denominator, divisor, tl.float64)
        weigh = tl.load(factors + row, mask=row < rows, other=0.0)
        learns = (row < rows) & (weigh != 0)
        if denominator is not None:  # a mean over nothing has no gradient
            learns = learns & (row < tl.where(factor == 0, 0, rows))
        weigh *= factor
        for start in range(0, width, BLOCK):
            column = (start + tl.arange(0, BLOCK)).to(INDEX)
            inside = (row < rows)[:, None] & (column < width)[None, :]
            there = inside & learns[:, None]
            if items is not None:
                at = items + (row * steps[4])[:, None] + (column * steps[5])[None, :]
                there = there & (tl.load(at, mask=there, other=0) != 0)
            slope = tl.load(slopes + (row * width)[:, None] + column[None, :], mask=there, other=0.0)
            result = tl.where(there, slope * weigh[:, None], 0.0)
            at = gradient + (row * gradient_steps[0])[:, None] + (column * gradient_steps[1])[None, :]
            tl.store(at, narrow(result, gradient), mask=inside)
