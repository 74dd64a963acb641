"""The embeddings family on a GPU: sums over rows, the formula of their statistics, gradients by the embeddings.

1. A program takes a few rows and holds them in registers: memory is read once and the gradients are written. Rows
   longer than LONGEST are read in blocks, once for each pass over them.
2. Differences and gradients of float32 are float32. Sums are float64: squares of float32 neither overflow it nor
   exhaust its digits. What is computed per row is float64 too. The extra conversions are hidden by memory latency.
   Halves are computed in float32 throughout, general powers in float64.
3. Numbers whose squares could leave their range are scaled by a power of two. Where sums have the dtype of the elements
   it comes from the row's largest magnitude, before the sum; else from the sum, before the gradients.
4. Near cosine 1 the cosine has no digits left for 1 - cosine, nor floats for the gradient: both come from
   w = x - |x|/|y| y, by fused multiply-adds: 1 - cosine = |w|^2 / (2 |x|^2). An error of |x|/|y| counts only squared.
5. Roots, divisions and the formula must run once for each row. A sum leaves the same result in every thread that holds
   a part of the row. So rows are redistributed over the threads before their arithmetic.
6. Where a slope is 0 so is the gradient, whatever is in the row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from losskit.dtypes import HALVES
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.rows import alignment, narrow, per_row, step_of, tile_of
from losskit.kernels.gpu.shared import (
    OPTIONS,
    Call,
    Outputs,
    cdiv,
    denominator_of,
    entry,
    factor_of,
    finish,
    index_type,
    number_of,
    numbers_of,
    record_of,
    report,
)
from losskit.kernels.wire import EmbeddingsStatistic as Statistic
from losskit.plan import Arguments, Plan

LONGEST = 8192  # elements of a row in registers (float64: half as many); longer rows are read in blocks of half of it
COSINE, APART = tl.constexpr(int(Statistic.COSINE)), tl.constexpr(int(Statistic.COSINE_DISTANCE))
POSITIVE = tl.constexpr(int(Statistic.POSITIVE_DISTANCE))
NEGATIVE = tl.constexpr(int(Statistic.NEGATIVE_DISTANCE))
TARGET = tl.constexpr(int(Statistic.TARGET))
INFINITY = tl.constexpr(math.inf)


# ---------------------------------------------------------------------------------------------------------
# Rows


@triton.jit
def block_of(x, step, row, kept, column, width, T: tl.constexpr):
    """Columns of some rows; zeros where there is nothing, and where the mask hides it."""
    inside = kept[:, None] & (column < width)[None, :]
    return tl.load(x + (row * step)[:, None] + column[None, :], mask=inside, other=0).to(T)


@triton.jit
def difference(x, y, there, EPS: tl.constexpr):
    return tl.where(there[None, :], (x - y) + EPS, 0.0).to(x.dtype)


@triton.jit
def largest_of(a, b, c, there, PAIRS: tl.constexpr, EPS: tl.constexpr):
    """The largest magnitudes of two rows, or of the differences of each pair."""
    if PAIRS == 0:
        first, second = tl.max(tl.abs(a), 1), tl.max(tl.abs(b), 1)
        third = first
    else:
        first = tl.max(tl.abs(difference(a, b, there, EPS)), 1)
        second, third = first, first
        if PAIRS > 1:
            second = tl.max(tl.abs(difference(a, c, there, EPS)), 1)
        if PAIRS > 2:
            third = tl.max(tl.abs(difference(b, c, there, EPS)), 1)
    return first, second, third


@triton.jit
def power_sum(x, y, there, unit, P: tl.constexpr, EPS: tl.constexpr, S: tl.constexpr):
    """The sum that a distance is the root of. unit: see `unit_of`."""
    d = difference(x, y, there, EPS)
    a = tl.abs(d)
    if P == 0.0:
        terms = tl.where(a > 0, 1.0, a)
    elif P == 1.0:
        terms = a
    elif P == 2.0:
        t = (a * unit[:, None]).to(S)
        terms = t * t
    elif P == INFINITY:
        terms = tl.where(a == unit[:, None], 1.0, a * 0.0)  # ties, or NaN
    else:
        t = lk.divide(a, unit[:, None])
        if P == 3.0:
            terms = t * t * t
        else:
            terms = libdevice.pow(t, tl.full(t.shape, P, t.dtype))
    return tl.sum(terms.to(S), 1)


@triton.jit
def distance_sums(a, b, c, there, k0, k1, k2, PAIRS: tl.constexpr, P: tl.constexpr, EPS: tl.constexpr,
                  S: tl.constexpr):  # fmt: skip
    first = power_sum(a, b, there, k0, P, EPS, S)
    second, third = first, first
    if PAIRS > 1:
        second = power_sum(a, c, there, k1, P, EPS, S)
    if PAIRS > 2:
        third = power_sum(b, c, there, k2, P, EPS, S)
    return first, second, third


@triton.jit
def products(a, b, k0, k1, S: tl.constexpr):
    """|x|^2, |y|^2 and xy."""
    u, v = (a * k0[:, None]).to(S), (b * k1[:, None]).to(S)
    return tl.sum(u * u, 1), tl.sum(v * v, 1), tl.sum(u * v, 1)


@triton.jit
def apart_of(u, v, ratio):
    """w = x - ratio y, of a ratio that may be more precise than they are."""
    high = ratio.to(u.dtype)
    w = tl.fma(tl.broadcast_to(-high[:, None], u.shape), v, u)
    if ratio.dtype != u.dtype:
        low = (ratio - high.to(ratio.dtype)).to(u.dtype)
        w = tl.fma(tl.broadcast_to(-low[:, None], u.shape), v, w)
    return w


@triton.jit
def apart_sums(a, b, k0, k1, ratio, S: tl.constexpr):
    """|w|^2, wx and wy."""
    u, v = (a * k0[:, None]).to(S), (b * k1[:, None]).to(S)
    w = apart_of(u, v, ratio)
    return tl.sum(w * w, 1), tl.sum(w * u, 1), tl.sum(w * v, 1)


@triton.jit
def sums_of(a, b, c, there, k0, k1, k2, PASS: tl.constexpr, PAIRS: tl.constexpr, P: tl.constexpr, EPS: tl.constexpr,
            S: tl.constexpr):  # fmt: skip
    """The three results of a pass, for each row."""
    if PASS == "largest":
        first, second, third = largest_of(a, b, c, there, PAIRS, EPS)
    elif PASS == "apart":
        first, second, third = apart_sums(a, b, k0, k1, k2, S)
    elif PAIRS == 0:
        first, second, third = products(a, b, k0, k1, S)
    else:
        first, second, third = distance_sums(a, b, c, there, k0, k1, k2, PAIRS, P, EPS, S)
    return first, second, third


@triton.jit
def passed(
    x0, x1, x2, steps, row, kept, width, a, b, c, k0, k1, k2,
    PASS: tl.constexpr, PAIRS: tl.constexpr, P: tl.constexpr, EPS: tl.constexpr, T: tl.constexpr, S: tl.constexpr,
    WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`sums_of` whole rows: a, b and c, if they hold whole rows (WHOLE), else read block by block."""
    column = tl.arange(0, BLOCK)
    if WHOLE:
        first, second, third = sums_of(a, b, c, column < width, k0, k1, k2, PASS, PAIRS, P, EPS, S)
    else:
        first = tl.zeros(row.shape, T if PASS == "largest" else S)
        second, third = first, first
        for start in range(0, width, BLOCK):
            u = block_of(x0, steps[0], row, kept, start + column, width, T)
            v = block_of(x1, steps[1], row, kept, start + column, width, T)
            w = u
            if PAIRS > 1:
                w = block_of(x2, steps[2], row, kept, start + column, width, T)
            one, two, three = sums_of(u, v, w, start + column < width, k0, k1, k2, PASS, PAIRS, P, EPS, S)
            if PASS == "largest":
                first, second, third = tl.maximum(first, one), tl.maximum(second, two), tl.maximum(third, three)
            else:
                first, second, third = first + one, second + two, third + three
    return first, second, third


