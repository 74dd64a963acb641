"""Masses of ways through a lattice: numbers whose exponents never end; and what becomes of a sample.

1. Every mass is m * 2^(512 e), m a float64 between 2^-256 and 2^256 (or 0) and e an int32 of its own: it neither
   underflows nor needs logarithms, sums are aligned by two comparisons, and peaked scores have no path of their own.
2. A mass below 2^(-512 * 2^30), whose logarithm is -3.8e11, counts as none.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

# What becomes of a sample. ASLEEP: the upstream gradient is 1, so nothing is rewritten.
FINE, IMPOSSIBLE, MASKED, BAD, ASLEEP = (tl.constexpr(i) for i in range(5))

HEAD_OF_LARGE, HEAD_OF_SMALL = tl.constexpr((1023 + 256) << 20), tl.constexpr((1023 - 256) << 20)  # upper halves
UP, DOWN = tl.constexpr(2.0**512), tl.constexpr(2.0**-512)
NONE = tl.constexpr(-(2**30))  # the exponent of a mass of 0
# 512 log(2), the first part short enough that its product with an exponent is exact.
HIGH, LOW = tl.constexpr(354.8913269042969), tl.constexpr(2.954239512342162e-05)


@triton.jit
def scaled(m, d):
    """A mantissa in units of an exponent that is larger by -d."""
    return tl.where(d == 0, m, tl.where(d == -1, m * DOWN, 0.0))


@triton.jit
def add(a, a_e, b, b_e):
    e = tl.maximum(a_e, b_e)
    return scaled(a, a_e - e) + scaled(b, b_e - e), e


@triton.jit
def normal(m, e):
    """A mass with its mantissa back between 2^-256 and 2^256. Integers: comparisons of float64 are slow."""
    bits = m.to(tl.int64, bitcast=True)
    head = (bits >> 32).to(tl.int32)
    up = (head < HEAD_OF_SMALL).to(tl.int32) - (head >= HEAD_OF_LARGE).to(tl.int32)
    m = (bits + (up.to(tl.int64) << 61)).to(tl.float64, bitcast=True)
    e -= up
    gone = (head == 0) | (e < NONE)
    return tl.where(gone, 0.0, m), tl.where(gone, NONE, e)


@triton.jit
def emission(lp):
    """A probability as a mass, from its logarithm."""
    q = libdevice.rint(lp * 0.0028177637517362566)
    q = tl.where(q < -536870912.0, -536870912.0, tl.where(q > 536870912.0, 536870912.0, q))
    m = libdevice.exp((lp - q * HIGH) - q * LOW)
    return m, tl.where(q == q, q, 0.0).to(tl.int32)


@triton.jit
def logarithm(m, e):
    """The logarithm of a mass. In float64: an integer times a number of the program would be a float32."""
    e = e.to(tl.float64)
    return (libdevice.log(m) + e * LOW) + e * HIGH


@triton.jit
def share(m, e, inverse, total_e):
    """A mass divided by the total."""
    m, d = m * inverse, e - total_e
    return tl.where(d == 0, m, tl.where(d == -1, m * DOWN, tl.where(d == 1, m * UP, 0.0)))


@triton.jit
def shifted(a, b, left):
    """Two numbers of one type from another lane. Both in one exchange, because an exchange costs two barriers."""
    both = tl.gather(tl.reshape(tl.join(a, b), left.shape), left, 0)
    return tl.split(tl.reshape(both, (left.shape[0] // 2, 2)))


@triton.jit
def left_of(W: tl.constexpr):
    """The places from which `shifted` gathers what lies in the lane before."""
    place = tl.arange(0, 2 * W)
    return tl.where(place < 2, place, place - 2)


@triton.jit
def right_of(W: tl.constexpr):
    """The places from which `shifted` gathers what lies in the lane after."""
    place = tl.arange(0, 2 * W)
    return tl.where(place < 2 * W - 2, place + 2, place)
