"""Sums over rows of embeddings: largest magnitudes, products, powers of differences."""

from __future__ import annotations

import math

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels.gpu import primitives as lk

INFINITY = tl.constexpr(math.inf)


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
