"""The class-scores family on a GPU: statistics of a row, the formula of them, and the gradient by every score.

1. A program takes a tile of rows and classes. A row that fits into registers is read once; a longer one is read in
   blocks, once for the statistics and once more, from its end, for the gradient, so that the L2 cache still holds what
   was read last. Shares of every class (probabilities, smoothing of weighted classes) of a long row take one more pass.
2. Memory is read along the classes where they lie side by side, and along the positions for (N, C, H, W): a tile has
   the rows of one stretch of positions. Other layouts are copied, see `layouts`.
3. The pivot is the largest score, d_c the distances to it, `others` the sum of exp(d_c) without the pivot's own 1. The
   exponential corrects the rounding error of d_c (halves have none). A log-probability is d_c - log1p(others). One
   minus the pivot's probability is others / (1 + others), so nothing cancels. If the sum of all exponentials is 2 or
   more (scores tie with the pivot), subtracting 1 loses no digit; below 2 the others are summed again.
4. In a long row each lane keeps its own pivot and the sum relative to it. Lanes are combined once, after the loop, so
   they never synchronise inside it. When a lane meets a larger score, the old pivot joins the sum.
5. The gradient of a row is a_c - p_c (G - L + M) + M / C with a_c = share_c df_c/dlog_probability, G their sum, and L
   and M the sums for log_sum_exp and mean_log_probability. Where p_c > 1/2, G - a_c is the sum of the others' terms.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from losskit.domains import log_probability, slack_of
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.layouts import Layout, placed
from losskit.kernels.gpu.shared import (
    MAX_INT32,
    OPTIONS,
    SUMS,
    TYPES,
    Call,
    Outputs,
    cdiv,
    entry,
    factor_of,
    finish,
    finish_kernel,
    index_type,
    limits_of,
    number_of,
    numbers_of,
    power_of_2,
    record_of,
    report,
)
from losskit.plan import Arguments

ROW = 32768  # float32 numbers that the registers of a program hold
BLOCK = 8192  # numbers of a long row that a program reads at once
PROGRAMS = 8192  # at most, about: few sums must be left to `finish`
COUNTED = 8192  # rows that one program counts for the denominator
OF_LOG, OF_LSE, OF_MEAN = (tl.constexpr(int(x)) for x in wire.ClassScoresStatistic)
# Words of this file:
#   tile             the rows and classes that a program takes at once; `long` rows take several, one after another
#   lane             a place in a tile; not a thread's lane
#   pivot            the largest score of a row; `distance` is a score minus the pivot (note 3)
#   others, rest     the sum of exp(distance) without the pivot's own 1; log1p(others)
#   high, below      in a long row, each lane's own pivot and its `others` (note 4)
#   own, mine        the class of a row's target; its score
#   share            the factor of a class's term in the loss: a probability, smoothing, a weight
#   keep, even       label smoothing: the part that the target keeps, and what every class gets
#   tops             classes whose score is the pivot; there may be several
#   by_log, by_lse, by_mean   derivatives by log_probability, log_sum_exp, mean_log_probability
#   slope            an entry of the gradient

# Tensors that are addressed by row, two strides each: scores, gradients, ...; the first three also have classes.
X, SLOPE, TARGET, SAMPLE_WEIGHT, MASK, UPSTREAM = (tl.constexpr(k) for k in range(6))
LOG_PROBABILITY, CLASS_INDEX, PROBABILITY = (tl.constexpr(int(x)) for x in wire.ClassScoresViolation)
NONE = tl.constexpr(MAX_INT32)  # no class
LOG2E = tl.constexpr(1.4426950408889634)
LOG2E_HIGH, LOG2E_LOW = tl.constexpr(1.4426950216293335), tl.constexpr(1.925963033500887e-8)  # two float32
UNIT = tl.constexpr(2.0**-20)  # factor of distances before they are summed, so that the largest ones do not overflow


# ---------------------------------------------------------------------------------------------------------
# Rows


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
def weigh_rows(sample_weight, each_upstream, o, i, inside, strides, T: tl.constexpr):
    """The weights of the rows in the loss and in the gradient."""
    weigh = tl.full(i.shape, 1.0, T)
    if sample_weight is not None:
        weigh = tl.load(sample_weight + place(o, i, strides, SAMPLE_WEIGHT), mask=inside, other=0).to(T)
    slope = weigh
    if each_upstream is not None:
        slope = weigh * tl.load(each_upstream + place(o, i, strides, UPSTREAM), mask=inside, other=0).to(T)
    return weigh, slope


# ---------------------------------------------------------------------------------------------------------
# Scores


@triton.jit
def block_of(x, at, c, there, classes, shift, stride, T: tl.constexpr, SPAN: tl.constexpr, POLICY: tl.constexpr):
    """A block of scores; -inf where there is none."""
    places = (c.to(SPAN) * stride)[None, :]
    z = tl.load(x + at[:, None] + places, mask=there, other=float("-inf"), eviction_policy=POLICY).to(T)
    if shift is not None:
        z += tl.load(shift + c, mask=c < classes, other=0).to(T)[None, :]
    return z


@triton.jit
def distance(z, pivot):
    """z - pivot; 0 between equal infinities."""
    return tl.where(z == pivot, 0.0, z - pivot).to(z.dtype)


@triton.jit
def exp_of(z, pivot, EXACT: tl.constexpr):
    """exp(z - pivot). EXACT: scores are halves, whose difference has no rounding error."""
    if EXACT:
        e = tl.exp2((z - pivot) * LOG2E)  # good to 20 bits at -20, a third of the instructions
    else:
        e = lk.exp_of_difference(z, pivot)
    return tl.where(z == pivot, 1.0, e).to(z.dtype)


@triton.jit
def is_ordinary(pivot):
    """Whether pivots are small enough for exact integer multiples of log 2."""
    return tl.max(tl.abs(pivot), 0) < 2097152.0


@triton.jit
def exp_of_rows(z, pivot, ordinary, EXACT: tl.constexpr):
    """exp(z - pivot) with one pivot per row. In float32, z and the pivot are reduced by log 2 separately, so that their
    difference is not rounded: 9 instructions, where `exp_of` takes 18."""
    p = pivot[:, None]
    if EXACT:
        e = tl.exp2((z - p) * LOG2E)
        if not ordinary:
            e = tl.where(z == p, 1.0, e).to(z.dtype)
    elif z.dtype == tl.float64:
        e = exp_of(z, p, False)
    elif ordinary:
        # Rounded as `bits` is: at the pivot itself the exponent is 0, and the result 1.
        whole = tl.fma(pivot, LOG2E_HIGH, 12582912.0) - 12582912.0
        rest = tl.fma(pivot, LOG2E_LOW, tl.fma(pivot, LOG2E_HIGH, -whole))
        # This sum is so large that it holds only whole numbers; its last bits are an exponent with its bias.
        start = (12583039.0 - whole)[:, None]
        bits = tl.fma(tl.maximum(z, (pivot - 87.0)[:, None]), LOG2E_HIGH, start)
        power = (bits.to(tl.int32, bitcast=True) << 23).to(tl.float32, bitcast=True)
        r = tl.fma(z, LOG2E_HIGH, start - bits)
        e = tl.exp2(tl.fma(z, LOG2E_LOW, r) - rest[:, None]) * power
    else:
        e = exp_of(z, p, False)
    return e


@triton.jit
def part_of_mean(z, pivot, there, ordinary):
    """The distances to the pivot, times UNIT."""
    part = tl.fma(z, UNIT, pivot * -UNIT)
    if not ordinary:
        part = tl.where(z == pivot, 0.0, part).to(z.dtype)
    return tl.where(there, part, 0.0).to(z.dtype)


# ---------------------------------------------------------------------------------------------------------
# The formula


@triton.jit
def operand(logs, lse, mean, K: tl.constexpr):
    if K == OF_LSE:
        x = lse
    elif K == OF_MEAN:
        x = mean
    else:
        x = logs
    return x


@triton.jit
def derivative(value, a, b, c, ORDER: tl.constexpr, K: tl.constexpr):
    """The derivative by statistic K."""
    if entry(ORDER, 0) == K:
        found = a
    elif entry(ORDER, 1) == K:
        found = b
    elif entry(ORDER, 2) == K:
        found = c
    else:
        found = tl.zeros_like(value)
    return found


@triton.jit
def evaluated(logs, lse, mean, numbers, EVALUATE: tl.constexpr, ORDER: tl.constexpr, T: tl.constexpr):
    """The formula of blocks of statistics and its three derivatives. ORDER: the statistics it takes; 0 is -logs."""
    if ORDER == 0:
        value = -logs
        by_log = tl.full(logs.shape, -1.0, T)
        by_lse, by_mean = tl.zeros_like(logs), tl.zeros_like(logs)
    else:
        first = operand(logs, lse, mean, entry(ORDER, 0))
        second = operand(logs, lse, mean, entry(ORDER, 1))
        third = operand(logs, lse, mean, entry(ORDER, 2))
        value, a, b, c, _ = EVALUATE(first, second, third, first, numbers, T)
        by_log = derivative(value, a, b, c, ORDER, OF_LOG)
        by_lse = derivative(value, a, b, c, ORDER, OF_LSE)
        by_mean = derivative(value, a, b, c, ORDER, OF_MEAN)
    return value, by_log, by_lse, by_mean


@triton.jit
def shares_of(target, weight, own, at, c, there, classes, keep, even, stride, SOFT: tl.constexpr, SLACK: tl.constexpr,
              T: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """The share of each class of a block, and for each class its number if its probability is bad, else NONE."""
    if SOFT:
        q = tl.load(target + at[:, None] + (c.to(SPAN) * stride)[None, :], mask=there, other=0).to(T)
        outside = tl.where((q < -SLACK) | (q - 1.0 > SLACK), c[None, :], NONE)
        share = tl.where(there, q * keep + even, 0.0)
    else:
        outside = tl.full(there.shape, NONE, tl.int32)
        share = tl.where(there, tl.where(c[None, :] == own[:, None], keep + even, even), 0.0)
    if weight is not None:
        share = share * tl.load(weight + c, mask=c < classes, other=0).to(T)[None, :]
    return share.to(T), outside


@triton.jit
def terms_of(share, d, lse, mean, rest, there, numbers, EVALUATE: tl.constexpr, ORDER: tl.constexpr, T: tl.constexpr):
    """The formula of each class of a block, its shares of the value, and of the three derivatives."""
    logs = d - rest[:, None]
    like = tl.zeros_like(logs)
    value, by_log, by_lse, by_mean = evaluated(
        logs, lse[:, None] + like, mean[:, None] + like, numbers, EVALUATE, ORDER, T
    )
    term = tl.where(there, lk.times(share, value), 0.0).to(T)
    by_log = tl.where(there, lk.times(share, by_log), 0.0).to(T)
    by_lse = tl.where(there, lk.times(share, by_lse), 0.0).to(T)
    by_mean = tl.where(there, lk.times(share, by_mean), 0.0).to(T)
    return value, term, by_log, by_lse, by_mean


@triton.jit
def slopes_of(by_log, e, tops, rest, by_lse, by_mean, mean_slope, others, inverse, ORDER: tl.constexpr):
    """The gradient of a block of classes by their scores. tops, rest: sums of by_log at the pivot and elsewhere."""
    total = tops + rest
    p = e * inverse[:, None]
    of_pivot = ((by_log - tops[:, None]) - rest[:, None]) + (total * others * inverse)[:, None]
    slope = tl.where(p > 0.5, of_pivot, by_log - p * total[:, None])
    if ORDER != 0:
        slope += p * (by_lse - by_mean)[:, None] + mean_slope[:, None]
    return slope


# ---------------------------------------------------------------------------------------------------------
# Rows that fit into registers, and rows that do not


@triton.jit(do_not_specialize=["tiles", "outer", "blocks", "divisor", "number", "ignored", "smoothing"])
def class_scores_kernel(
    x, target, shift, weight, sample_weight, mask, each_upstream, upstream, denominator, numbers, record,
    values, sums, slopes, target_slopes,
    tiles, outer, inner, classes, blocks, divisor, number, ignored, smoothing, strides, class_strides,
    EVALUATE: tl.constexpr, ORDER: tl.constexpr, MEAN: tl.constexpr, T: tl.constexpr, SOFT: tl.constexpr,
    SLACK: tl.constexpr, SHARED: tl.constexpr, SMOOTHED: tl.constexpr, EXACT: tl.constexpr, CHECKED: tl.constexpr,
    REWRITE: tl.constexpr, DIVIDED: tl.constexpr, LONG: tl.constexpr, ALONG: tl.constexpr, ALIGNED: tl.constexpr,
    INDEX: tl.constexpr, SPAN: tl.constexpr, AHEAD: tl.constexpr, STREAM: tl.constexpr, ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
):  # fmt: skip
    """Losses and gradients of rows. SHARED: every class contributes its own share of the loss. SMOOTHED: smoothing adds
    the same share to all classes, so the mean log-probability gives their sum. MEAN: that mean is needed. ALONG: lanes
    lie along positions (note 2). REWRITE: the gradient is written for an upstream of 1; rewrite it for another."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        factor = factor_of(upstream, denominator, divisor, T)
        smooth = smoothing.to(tl.int64).to(tl.float64, bitcast=True)
        keep = (1.0 - smooth).to(T)
        even = (smooth / classes).to(T)
        first = tl.program_id(0) * blocks
        total = tl.zeros((ROWS,), tl.float64)
        lanes = tl.arange(0, CLASSES)
        if ALIGNED > 1:
            classes = classes // ALIGNED * ALIGNED
        for step in tl.range(0, blocks, num_stages=AHEAD):
            o, i, row, inside = rows_at(first + step, tiles, outer, inner, DIVIDED, INDEX, ROWS)
            counts, own, bad, y = right_of(target, mask, o, i, inside, classes, ignored, strides, SOFT)
            weigh, weigh_slope = weigh_rows(sample_weight, each_upstream, o, i, inside, strides, T)
            if CHECKED and not SOFT:
                report(record, bad.to(tl.int32) * CLASS_INDEX, y, row, number)
            # Rows that do not count are not read, except along positions, where whole vectors are loaded.
            read = inside if ALONG else counts
            at = place(o, i, strides, X, ALIGNED)
            at_target = place(o, i, strides, TARGET, ALIGNED)
            limit = tl.max(counts.to(tl.int32), 0) * classes
            there = read[:, None] & (lanes < classes)[None, :]

            # The pivot and the sum of the others.
            if LONG:
                high = tl.full((ROWS, CLASSES), float("-inf"), T)
                below = tl.zeros((ROWS, CLASSES), T)
                for start in tl.range(0, limit, CLASSES, num_stages=STREAM):
                    c = start + lanes
                    there = read[:, None] & (c < classes)[None, :]
                    z = block_of(x, at, c, there, classes, shift, class_strides[X], T, SPAN, "evict_last")
                    higher, low = z > high, tl.minimum(z, high, tl.PropagateNan.ALL)
                    high = tl.maximum(z, high)
                    e = exp_of(low, high, EXACT)
                    below = tl.where(higher, tl.fma(below, e, e), below + e)
                pivot = tl.max(high, 1)
                top = high == pivot[:, None]
                e = exp_of(high, pivot[:, None], EXACT)
                others = tl.sum(tl.where(top, below, tl.fma(below, e, e)), 1)
                others += tl.sum(top.to(T), 1) - 1.0
                ordinary = is_ordinary(pivot)
            else:
                c = lanes
                z = block_of(x, at, c, there, classes, shift, class_strides[X], T, SPAN, "")
                pivot = tl.where(counts, tl.max(z, 1), 0.0).to(T)  # rows that were not loaded have no maximum
                ordinary = is_ordinary(pivot)
                if MEAN:
                    far = tl.sum(part_of_mean(z, pivot[:, None], there, ordinary), 1)
                e = exp_of_rows(z, pivot, ordinary, EXACT)
                all = tl.sum(e, 1)
                others = all - 1.0
                if tl.min(all, 0) < 2.0:
                    others = tl.where(all < 2.0, tl.sum(tl.where(e == 1.0, 0.0, e).to(T), 1), others)
            others = tl.where(counts, others, 0.0).to(T)
            if not SHARED:
                mine = tl.load(x + at + own.to(INDEX) * class_strides[X], mask=counts, other=0).to(T)
                # This condition is never true. It ties `others` to a value loaded once per row, so Triton computes
                # the row's scalars in one lane instead of in every lane of the row.
                others = tl.where(mine > float("inf"), 0.0, others)
            rest = libdevice.log1p(others)
            inverse = lk.divide(tl.full((ROWS,), 1.0, T), 1.0 + others)
            lse = pivot + rest
            mean = rest
            if MEAN:
                if LONG:
                    parts = tl.zeros((ROWS, CLASSES), T)
                    for start in range(0, limit, CLASSES):
                        c = start + lanes
                        there = read[:, None] & (c < classes)[None, :]
                        z = block_of(x, at, c, there, classes, shift, class_strides[X], T, SPAN, "evict_last")
                        parts += part_of_mean(z, pivot[:, None], there, ordinary)
                    far = tl.sum(parts, 1)
                mean = lk.divide(far, tl.zeros_like(rest) + classes * UNIT) - rest

            # The loss, and the sums that the gradient takes.
            if SHARED:
                wrong = tl.full((ROWS,), NONE, tl.int32)
                if LONG:
                    term = tl.zeros((ROWS, CLASSES), T)
                    of_tops, of_rest, of_lse, of_mean = term, term, term, term
                    outside = tl.full((ROWS, CLASSES), NONE, tl.int32)
                    for start in range(0, limit, CLASSES):
                        c = start + lanes
                        there = read[:, None] & (c < classes)[None, :]
                        z = block_of(x, at, c, there, classes, shift, class_strides[X], T, SPAN, "evict_last")
                        share, wild = shares_of(target, weight, own, at_target, c, there, classes, keep, even,
                                                class_strides[TARGET], SOFT, SLACK, T, SPAN)  # fmt: skip
                        _, one, by_log, by_lse, by_mean = terms_of(
                            share, distance(z, pivot[:, None]), lse, mean, rest, there, numbers, EVALUATE, ORDER, T
                        )
                        top = z == pivot[:, None]
                        term += one
                        of_tops += tl.where(top, by_log, 0.0).to(T)
                        of_rest += tl.where(top, 0.0, by_log).to(T)
                        of_lse += by_lse
                        of_mean += by_mean
                        outside = tl.minimum(outside, wild)
                else:
                    share, outside = shares_of(target, weight, own, at_target, c, there, classes, keep, even,
                                               class_strides[TARGET], SOFT, SLACK, T, SPAN)  # fmt: skip
                    each, term, by_log, of_lse, of_mean = terms_of(
                        share, distance(z, pivot[:, None]), lse, mean, rest, there, numbers, EVALUATE, ORDER, T
                    )
                    top = z == pivot[:, None]
                    of_tops = tl.where(top, by_log, 0.0).to(T)
                    of_rest = tl.where(top, 0.0, by_log).to(T)
                value = tl.sum(term, 1)
                sum_tops, sum_rest = tl.sum(of_tops, 1), tl.sum(of_rest, 1)
                sum_lse, sum_mean = tl.sum(of_lse, 1), tl.sum(of_mean, 1)
                mean_slope = lk.divide(sum_mean, tl.zeros_like(rest) + classes)
                if SOFT and CHECKED:
                    wrong = tl.min(outside, 1)
                    bad = counts & (wrong < NONE)
                    if tl.max(bad.to(tl.int32), 0) > 0:
                        found = tl.load(target + at_target + wrong.to(INDEX) * class_strides[TARGET], mask=bad, other=0)
                        report(record, bad.to(tl.int32) * PROBABILITY, found, row * classes + wrong, number)
            else:
                share = tl.full((ROWS,), 1.0, T)
                if SMOOTHED:
                    share *= keep
                if shift is not None:
                    mine += tl.load(shift + own).to(T)
                if weight is not None:
                    share = tl.load(weight + own).to(T)
                own_distance = distance(mine, pivot)
                value, by_log, by_lse, by_mean = evaluated(own_distance - rest, lse, mean, numbers, EVALUATE, ORDER, T)
                value = lk.times(share, value)
                by_log = lk.times(share, by_log)
                own_p = exp_of(mine, pivot, EXACT) * inverse
                slope = by_log * tl.where(mine == pivot, others * inverse, 1.0 - own_p)
                by_others = -by_log
                if ORDER != 0:
                    by_lse = lk.times(share, by_lse)
                    by_mean = lk.times(share, by_mean)
                if SMOOTHED:
                    value -= smooth.to(T) * mean
                    by_mean -= smooth.to(T)
                if ORDER != 0 or SMOOTHED:
                    mean_slope = lk.divide(by_mean, tl.zeros_like(rest) + classes)
                    slope += own_p * (by_lse - by_mean) + mean_slope
                    by_others += by_lse - by_mean

            # A row without a class, or of nothing but -inf, is NaN.
            poison = tl.where(bad | (pivot == float("-inf")), float("nan"), 1.0).to(T)
            value = tl.where(counts, value * weigh * poison, 0.0)
            if values is not None:
                tl.store(values + row, value.to(values.dtype.element_ty), mask=inside)
            if sums is not None:
                total += value.to(tl.float64)

            weigh_slope *= poison * factor
            learns = counts
            if denominator is not None:  # a mean over nothing has no gradient
                learns = learns & (i < inner * (factor != 0).to(INDEX))
            if slopes is not None or target_slopes is not None:
                at_slope = place(o, i, strides, SLOPE, ALIGNED)
                if not SHARED:
                    by_e = tl.where(learns, by_others * inverse * weigh_slope, 0.0).to(T)
                    by_own = tl.where(learns, slope * weigh_slope, 0.0).to(T)
                    if MEAN:
                        by_mean = tl.where(learns, mean_slope * weigh_slope, 0.0).to(T)
                steps = tl.cdiv(classes, CLASSES) if LONG else 1
                for back in tl.range(0, steps, num_stages=STREAM):
                    if LONG:
                        c = (steps - 1 - back) * CLASSES + lanes
                        there = read[:, None] & (c < classes)[None, :]
                        z = block_of(x, at, c, there, classes, shift, class_strides[X], T, SPAN, "evict_first")
                        e = exp_of_rows(z, pivot, ordinary, EXACT)
                        if SHARED:
                            share, _ = shares_of(target, weight, own, at_target, c, there, classes, keep, even,
                                                 class_strides[TARGET], SOFT, SLACK, T, SPAN)  # fmt: skip
                            each, _, by_log, _, _ = terms_of(
                                share, distance(z, pivot[:, None]), lse, mean, rest, there, numbers, EVALUATE, ORDER, T
                            )
                    written = inside[:, None] & (c < classes)[None, :]
                    if slopes is not None:
                        if SHARED:
                            slope_of = slopes_of(by_log, e, sum_tops, sum_rest, sum_lse, sum_mean, mean_slope,
                                                 others, inverse, ORDER) * weigh_slope[:, None]  # fmt: skip
                        else:
                            slope_of = e * by_e[:, None]
                            if MEAN:
                                slope_of += by_mean[:, None]
                            if not LONG:
                                slope_of = tl.where(c[None, :] == own[:, None], by_own[:, None], slope_of)
                        if SHARED or ALONG:
                            slope_of = tl.where(learns[:, None], slope_of, 0.0)
                        tl.store(
                            slopes + at_slope[:, None] + (c.to(SPAN) * class_strides[SLOPE])[None, :],
                            slope_of.to(slopes.dtype.element_ty), mask=written,
                        )  # fmt: skip
                    if target_slopes is not None:
                        by_share = tl.zeros((CLASSES,), T) + keep
                        if weight is not None:
                            by_share *= tl.load(weight + c, mask=c < classes, other=0).to(T)
                        slope_of = tl.where(learns[:, None], each * by_share[None, :] * weigh_slope[:, None], 0.0)
                        tl.store(
                            target_slopes + at_slope[:, None]
                            + (c.to(SPAN) * class_strides[SLOPE])[None, :],
                            slope_of.to(target_slopes.dtype.element_ty), mask=written,
                        )  # fmt: skip
                if LONG and not SHARED and slopes is not None:  # over what the loop has written
                    tl.debug_barrier()
                    at_own = at_slope + own.to(INDEX) * class_strides[SLOPE]
                    tl.store(slopes + at_own, by_own.to(slopes.dtype.element_ty), mask=learns)
        if sums is not None:
            tl.store(sums + tl.program_id(0), tl.sum(total, 0))