# ---------------------------------------------------------------------------------------------------------
# Numbers of rows


@triton.jit
def spread(x):
    """The same numbers, each in few threads instead of in every thread of its row (note 5)."""
    return tl.gather(x, tl.arange(0, x.shape[0]), 0)


@triton.jit
def scale_of(most):
    """A power of two that brings numbers up to `most` into a range where squares are safe."""
    if most.dtype == tl.float64:
        exponent = (most.to(tl.int64, bitcast=True) >> 52) & 2047
        scale = (tl.minimum(tl.maximum(2046 - exponent, 1), 2045) << 52).to(tl.float64, bitcast=True)
    else:
        exponent = (most.to(tl.int32, bitcast=True) >> 23) & 255
        scale = (tl.minimum(tl.maximum(254 - exponent, 1), 253) << 23).to(tl.float32, bitcast=True)
    return scale


@triton.jit
def scale_of_root(total):
    """The same for the root of a float64, in the range of float32."""
    exponent = ((total.to(tl.int64, bitcast=True) >> 52) & 2047) - 1023
    exponent = tl.minimum(tl.maximum(-(exponent >> 1), -126), 126)
    return ((exponent + 1023) << 52).to(tl.float64, bitcast=True)


@triton.jit
def unit_of(most, PAIRS: tl.constexpr, P: tl.constexpr):
    """The unit of a row, or of the differences of a pair: a factor for cosines and p = 2, else a divisor."""
    if PAIRS == 0 or P == 2.0:
        unit = scale_of(most)
    elif P == INFINITY:
        unit = most
    else:
        unit = tl.where((most > 0) & (most < float("inf")), most, 1.0).to(most.dtype)
    return unit


