"""From the sums of regions to their losses, and to what the gradient of their pixels is made of."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels import wire
from losskit.kernels.gpu.regions.pixels import SUMS
from losskit.kernels.gpu.rows import narrow
from losskit.kernels.gpu.shared import entry

OVERLAP, PREDICTED, ACTUAL, POSITIVES, NEGATIVES = (tl.constexpr(int(x)) for x in wire.RegionsStatistic)


@triton.jit
def spoken(s0, s1, s2, s3, K: tl.constexpr, SQUARES: tl.constexpr):
    """What a statistic is, of the sums of a region."""
    if K == PREDICTED:
        x = s1 if SQUARES else s0 + s1
    elif K == ACTUAL:
        x = s2 if SQUARES else s0 + s2
    elif K == POSITIVES:
        x = 0.5 * s3 if SQUARES else s1
    elif K == NEGATIVES:
        x = 0.5 * s3 if SQUARES else s2
    else:
        x = s0
    return x


@triton.jit
def slope_by(d0, d1, d2, d3, d4, ORDER: tl.constexpr, K: tl.constexpr):
    """The derivative by a statistic; 0 if the formula does not speak of it."""
    if entry(ORDER, 0) == K:
        slope = d0
    elif entry(ORDER, 1) == K:
        slope = d1
    elif entry(ORDER, 2) == K:
        slope = d2
    elif entry(ORDER, 3) == K:
        slope = d3
    elif entry(ORDER, 4) == K:
        slope = d4
    else:
        slope = tl.zeros_like(d0)
    return slope


@triton.jit
def regions_kernel(
    partial, seen, pool, weight, sample_weight, units, each_upstream, upstream, numbers, values, sums, counts, slopes,
    classes, background, blocks, pool_steps, weight_step, unit_steps,
    EVALUATE: tl.constexpr, ORDER: tl.constexpr, SQUARES: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr,
    LANES: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """The losses of some classes of a region of samples. slopes: what multiplies t and 1 - t in the slope by p (with
    squares t, p and p - t), and whether there is a gradient at all."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        region = tl.program_id(0).to(INDEX)
        column = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
        inside = column < classes
        a0 = tl.zeros((LANES, CLASSES), tl.float64)
        a1, a2, a3 = a0, a0, a0
        some = tl.zeros((LANES,), tl.int32)
        for start in range(0, blocks, LANES):
            block = start + tl.arange(0, LANES)
            there = (block < blocks)[:, None] & inside[None, :]
            at = partial + ((region * blocks + block) * SUMS * classes)[:, None] + column[None, :]
            a0 += tl.load(at, mask=there, other=0.0)
            a1 += tl.load(at + classes, mask=there, other=0.0)
            a2 += tl.load(at + 2 * classes, mask=there, other=0.0)
            a3 += tl.load(at + 3 * classes, mask=there, other=0.0)
            some = some | tl.load(seen + region * blocks + block, mask=block < blocks, other=0)
        s0, s1, s2, s3 = tl.sum(a0, 0), tl.sum(a1, 0), tl.sum(a2, 0), tl.sum(a3, 0)
        own = (column - background).to(INDEX)
        real = inside & (column >= background)
        counted = real & (tl.max(some, 0) > 0)
        told, of_class = real, tl.full((CLASSES,), 1.0, tl.float64)
        if pool is not None:
            at = pool + region * pool_steps[0] + own * pool_steps[1]
            of_class = tl.load(at, mask=real, other=0).to(tl.float64)
            counted = counted & (tl.max((of_class != 0).to(tl.int32), 0) > 0)
            s0 = tl.sum(tl.where(real, s0 * of_class, 0.0), 0) + tl.zeros_like(s0)
            s1 = tl.sum(tl.where(real, s1 * of_class, 0.0), 0) + tl.zeros_like(s0)
            s2 = tl.sum(tl.where(real, s2 * of_class, 0.0), 0) + tl.zeros_like(s0)
            s3 = tl.sum(tl.where(real, s3 * of_class, 0.0), 0) + tl.zeros_like(s0)
            told = real & (own == 0)
        if units is not None:
            at = units + region * unit_steps[0] + own * unit_steps[1]
            counted = counted & (tl.load(at, mask=real, other=0) != 0)
        value, d0, d1, d2, d3, d4 = EVALUATE(
            spoken(s0, s1, s2, s3, entry(ORDER, 0), SQUARES), spoken(s0, s1, s2, s3, entry(ORDER, 1), SQUARES),
            spoken(s0, s1, s2, s3, entry(ORDER, 2), SQUARES), spoken(s0, s1, s2, s3, entry(ORDER, 3), SQUARES),
            spoken(s0, s1, s2, s3, entry(ORDER, 4), SQUARES), numbers, tl.float64,
        )  # fmt: skip
        weigh = tl.full((CLASSES,), 1.0, tl.float64)
        if weight is not None:
            weigh *= tl.load(weight + column * weight_step, mask=real, other=0).to(tl.float64)
        if sample_weight is not None:
            at = sample_weight + region * unit_steps[2] + own * unit_steps[3]
            weigh *= tl.load(at, mask=real, other=0).to(tl.float64)
        value = tl.where(counted, value * weigh, 0.0)
        if values is not None:
            unit = region + tl.zeros_like(own) if pool is not None else region * (classes - background) + own
            tl.store(values + unit, narrow(value, values), mask=told)
        program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
        if sums is not None:
            tl.store(sums + program, tl.sum(tl.where(told, value, 0.0), 0))
        if counts is not None:
            tl.store(counts + program, tl.sum(tl.where(told & counted, weigh, 0.0), 0))
        if slopes is not None:
            if each_upstream is not None:
                at = each_upstream + region * unit_steps[4] + own * unit_steps[5]
                weigh *= tl.load(at, mask=real, other=0).to(tl.float64)
            weigh *= of_class
            overlap = slope_by(d0, d1, d2, d3, d4, ORDER, OVERLAP)
            predicted = slope_by(d0, d1, d2, d3, d4, ORDER, PREDICTED)
            positives = slope_by(d0, d1, d2, d3, d4, ORDER, POSITIVES)
            negatives = slope_by(d0, d1, d2, d3, d4, ORDER, NEGATIVES)
            if SQUARES:
                f0, f1, f2 = overlap, 2.0 * predicted, positives + negatives
            else:
                f0, f1, f2 = overlap - negatives + predicted, positives + predicted, tl.zeros_like(d0)
            at = slopes + region * SUMS * classes + column
            tl.store(at, tl.where(counted, f0 * weigh, 0.0), mask=inside)
            tl.store(at + classes, tl.where(counted, f1 * weigh, 0.0), mask=inside)
            tl.store(at + 2 * classes, tl.where(counted, f2 * weigh, 0.0), mask=inside)
            tl.store(at + 3 * classes, counted.to(tl.float64), mask=inside)