# ---------------------------------------------------------------------------------------------------------
# Log-probabilities as they are, and the denominator of a mean


@triton.jit(do_not_specialize=["tiles", "outer", "blocks", "divisor", "number", "ignored"])
def picked_kernel(
    x, target, shift, weight, sample_weight, mask, each_upstream, upstream, denominator, numbers, record,
    values, sums, slopes,
    tiles, outer, inner, classes, blocks, divisor, number, ignored, strides, class_strides,
    EVALUATE: tl.constexpr, ORDER: tl.constexpr, T: tl.constexpr, CHECKED: tl.constexpr, REWRITE: tl.constexpr,
    DIVIDED: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, LIMIT: tl.constexpr,
):  # fmt: skip
    """The formula of the right class's log-probability. The gradient is 0 for all other classes, NaN in bad rows."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        factor = factor_of(upstream, denominator, divisor, T)
        first = tl.program_id(0) * blocks
        total = tl.zeros((ROWS,), tl.float64)
        for step in range(blocks):
            o, i, row, inside = rows_at(first + step, tiles, outer, inner, DIVIDED, INDEX, ROWS)
            counts, own, bad, y = right_of(target, mask, o, i, inside, classes, ignored, strides, False)
            weigh, weigh_slope = weigh_rows(sample_weight, each_upstream, o, i, inside, strides, T)
            at = place(o, i, strides, X) + own.to(INDEX) * class_strides[X]
            logs = tl.load(x + at, mask=counts, other=0).to(T)
            if CHECKED:
                report(record, bad.to(tl.int32) * CLASS_INDEX, y, row, number)
                high = counts & (logs > LIMIT) & (bad == 0)
                report(record, high.to(tl.int32) * LOG_PROBABILITY, logs, row * classes + own, number)
                bad = bad | high
            if shift is not None:
                logs += tl.load(shift + own).to(T)
            share = tl.full((ROWS,), 1.0, T)
            if weight is not None:
                share = tl.load(weight + own).to(T)
            value, by_log, _, _ = evaluated(logs, logs, logs, numbers, EVALUATE, ORDER, T)
            poison = tl.where(bad, float("nan"), 1.0).to(T)
            value = tl.where(counts, lk.times(share, value) * weigh * poison, 0.0)
            if values is not None:
                tl.store(values + row, value.to(values.dtype.element_ty), mask=inside)
            if sums is not None:
                total += value.to(tl.float64)
            if slopes is not None:
                learns = counts
                if denominator is not None:
                    learns = learns & (i < inner * (factor != 0).to(INDEX))
                at = place(o, i, strides, SLOPE)
                slope = (lk.times(share, by_log) * weigh_slope * factor).to(slopes.dtype.element_ty)
                tl.store(slopes + at + own.to(INDEX) * class_strides[SLOPE], slope, mask=learns & (bad == 0))
                bad = bad & learns
                for c in range(tl.max(bad.to(tl.int32), 0) * classes):
                    nan = poison.to(slopes.dtype.element_ty)
                    tl.store(slopes + at + (own * 0 + c).to(INDEX) * class_strides[SLOPE], nan, mask=bad)
        if sums is not None:
            tl.store(sums + tl.program_id(0), tl.sum(total, 0))


@triton.jit(do_not_specialize=["outer", "blocks", "ignored"])
def count_kernel(
    target, weight, sample_weight, mask, sums, outer, inner, classes, blocks, ignored, strides,
    SOFT: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """For each program, the sum of its rows' weights in the mean; for indices times the weights of their classes."""
    first = tl.program_id(0) * blocks
    total = tl.zeros((ROWS,), tl.float64)
    for step in range(blocks):
        o, i, _, inside = rows_at(first + step, 1, outer, inner, True, INDEX, ROWS)
        counts, own, _, _ = right_of(target, mask, o, i, inside, classes, ignored, strides, SOFT)
        one = tl.full((ROWS,), 1.0, tl.float64)
        if sample_weight is not None:
            one = tl.load(sample_weight + place(o, i, strides, SAMPLE_WEIGHT), mask=inside, other=0).to(tl.float64)
        if weight is not None and not SOFT:
            one *= tl.load(weight + own).to(tl.float64)
        total += tl.where(counts, one, 0.0)
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))