@triton.jit
def distance_of(total, unit, P: tl.constexpr):
    if P == 2.0:
        value = lk.divide(lk.sqrt(total), unit)
    elif P == INFINITY:
        value = tl.where(total == total, unit, total)
    elif P == 0.0 or P == 1.0:
        value = total
    else:
        value = unit * libdevice.pow(total, tl.full(total.shape, 1.0 / P, total.dtype))
    return value


@triton.jit
def magnitude_of(total, unit, P: tl.constexpr):
    """The logarithm of a distance; infinite if it is unknown."""
    if P == 2.0:
        size = 0.5 * libdevice.log(total) - libdevice.log(unit)
    elif P == 0.0 or P == 1.0 or P == INFINITY:
        size = tl.full(total.shape, float("inf"), total.dtype)
    else:
        size = libdevice.log(unit) + lk.divide(libdevice.log(total), tl.full(total.shape, P, total.dtype))
    return tl.where((total < float("inf")) & (size == size), size, float("inf")).to(total.dtype)


@triton.jit
def pull_of(slope, total, value, P: tl.constexpr):
    """The factor of a difference's part in the gradient; 0 where there is no derivative."""
    if P == 0.0:
        by = slope * 0.0
    elif P == 1.0:
        by = slope
    elif P == 2.0:
        by = lk.divide(slope, lk.sqrt(total))
    elif P == INFINITY:
        by = lk.divide(slope, total)
    else:
        by = slope * libdevice.pow(total, tl.full(total.shape, (1.0 - P) / P, total.dtype))
    by = tl.where(value == 0, slope * 0.0, by)
    return tl.where(slope == 0, 0.0, by).to(slope.dtype)


@triton.jit
def pulled(x, y, there, by, unit, P: tl.constexpr, EPS: tl.constexpr):
    """The gradient by x of a distance; that by y is minus this."""
    d = difference(x, y, there, EPS)
    by, unit = by[:, None], unit[:, None]
    if P == 2.0:
        part = d * unit * by
    elif P == 0.0 or P == 1.0:
        part = lk.sign(d) * by
    elif P == INFINITY:
        part = tl.where(tl.abs(d) == unit, lk.sign(d) * by, 0.0 * by)
    else:
        t = lk.divide(tl.abs(d), unit)
        if P == 3.0:
            slope = t * t
        else:
            slope = libdevice.pow(t, tl.full(t.shape, P - 1.0, t.dtype))
        part = lk.sign(d) * (tl.where(d == 0, 0.0, slope).to(d.dtype) * by)
    return tl.where(by == 0, 0.0, part).to(d.dtype)


