"""The formula language in Triton: the helpers that printed formulas call as `lk.name`, for float32 and float64.

1. They take blocks or scalars of one dtype and say nothing about rounding that `csrc/primitives.h` does not: the same
   splits, the same treatment of NaN, infinity and ties.
2. `libdevice` stands for exp and log: `tl.exp` is ex2 of a rounded product, wrong by 80 ULP at -80.
3. A division is IEEE's. Triton's `/` of float32 may be off by 2 ULP.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def divide(a, b):
    # The sum only tells the dtype: either may be a number of the formula.
    if (a + b).dtype == tl.float64:
        quotient = a / b
    else:
        quotient = tl.div_rn(a, b)
    return quotient


@triton.jit
def sqrt(x):
    if x.dtype == tl.float64:
        root = tl.sqrt(x)
    else:
        root = tl.sqrt_rn(x)
    return root


@triton.jit
def sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x)).to(x.dtype)


@triton.jit
def maximum(a, b):
    return tl.where((a >= b) | (a != a), a, b)


@triton.jit
def minimum(a, b):
    return tl.where((a <= b) | (a != a), a, b)


@triton.jit
def clamp(x, low, high):
    raised = tl.where(x < low, low, x)
    return tl.where(raised > high, high, raised)


@triton.jit
def times(weight, x):
    product = weight * x
    return tl.where((weight == 0) & (x == x), 0.0, product).to(product.dtype)


@triton.jit
def xlogy(x, y):
    return x * libdevice.log(tl.where((x == 0) & (y == y), 1.0, y).to(y.dtype))


@triton.jit
def softplus(x):
    above = tl.where(x > 0, x, 0.0).to(x.dtype)
    return tl.where(x == x, above + libdevice.log1p(libdevice.exp(-tl.abs(x))), x)


@triton.jit
def log_sigmoid(x):
    return -softplus(-x)


@triton.jit
def sigmoid(x):
    e = libdevice.exp(-tl.abs(x))
    return divide(tl.where(x >= 0, 1.0, e).to(x.dtype), 1.0 + e)


@triton.jit
def logaddexp(a, b):
    apart = tl.where(a == b, 0.0, a - b).to((a - b).dtype)
    return maximum(a, b) + libdevice.log1p(libdevice.exp(-tl.abs(apart)))


@triton.jit
def hypot(a, b):
    return libdevice.hypot(a, b)


@triton.jit
def power(a, b):
    return libdevice.pow(a, b)


@triton.jit
def digamma(x):
    """Up to 10 by digamma(x + 1) = digamma(x) + 1/x, then the asymptotic series; left of 0 by reflection. In float64,
    for near its root the sum cancels."""
    wide = x.to(tl.float64)
    y = tl.where(wide > 0, wide, 1.0 - wide)
    total = tl.zeros_like(y)
    for _ in tl.static_range(10):
        low = y < 10
        total -= tl.where(low, 1.0 / y, 0.0)
        y = tl.where(low, y + 1.0, y)
    u = 1.0 / y
    z = u * u
    series = z * (
        1.0 / 12 - z * (1.0 / 120 - z * (1.0 / 252 - z * (1.0 / 240 - z * (1.0 / 132 - z * 0.0210927960928))))
    )
    right = total + (libdevice.log(y) - 0.5 * u - series)
    part = wide - libdevice.rint(wide)
    left = right - 3.141592653589793 / libdevice.tan(3.141592653589793 * part)
    left = tl.where(part == 0, float("nan"), left)
    result = tl.where(wide > 0, right, tl.where(wide == 0, -1.0 / wide, left))
    return tl.where(x == x, result.to(x.dtype), x)


@triton.jit
def trigamma(x):
    wide = x.to(tl.float64)
    y = tl.where(wide > 0, wide, 1.0 - wide)
    total = tl.zeros_like(y)
    for _ in tl.static_range(10):
        low = y < 10
        total += tl.where(low, 1.0 / (y * y), 0.0)
        y = tl.where(low, y + 1.0, y)
    u = 1.0 / y
    z = u * u
    tail = 1.0 / 30 - z * (5.0 / 66 - z * (691.0 / 2730 - z * 7.0 / 6.0))
    series = z * (1.0 / 6 - z * (1.0 / 30 - z * (1.0 / 42 - z * tail)))
    right = total + u * (1.0 + 0.5 * u + series)
    part = wide - libdevice.rint(wide)
    sine = libdevice.sin(3.141592653589793 * part)
    left = 9.869604401089358 / (sine * sine) - right
    left = tl.where(part == 0, float("inf"), left)
    return tl.where(x == x, tl.where(wide > 0, right, left).to(x.dtype), x)