# ---------------------------------------------------------------------------------------------------------
# Launching


def why_not(plan: Any, arguments: Arguments) -> str | None:
    """Why there is no kernel for this call."""
    if plan.log_probabilities and plan.smoothing:
        return "there is no kernel for label smoothing of log-probabilities"
    if plan.log_probabilities and plan.statistics != ["log_probability"]:
        return "there is no kernel for other statistics of log-probabilities"
    return None


def run(call: Call, wanted: int, upstream: Tensor | None, into: Sequence[Tensor | None] | None) -> Outputs:
    """Value and gradients; with `upstream`, gradients only: new ones, or those in `into` where it is not 1."""
    plan, operands, device = call.plan, call.operands, call.operands[0].device
    each, soft = plan.reduction == "none", operands[1].is_floating_point()
    shift = operands[2].contiguous() if len(operands) > 2 else None
    # A float cannot hold a score of 1e6 and the digits of its shift.
    compute = torch.float64 if shift is not None else call.compute
    weight = call.weight.contiguous() if call.weight is not None else None
    layout, tensors = placed(call, upstream if each else None)
    x, like, target, sample_weight, mask, each_upstream = tensors
    make = torch.zeros_like if plan.log_probabilities else torch.empty_like
    gradients = list(into) if into else [
        make(like, dtype=g.dtype, device=device) if wanted >> k & 1 else None for k, g in enumerate(operands)
    ]  # fmt: skip
    denominator, divisor = None, 1
    if plan.reduction == "mean":
        denominator = call.normalizer
        if denominator is None and soft and call.sample_weight is None and call.mask is None:
            divisor = layout.rows
        elif denominator is None:
            denominator = _denominator(call, weight, layout, tensors[2:5])
    values = torch.empty(layout.sizes, dtype=call.result, device=device) if each and upstream is None else None
    sums: Tensor | None
    if layout.rows == 0:
        sums = torch.zeros(1, dtype=torch.float64, device=device) if not each and upstream is None else None
    else:
        smoothed = plan.smoothing != 0 and not soft and weight is None and plan.formula is None
        shared = soft or (plan.smoothing != 0 and not smoothed)
        tile = _tile(layout, x.element_size(), compute == torch.float64, shared, plan.log_probabilities)
        divided = layout.outer > 1 and layout.inner < tile.rows
        tiles = cdiv(layout.rows if divided else layout.inner, tile.rows)
        total = tiles if divided else tiles * layout.outer
        of_mean = smoothed or (plan.formula is not None and "mean_log_probability" in plan.statistics)
        simple = not (shared or plan.log_probabilities or shift is not None)
        ahead = _ahead(tile, x.element_size(), device) if simple else 1
        resident = limits_of(device).multiprocessors if ahead > 1 and not tile.long else PROGRAMS
        blocks = cdiv(total, resident)
        programs = cdiv(total, blocks)
        sums = torch.empty(programs, dtype=torch.float64, device=device) if not each and upstream is None else None
        order = 0 if plan.formula is None else wire.CLASS_SCORES.statistics(plan.statistics)
        taken = [
            x, target, shift, weight, sample_weight, mask, each_upstream, None if each else upstream, denominator,
            numbers_of(plan, device), record_of(device), values, sums, gradients[0],
        ]  # fmt: skip
        number = number_of(plan, [*operands[0].shape, *layout.order]) if call.checked else 0
        sizes = tiles, layout.outer, layout.inner, layout.classes, blocks, divisor, number, int(plan.ignored)
        constants = {
            "EVALUATE": None if plan.formula is None else formulas.functions(plan.formula).evaluate, "ORDER": order,
            "T": TYPES[compute], "CHECKED": call.checked, "REWRITE": into is not None, "DIVIDED": divided,
            "INDEX": index_type(layout.reach), "ROWS": tile.rows, "num_warps": tile.warps, **OPTIONS,
        }  # fmt: skip
        if plan.log_probabilities:
            picked_kernel[(programs,)](
                *taken, *sizes, layout.strides, layout.class_strides, LIMIT=log_probability.high, **constants
            )
        else:
            class_scores_kernel[(programs,)](
                *taken, gradients[1], *sizes, _bits(plan.smoothing), layout.strides, layout.class_strides, SOFT=soft,
                SLACK=slack_of(target.dtype),
                SHARED=shared, SMOOTHED=smoothed, MEAN=of_mean,
                EXACT=x.element_size() == 2 and shift is None, LONG=tile.long, ALONG=layout.along,
                ALIGNED=layout.aligned, AHEAD=1 if tile.long else ahead, STREAM=ahead if tile.long else 1,
                SPAN=index_type(layout.span), CLASSES=tile.classes, **constants,
            )  # fmt: skip
    if values is not None:
        by_dimension = [layout.order.index(d) for d in sorted(layout.order)]
        return Outputs(values.permute(by_dimension).contiguous(), gradients)
    return Outputs(None if sums is None else finish(call, sums, divisor, denominator), gradients)