@triton.jit
def choice(cosine, apart, positive, negative, label, K: tl.constexpr):
    """A statistic by its number."""
    if K == COSINE:
        chosen = cosine
    elif K == APART:
        chosen = apart
    elif K == NEGATIVE:
        chosen = negative
    elif K == TARGET:
        chosen = label
    else:
        chosen = positive
    return chosen


@triton.jit
def slope_of(d0, d1, d2, d3, STATISTICS: tl.constexpr, K: tl.constexpr):
    """The derivative by a statistic."""
    slope = tl.zeros_like(d0)
    if entry(STATISTICS, 0) == K:
        slope += d0
    if entry(STATISTICS, 1) == K:
        slope += d1
    if entry(STATISTICS, 2) == K:
        slope += d2
    if entry(STATISTICS, 3) == K:
        slope += d3
    return slope


# ---------------------------------------------------------------------------------------------------------
# The kernel


@triton.jit(do_not_specialize=["divisor", "number"])
def embeddings_kernel(
    x0, x1, x2, target, sample_weight, mask, each_upstream, upstream, denominator, numbers, record,
    values, sums, g0, g1, g2, by_target,
    rows, width, divisor, number, row_steps, steps,
    EVALUATE: tl.constexpr, VIOLATION: tl.constexpr, CODE: tl.constexpr, PAIRS: tl.constexpr,
    P: tl.constexpr, EPS: tl.constexpr, T: tl.constexpr, S: tl.constexpr, UNITS: tl.constexpr,
    CHECKED: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """PAIRS: the number of distances, 0 for a cosine. CODE: the formula's operands, three bits each. T, S: the types of
    elements and of sums. `width` and `row_steps` come divided by ALIGNED."""
    width *= ALIGNED
    starts = (row_steps[0] * ALIGNED, row_steps[1] * ALIGNED, row_steps[2] * ALIGNED)
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
        kept = row < rows
        if mask is not None:
            kept = kept & (tl.load(mask + row * steps[2], mask=kept, other=0) != 0)
        column = tl.arange(0, BLOCK)
        a, b, c = kept, kept, kept
        if WHOLE:
            a = block_of(x0, starts[0], row, kept, column, width, T)
            b = block_of(x1, starts[1], row, kept, column, width, T)
            if PAIRS > 1:
                c = block_of(x2, starts[2], row, kept, column, width, T)

        # Sums
        k0 = tl.full((ROWS,), 1.0, T)
        k1, k2 = k0, k0
        u0 = tl.full((ROWS,), 1.0, S)
        u1, u2 = u0, u0
        if UNITS:
            k0, k1, k2 = passed(x0, x1, x2, starts, row, kept, width, a, b, c, k0, k0, k0,
                                "largest", PAIRS, P, EPS, T, S, WHOLE, BLOCK)  # fmt: skip
            k0, k1, k2 = unit_of(k0, PAIRS, P), unit_of(k1, PAIRS, P), unit_of(k2, PAIRS, P)
            u0, u1, u2 = spread(k0.to(S)), spread(k1.to(S)), spread(k2.to(S))
        s0, s1, s2 = passed(x0, x1, x2, starts, row, kept, width, a, b, c, k0, k1, k2,
                            "sums", PAIRS, P, EPS, T, S, WHOLE, BLOCK)  # fmt: skip
        s0, s1, s2 = spread(s0), spread(s1), spread(s2)
        if T != S:
            if PAIRS == 0:
                u0, u1 = scale_of_root(s0), scale_of_root(s1)
                s0, s1, s2 = s0 * u0 * u0, s1 * u1 * u1, s2 * u0 * u1
            elif P == 2.0:
                u0, u1, u2 = scale_of_root(s0), scale_of_root(s1), scale_of_root(s2)
                s0, s1, s2 = s0 * u0 * u0, s1 * u1 * u1, s2 * u2 * u2
            k0, k1, k2 = u0.to(T), u1.to(T), u2.to(T)

        # Statistics
        cosine, apart, positive, negative = s0, s0, s0, s0
        root, ratio, along_x, along_y = s0, s0, s0, s0
        own, other = s0, s0  # the distances of the negative
        zero = s0 * s1 == 0
        near = zero
        if PAIRS == 0:
            root = lk.sqrt(tl.where(zero, 1.0, s0 * s1).to(S))
            cosine = tl.where(zero, 0.0, lk.clamp(lk.divide(s2, root), -1.0, 1.0)).to(S)
            ratio = lk.sqrt(lk.divide(s0, tl.where(zero, 1.0, s1).to(S)))
            ratio = tl.where(cosine < 0, -ratio, ratio)
            apart = 1.0 - cosine
            along_x = 1.0 - tl.abs(cosine)
            along_y = -ratio * along_x
            near = along_x < 0.5
            close = along_x < (0.5 if T == S else 1e-6)
            if tl.max(close.to(tl.int32), 0) > 0:
                ww, wx, wy = passed(x0, x1, x2, starts, row, kept, width, a, b, c, k0, k1, ratio,
                                    "apart", PAIRS, P, EPS, T, S, WHOLE, BLOCK)  # fmt: skip
                apart = tl.where(close & (cosine > 0), lk.divide(spread(ww), 2.0 * s0), apart)
                along_x = tl.where(close, lk.divide(spread(wx), s0), along_x)
                along_y = tl.where(close, lk.divide(spread(wy), s1), along_y)
        else:
            positive = distance_of(s0, u0, P)
            if PAIRS > 1:
                own = distance_of(s1, u1, P)
                negative = own
                if PAIRS > 2:
                    other = distance_of(s2, u2, P)
                    negative = lk.minimum(own, other)
                # If both overflow, only their order can be decided: the larger stays infinite, the smaller becomes 0.
                both = (positive == float("inf")) & (negative == float("inf"))
                if tl.max(both.to(tl.int32), 0) > 0:
                    size, far = magnitude_of(s0, u0, P), magnitude_of(s1, u1, P)
                    if PAIRS > 2:
                        far = tl.minimum(far, magnitude_of(s2, u2, P))
                    both = both & (tl.maximum(size, far) < float("inf"))
                    positive = tl.where(both & (size <= far), 0.0, positive).to(S)
                    negative = tl.where(both & (far <= size), 0.0, negative).to(S)
        label = s0
        if target is not None:
            label = tl.load(target + row * steps[0], mask=kept, other=0).to(S)

        # The formula
        o0 = choice(cosine, apart, positive, negative, label, CODE % 8)
        o1 = choice(cosine, apart, positive, negative, label, (CODE >> 3) % 8)
        o2 = choice(cosine, apart, positive, negative, label, (CODE >> 6) % 8)
        o3 = choice(cosine, apart, positive, negative, label, (CODE >> 9) % 8)
        value, d0, d1, d2, d3 = EVALUATE(o0, o1, o2, o3, numbers, S)
        weigh = tl.full((ROWS,), 1.0, S)
        if CHECKED:
            which, found = VIOLATION(o0, o1, o2, o3)
            which = tl.where(kept, which, 0)
            report(record, which, found, row, number)
            weigh = tl.where(which > 0, float("nan"), 1.0).to(S)
        if sample_weight is not None:
            weigh *= tl.load(sample_weight + row * steps[1], mask=kept, other=0).to(S)
        value = tl.where(kept, value * weigh, 0.0).to(S)
        if values is not None:
            tl.store(values + row, narrow(value, values), mask=row < rows)
        if sums is not None:
            tl.store(sums + tl.program_id(0), tl.sum(value.to(tl.float64), 0))

        # What the gradients are made of
        factor = factor_of(upstream, denominator, divisor, S)
        weigh *= factor
        if each_upstream is not None:
            weigh *= tl.load(each_upstream + row * steps[3], mask=kept, other=0).to(S)
        pushed = kept
        if denominator is not None:  # a mean over nothing has no gradient
            pushed = kept & (row < tl.where(factor == 0, 0, rows))
        if by_target is not None:
            slope = tl.where(pushed, slope_of(d0, d1, d2, d3, CODE, TARGET) * weigh, 0.0)
            tl.store(by_target + row, narrow(slope.to(S), by_target), mask=row < rows)
        if (g0 is not None) or (g1 is not None) or (g2 is not None):
            ab, ac, bc = s0, s0, s0  # slopes by the distances
            px, qx, py, qy = s0, s0, s0, s0  # gx = (px (y or w) + qx x) ab, gy = (py (x or w) + qy y) ab
            if PAIRS == 0:
                slope = slope_of(d0, d1, d2, d3, CODE, COSINE) - slope_of(d0, d1, d2, d3, CODE, APART)
                ab = tl.where(pushed, slope * weigh, 0.0).to(S)
                one = tl.full((ROWS,), 1.0, S)
                by_x = lk.divide(one, tl.where(zero, 1.0, s0).to(S))
                by_y = lk.divide(one, tl.where(zero, 1.0, s1).to(S))
                across = tl.where(zero, 0.0, lk.divide(one, root)).to(S)
                sign = tl.where(cosine < 0, -1.0, 1.0).to(S)
                back = lk.divide(one, tl.where(near, tl.abs(ratio), 1.0).to(S))
                px = tl.where(near, -sign * by_x, across)
                qx = tl.where(near, sign * along_x, -cosine) * by_x
                py = tl.where(near, back * by_y, across)
                qy = tl.where(near, -back * along_y, -cosine) * by_y
            else:
                slope = slope_of(d0, d1, d2, d3, CODE, POSITIVE)
                ab = pull_of(tl.where(pushed, slope * weigh, 0.0).to(S), s0, positive, P)
                if PAIRS > 1:
                    slope = tl.where(pushed, slope_of(d0, d1, d2, d3, CODE, NEGATIVE) * weigh, 0.0).to(S)
                    if PAIRS > 2:
                        share = tl.where(own < other, 0.0, tl.where(own > other, 1.0, 0.5)).to(S)
                        bc = pull_of(slope * share, s2, other, P)
                        slope = slope * (1.0 - share)
                    ac = pull_of(slope, s1, own, P)

            px, qx, py, qy = px.to(T), qx.to(T), py.to(T), qy.to(T)
            flat = (ab == 0)[:, None]
            ab, ac, bc = ab.to(T), ac.to(T), bc.to(T)

            # The gradients
            for start in range(0, width, BLOCK):
                there = start + column < width
                inside = (row < rows)[:, None] & there[None, :]
                at = (row * width)[:, None] + (start + column)[None, :]
                if WHOLE:
                    x, y, z = a, b, c
                else:
                    x = block_of(x0, starts[0], row, kept, start + column, width, T)
                    y = block_of(x1, starts[1], row, kept, start + column, width, T)
                    z = x
                    if PAIRS > 1:
                        z = block_of(x2, starts[2], row, kept, start + column, width, T)
                if PAIRS == 0:
                    u, v = x * k0[:, None], y * k1[:, None]
                    w = apart_of(u, v, ratio)
                    if g0 is not None:
                        by = (px[:, None] * tl.where(near[:, None], w, v) + qx[:, None] * u) * ab[:, None]
                        tl.store(g0 + at, narrow(tl.where(flat, 0.0, by * k0[:, None]).to(T), g0), mask=inside)
                    if g1 is not None:
                        by = (py[:, None] * tl.where(near[:, None], w, u) + qy[:, None] * v) * ab[:, None]
                        tl.store(g1 + at, narrow(tl.where(flat, 0.0, by * k1[:, None]).to(T), g1), mask=inside)
                else:
                    first = pulled(x, y, there, ab, k0, P, EPS)
                    second, third = tl.zeros_like(first), tl.zeros_like(first)
                    if PAIRS > 1:
                        second = pulled(x, z, there, ac, k1, P, EPS)
                    if PAIRS > 2:
                        third = pulled(y, z, there, bc, k2, P, EPS)
                    if g0 is not None:
                        tl.store(g0 + at, narrow(first + second, g0), mask=inside)
                    if g1 is not None:
                        tl.store(g1 + at, narrow(third - first, g1), mask=inside)
                    if g2 is not None:
                        tl.store(g2 + at, narrow(-second - third, g2), mask=inside)


def why_not(plan: Plan, arguments: Arguments) -> str | None:
    """Why there is no kernel for this call."""
    return None


def run(call: Call, wanted: int, upstream: Tensor | None, into: Sequence[Tensor | None] | None) -> Outputs:
    """Value and gradients; with `upstream`, gradients only: new ones, or those in `into` where it is not 1."""
    plan, operands = call.plan, call.operands
    device, shape, width = operands[0].device, operands[0].shape[:-1], operands[0].shape[-1]
    rows, each = shape.numel(), plan.reduction == "none"
    denominator, divisor = denominator_of(call, rows)
    values = torch.empty(shape, dtype=call.result, device=device) if each and upstream is None else None
    gradients = list(into) if into else [
        torch.empty(x.shape, dtype=x.dtype, device=device) if wanted >> i & 1 else None for i, x in enumerate(operands)
    ]  # fmt: skip
    pairs = 0 if {"cosine", "cosine_distance"} & set(plan.formula.operands) else plan.embeddings - 1 + plan.swap
    squares, general = not pairs or plan.p == 2.0, pairs > 0 and plan.p not in (0.0, 1.0, 2.0, math.inf)
    doubles = call.compute == torch.float64
    halves = not doubles and all(x.dtype in HALVES for x in operands[: plan.embeddings])
    of_elements = tl.float64 if doubles or (general and not halves) else tl.float32
    of_sums = tl.float32 if halves else tl.float64
    units = general or (pairs > 0 and plan.p == math.inf) or (squares and of_elements == of_sums)
    tile = tile_of(rows, width, LONGEST, 16, registers=2 if of_elements == tl.float64 else 1)
    programs = cdiv(rows, tile.rows)
    sums: Tensor | None = None
    if not each and upstream is None:
        sums = torch.empty(programs, dtype=torch.float64, device=device)
    if rows:
        embeddings = [_as_rows(x, rows, width) for x in operands[: plan.embeddings]]
        target, by_target = [*operands, None][plan.embeddings], [*gradients, None][plan.embeddings]
        extras = [target, call.sample_weight, call.mask, upstream if each else None]
        missing = [None] * (3 - plan.embeddings)
        inputs = [*embeddings, *missing, *(per_row(x, shape) for x in extras)]
        evaluate, violation, _ = formulas.functions(plan.formula)
        code = wire.EMBEDDINGS.statistics(plan.formula.operands)
        checked = call.checked and any(not domain.everything for domain in plan.formula.required)
        row_steps = [step_of(x) for x in inputs[:3]]
        aligned = alignment(width, *row_steps)
        reach = max((rows - 1) * max(step_of(x) for x in inputs), rows * width) + tile.block
        embeddings_kernel[(programs,)](
            *inputs, None if each else upstream, denominator, numbers_of(plan, device), record_of(device),
            values, sums, *gradients[: plan.embeddings], *missing, by_target,
            rows, width // aligned, divisor, number_of(plan, shape) if checked else 0,
            tuple(step // aligned for step in row_steps), tuple(step_of(x) for x in inputs[3:]),
            evaluate, violation, code, pairs, plan.p, plan.eps, of_elements, of_sums, units, checked,
            into is not None, index_type(reach), width <= tile.block, tile.rows, tile.block, aligned,
            num_warps=tile.warps, **OPTIONS,
        )  # fmt: skip
    return Outputs(values if sums is None else finish(call, sums, divisor, denominator), gradients)


def _as_rows(x: Tensor, rows: int, width: int) -> Tensor:
    """An embedding as a matrix; a copy where its rows are not dense, or their distances are not all the same."""
    dense = x if x.stride(-1) == 1 or width <= 1 else x.contiguous()
    return dense.reshape(rows, width)
