"""Pixels in the order of their errors: what they are, the steps of the Jaccard loss, the losses of units."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels import wire
from losskit.kernels.gpu.frame import factor_of
from losskit.kernels.gpu.ordered.keys import known, number_of
from losskit.kernels.gpu.rows import narrow
from losskit.kernels.gpu.shared import entry

STEP = tl.constexpr(int(wire.OrderedStatistic.STEP))
NEGATIVE, POSITIVE = tl.constexpr(1), tl.constexpr(2)  # what a pixel is, 0 for one that does not count


@triton.jit(do_not_specialize=["ignored"])
def codes_kernel(
    labels, items, upstream, places, codes, counts, units, width, blocks, classes, ignored, steps,
    CLASSES: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What each pixel of a block is, and how many of it are positive and negative."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        unit = (tl.program_id(0) // blocks).to(INDEX)
        place = ((tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)).to(INDEX)
        inside, at = place < width, unit * width + place
        pixel = tl.load(places + at, mask=inside, other=0).to(INDEX)
        label = known(tl.load(labels + unit // classes * steps[0] + pixel * steps[1], mask=inside, other=0))
        there = inside
        if CLASSES:
            there = there & (label.to(tl.int64) != ignored)
            positive = there & (label.to(tl.int64) == unit % classes)
        else:
            if items is not None:
                own = items + unit * steps[2] + pixel * steps[3]
                there = there & (tl.load(own, mask=inside, other=0) != 0)
            positive = there & (label != 0)
        code = tl.where(positive, POSITIVE, tl.where(there, NEGATIVE, 0))
        tl.store(codes + at, code.to(tl.int8), mask=inside)
        part = counts + tl.program_id(0)
        tl.store(part, tl.sum(positive.to(tl.int32), 0))
        tl.store(part + units * blocks, tl.sum((there & ~positive).to(tl.int32), 0))


@triton.jit
def counted(counts, unit, blocks, end, BLOCKS: tl.constexpr):
    """How many pixels the first blocks of a unit have."""
    total = tl.zeros((BLOCKS,), tl.int64)
    for start in range(0, end, BLOCKS):
        block = start + tl.arange(0, BLOCKS)
        total += tl.load(counts + unit * blocks + block, mask=block < end, other=0)
    return tl.sum(total, 0)


@triton.jit
def steps_kernel(
    ordered, places, codes, counts, upstream, numbers, totals, slopes, units, width, blocks,
    EVALUATE: tl.constexpr, ORDER: tl.constexpr, BLOCKS: tl.constexpr, CLASSES: tl.constexpr, REWRITE: tl.constexpr,
    INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The loss of a block of a unit's pixels, and at each pixel's place the slope by its score, or its probability."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        unit, block = (tl.program_id(0) // blocks).to(INDEX), tl.program_id(0) % blocks
        place = (block * BLOCK + tl.arange(0, BLOCK)).to(INDEX)
        inside, at = place < width, unit * width + place
        code = tl.load(codes + at, mask=inside, other=0).to(tl.int32)
        positive, negative = (code == POSITIVE).to(tl.int32), (code == NEGATIVE).to(tl.int32)
        have = counted(counts, unit, blocks, blocks, BLOCKS)
        before = have - counted(counts, unit, blocks, block, BLOCKS)
        others = have + counted(counts + units * blocks, unit, blocks, block, BLOCKS)
        intersection = before - (tl.cumsum(positive, 0) - positive)  # before the pixel, as the union is
        union = others + (tl.cumsum(negative, 0) - negative)
        alone = union + positive == 0  # the first mistake where the set is empty
        size = tl.where(alone, 1, union).to(tl.float64)
        single = (code == POSITIVE) | alone
        step = tl.where(single, 1.0, intersection.to(tl.float64)) / tl.where(
            single, size, size * (size + 1.0)
        )  # fmt: skip
        key = tl.load(ordered + at, mask=inside, other=0)
        if CLASSES:
            error = number_of(~key)
        else:
            error = 1.0 - number_of(key)
        there = code != 0
        error, step = tl.where(there, error, 0.0).to(tl.float64), tl.where(there, step, 0.0).to(tl.float64)
        if entry(ORDER, 0) == STEP:
            value, _, slope = EVALUATE(step, error, numbers, tl.float64)
        else:
            value, slope, _ = EVALUATE(error, step, numbers, tl.float64)
        tl.store(totals + tl.program_id(0), tl.sum(tl.where(there, value, 0.0).to(tl.float64), 0))
        if slopes is not None:
            slope = tl.where(there, tl.where(code == POSITIVE, -slope, slope), 0.0)
            pixel = tl.load(places + at, mask=inside, other=0).to(INDEX)
            tl.store(slopes + unit * width + pixel, slope.to(slopes.dtype.element_ty), mask=inside)


@triton.jit
def units_kernel(
    totals, counts, lost, mask, sample_weight, each_upstream, upstream, factors, values, sums, weights,
    units, blocks, losts, classes, steps,
    EVERY: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """The loss of a unit, and what its slopes are multiplied by: NaN in gives NaN out. losts: blocks of a set that may
    make it NaN. EVERY: a unit without a positive pixel has a loss, too."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        unit = tl.program_id(0).to(INDEX)
        total, wrong = tl.zeros((BLOCKS,), tl.float64), tl.zeros((BLOCKS,), tl.int32)
        for start in range(0, blocks, BLOCKS):
            block = start + tl.arange(0, BLOCKS)
            total += tl.load(totals + unit * blocks + block, mask=block < blocks, other=0.0)
        for start in range(0, losts, BLOCKS):
            block = start + tl.arange(0, BLOCKS)
            wrong = wrong | tl.load(lost + unit // classes * losts + block, mask=block < losts, other=0)
        found = counted(counts, unit, blocks, blocks, BLOCKS)
        if EVERY:
            found += counted(counts + units * blocks, unit, blocks, blocks, BLOCKS)
        weigh = tl.full((), 1.0, tl.float64)
        if mask is not None:
            found = tl.where(tl.load(mask + unit * steps[0]) != 0, found, 0)
        if sample_weight is not None:
            weigh *= tl.load(sample_weight + unit * steps[1]).to(tl.float64)
        share = tl.where(tl.max(wrong, 0) != 0, float("nan"), 1.0).to(tl.float64)
        value = tl.where(found > 0, tl.sum(total, 0) * share * weigh, 0.0).to(tl.float64)
        if values is not None:
            tl.store(values + unit, narrow(value, values))
        if sums is not None:
            tl.store(sums + unit, value)
        if weights is not None:
            tl.store(weights + unit, tl.where(found > 0, weigh, 0.0).to(tl.float64))
        if factors is not None:
            if each_upstream is not None:
                weigh *= tl.load(each_upstream + unit * steps[2]).to(tl.float64)
            tl.store(factors + unit, tl.where(found > 0, share * weigh, 0.0).to(tl.float64))


@triton.jit(do_not_specialize=["divisor"])
def signs_kernel(
    items, upstream, denominator, slopes, factors, gradient, rows, width, blocks, divisor, steps,
    REWRITE: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of some sets, one score for each pixel."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = (tl.program_id(0) // blocks).to(INDEX) * ROWS + tl.arange(0, ROWS)
        column = ((tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)).to(INDEX)
        inside = (row < rows)[:, None] & (column < width)[None, :]
        factor = factor_of(upstream, denominator, divisor, tl.float64)
        weigh = tl.load(factors + row, mask=row < rows, other=0.0)
        learns = (row < rows) & (weigh != 0)
        if denominator is not None:  # a mean over nothing has no gradient
            learns = learns & (row < tl.where(factor == 0, 0, rows))
        there = inside & learns[:, None]
        if items is not None:
            at = items + (row * steps[6])[:, None] + (column * steps[7])[None, :]
            there = there & (tl.load(at, mask=there, other=0) != 0)
        at = (row * width)[:, None] + column[None, :]
        slope = tl.load(slopes + at, mask=there, other=0.0).to(tl.float64)
        result = tl.where(there, slope * (weigh * factor)[:, None], 0.0).to(tl.float64)
        tl.store(gradient + at, narrow(result, gradient), mask=inside)