def _bits(value: float) -> int:
    """A float64 as an integer: Triton would round a Python float to float32."""
    return int(struct.unpack("q", struct.pack("d", value))[0])


def _denominator(call: Call, weight: Tensor | None, layout: Layout, read: list[Any]) -> Tensor:
    """The denominator of a mean, summed on the device."""
    target, sample_weight, mask = read
    soft = call.operands[1].is_floating_point()
    device = call.operands[0].device
    tiles = cdiv(layout.rows, 1024)
    blocks = tiles if layout.rows <= COUNTED else cdiv(tiles, 1024)
    programs = cdiv(tiles, max(blocks, 1))
    if programs == 0:
        return torch.zeros((), dtype=torch.float64, device=device)
    total = torch.empty((), dtype=torch.float64, device=device)
    sums = total if programs == 1 else torch.empty(programs, dtype=torch.float64, device=device)
    count_kernel[(programs,)](
        target, weight, sample_weight, mask, sums, layout.outer, layout.inner, layout.classes, blocks,
        int(call.plan.ignored), layout.strides, soft, index_type(layout.reach), 1024, **OPTIONS,
    )  # fmt: skip
    if programs > 1:
        finish_kernel[(1,)](sums, programs, 1, None, total, "", SUMS, **OPTIONS)
    return total


