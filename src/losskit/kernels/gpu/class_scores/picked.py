"""Log-probabilities as they are, and the denominator of a mean."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels import wire
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.class_scores.formula import evaluated
from losskit.kernels.gpu.class_scores.rows import SLOPE, X, counted, place, right_of, rows_at, weigh_rows
from losskit.kernels.gpu.frame import factor_of
from losskit.kernels.gpu.violations import report

LOG_PROBABILITY, CLASS_INDEX = (tl.constexpr(int(x)) for x in list(wire.ClassScoresViolation)[:2])


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
        total += counted(first + step, target, weight, sample_weight, mask, outer, inner, classes, ignored, strides,
                         SOFT, INDEX, ROWS)  # fmt: skip
    tl.store(sums + tl.program_id(0), tl.sum(total, 0))
