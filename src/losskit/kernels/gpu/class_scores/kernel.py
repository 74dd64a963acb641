"""Rows that fit into registers, and rows that do not."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels import wire
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.class_scores.formula import NONE, evaluated, shares_of, slopes_of, terms_of
from losskit.kernels.gpu.class_scores.rows import SLOPE, TARGET, X, counted, place, right_of, rows_at, weigh_rows
from losskit.kernels.gpu.class_scores.scores import (
    UNIT,
    block_of,
    distance,
    exp_of,
    exp_of_rows,
    is_ordinary,
    part_of_mean,
)
from losskit.kernels.gpu.frame import conclude, factor_by
from losskit.kernels.gpu.violations import report

# Words of this folder:
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
# The other violations are of scores that are changed, which torch checks before.
LOG_PROBABILITY, CLASS_INDEX, PROBABILITY = (tl.constexpr(int(x)) for x in list(wire.ClassScoresViolation)[:3])


@triton.jit(do_not_specialize=["tiles", "outer", "blocks", "divisor", "number", "ignored", "smoothing"])
def class_scores_kernel(
    x, target, shift, weight, sample_weight, mask, each_upstream, upstream, denominator, numbers, record,
    values, sums, loss, slopes, target_slopes,
    tiles, outer, inner, classes, blocks, divisor, number, ignored, smoothing, strides, class_strides,
    EVALUATE: tl.constexpr, ORDER: tl.constexpr, MEAN: tl.constexpr, T: tl.constexpr, SOFT: tl.constexpr,
    SLACK: tl.constexpr, SHARED: tl.constexpr, SMOOTHED: tl.constexpr, EXACT: tl.constexpr, CHECKED: tl.constexpr,
    REWRITE: tl.constexpr, DIVIDED: tl.constexpr, LONG: tl.constexpr, ALONG: tl.constexpr, ALIGNED: tl.constexpr,
    INDEX: tl.constexpr, SPAN: tl.constexpr, AHEAD: tl.constexpr, STREAM: tl.constexpr, ROWS: tl.constexpr,
    CLASSES: tl.constexpr, COUNT: tl.constexpr, EMPTY: tl.constexpr,
):  # fmt: skip
    """Losses and gradients of rows. SHARED: every class contributes its own share of the loss. SMOOTHED: smoothing adds
    the same share to all classes, so the mean log-probability gives their sum. MEAN: that mean is needed. ALONG: lanes
    lie along positions (note 2). REWRITE: the gradient is written for an upstream of 1; rewrite it for another.
    COUNT: so many rows, or more than there are, whose denominator each program finds by itself; 0: it is known."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        by = None
        if COUNT > 0:
            tile = tl.full((), 0, tl.int32)
            weights = counted(tile, target, weight, sample_weight, mask, outer, inner, classes, ignored, strides,
                              SOFT, INDEX, COUNT)  # fmt: skip
            by = tl.sum(weights, 0)
            if loss is None:  # who adds the sums reads it
                tl.store(denominator, by, mask=tl.program_id(0) == 0)
        elif denominator is not None:
            by = tl.load(denominator)
        factor = factor_by(upstream, by, divisor, T)
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
            if sums is not None or loss is not None:
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
        if loss is not None:
            conclude(tl.sum(total, 0), divisor, by, loss, EMPTY)