class Tile(NamedTuple):
    """The rows and classes that a program takes at once, its warps, and whether a row takes several such steps."""

    rows: int
    classes: int
    warps: int
    long: bool


def _tile(layout: Layout, size: int, double: bool, shared: bool, picked: bool) -> Tile:
    """The tile for scores of `size` bytes: what a thread holds is bounded by its registers."""
    if picked:
        return Tile(256, 1, 4, False)
    most = 32 >> double >> shared  # numbers that a thread holds, if the program has all 32 warps
    limit = ROW * most // 32
    classes = power_of_2(layout.classes)
    rows = max(1, min(1024 // classes, 32))
    if layout.along:  # a cache line of positions; a sector of one if the classes leave no room
        rows = min(max(1024 // classes, 128 // size), 128)
        rows = max(8, limit // classes) if rows * classes > limit else rows
    long = rows * classes > limit
    rows = min(32 if long and layout.along else rows, power_of_2(layout.rows))
    if long:
        return Tile(rows, max(1, (BLOCK * most // 32 >> double << (size == 2)) // rows), 32, True)
    return Tile(rows, classes, max(1, min(32, rows * classes // (32 * most))), False)


def _ahead(tile: Tile, size: int, device: torch.device) -> int:
    """The stages of the loop that reads tiles of scores of `size` bytes; 1: no tile is loaded ahead.

    A program that fills a multiprocessor would leave memory idle while it computes, so the next tile is loaded into
    shared memory meanwhile. Smaller programs share a multiprocessor and hide each other's latency.
    """
    if tile.warps < 32:
        return 1
    room = limits_of(device).shared_memory - 8192
    return max(1, min(3 if tile.long else 2, 1 + room // (tile.rows * tile.classes * size)))
