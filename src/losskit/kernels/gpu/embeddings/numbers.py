"""Numbers of rows: units, distances, their derivatives, and the statistics that a formula asks for."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.embeddings.sums import INFINITY, difference
from losskit.kernels.gpu.shared import entry
from losskit.kernels.wire import EmbeddingsStatistic as Statistic

COSINE, APART = tl.constexpr(int(Statistic.COSINE)), tl.constexpr(int(Statistic.COSINE_DISTANCE))
POSITIVE = tl.constexpr(int(Statistic.POSITIVE_DISTANCE))
NEGATIVE = tl.constexpr(int(Statistic.NEGATIVE_DISTANCE))
TARGET = tl.constexpr(int(Statistic.TARGET))


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
