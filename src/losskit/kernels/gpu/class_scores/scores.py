"""Scores of rows, and their exponentials relative to a row's pivot."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels.gpu import primitives as lk

LOG2E = tl.constexpr(1.4426950408889634)
LOG2E_HIGH, LOG2E_LOW = tl.constexpr(1.4426950216293335), tl.constexpr(1.925963033500887e-8)  # two float32
UNIT = tl.constexpr(2.0**-20)  # factor of distances before they are summed, so that the largest ones do not overflow


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
