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
    # The sum is taken for its dtype only: either side may be a number of the formula.
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
def mute(a, b):
    product = a * b
    return tl.where(((a == 0) | (b == 0)) & (a == a) & (b == b), 0.0, product).to(product.dtype)


@triton.jit
def exp_of_difference(x, y):
    """exp(x - y) for x <= y, corrected for the rounding error of x - y."""
    d = x - y
    taken = x - d
    lost = (x - (d + taken)) + (taken - y)
    e = libdevice.exp(d)
    return tl.fma(e, tl.maximum(lost, -1.0), e)  # maximum: where `lost` is NaN, of infinite numbers, e is 0


@triton.jit
def xlogy(x, y):
    return x * libdevice.log(tl.where((x == 0) & (y == y), 1.0, y).to(y.dtype))


@triton.jit
def log1p_unit(e):
    """log(1 + e) for 0 <= e <= 1. In float32 the polynomial of csrc/primitives.h: half the instructions of log1p."""
    if e.dtype == tl.float64:
        result = libdevice.log1p(e)
    else:
        p = tl.fma(e, -3.22684762e-3, 1.97892711e-2)
        p = tl.fma(e, p, -5.68797179e-2)
        p = tl.fma(e, p, 1.0600581e-1)
        p = tl.fma(e, p, -1.53079122e-1)
        p = tl.fma(e, p, 1.96788713e-1)
        p = tl.fma(e, p, -2.49553755e-1)
        p = tl.fma(e, p, 3.33302051e-1)
        p = tl.fma(e, p, -4.99999225e-1)
        result = tl.fma(e * e, p, e)
    return result


@triton.jit
def divide_unit(a, d):
    """a / d for 1 <= d <= 2. In float32 a reciprocal good to 1 ULP and one step of Newton's: a third of div_rn."""
    if d.dtype == tl.float64:
        quotient = a / d
    else:
        inverse = libdevice.fast_dividef(tl.full(d.shape, 1.0, tl.float32), d)
        rough = a * inverse
        quotient = tl.fma(tl.fma(-rough, d, a), inverse, rough)
    return quotient


@triton.jit
def softplus(x):
    return tl.where(x > 0, x, 0.0).to(x.dtype) + log1p_unit(libdevice.exp(-tl.abs(x)))


@triton.jit
def log_sigmoid(x):
    return -softplus(-x)


@triton.jit
def sigmoid(x):
    e = libdevice.exp(-tl.abs(x))
    return divide_unit(tl.where(x >= 0, 1.0, e).to(x.dtype), 1.0 + e)


@triton.jit
def logaddexp(a, b):
    apart = tl.where(a == b, 0.0, a - b).to((a - b).dtype)
    return maximum(a, b) + log1p_unit(libdevice.exp(-tl.abs(apart)))


@triton.jit
def hypot(a, b):
    """A power of two keeps the squares in range. libdevice's is infinite next to the largest number."""
    single: tl.constexpr = (a + b).dtype == tl.float32
    high: tl.constexpr = 2.0**63 if single else 2.0**511
    low: tl.constexpr = 2.0**-40 if single else 2.0**-400
    shrink: tl.constexpr = 2.0**-80 if single else 2.0**-600
    grow: tl.constexpr = 2.0**100 if single else 2.0**700
    x, y = tl.abs(a), tl.abs(b)
    largest = tl.where(x > y, x, y)
    u = tl.where(largest > high, x * shrink, tl.where(largest < low, x * grow, x))
    v = tl.where(largest > high, y * shrink, tl.where(largest < low, y * grow, y))
    root = sqrt(u * u + v * v)
    root = tl.where(largest > high, root * (1.0 / shrink), tl.where(largest < low, root * (1.0 / grow), root))
    return tl.where((x == float("inf")) | (y == float("inf")), float("inf"), root).to(root.dtype)


@triton.jit
def power(a, b):
    return libdevice.pow(a, b)


@triton.jit
def stop(x):
    return x


@triton.jit
def expm1m(x):
    """exp(x) - 1 - x: below 1 the series."""
    p = 1.5619206968586225e-16 + x * (8.22063524662433e-18 + x * 4.110317623312165e-19)
    p = 7.647163731819816e-13 + x * (4.779477332387385e-14 + x * (2.8114572543455206e-15 + x * p))
    p = 2.08767569878681e-09 + x * (1.6059043836821613e-10 + x * (1.1470745597729725e-11 + x * p))
    p = 2.7557319223985893e-06 + x * (2.755731922398589e-07 + x * (2.505210838544172e-08 + x * p))
    p = 0.001388888888888889 + x * (0.0001984126984126984 + x * (2.48015873015873e-05 + x * p))
    p = 0.16666666666666666 + x * (0.041666666666666664 + x * (0.008333333333333333 + x * p))
    p = 0.5 + x * p
    far = tl.where(x == float("inf"), x, libdevice.expm1(x) - tl.where(x == float("inf"), 0.0, x)).to(x.dtype)
    return tl.where(tl.abs(x) < 1, x * x * p, far)


@triton.jit
def minus_log1p(x):
    """x - log(1 + x): near 0 the series of the inverse hyperbolic tangent."""
    s = divide(x, 2.0 + x)
    z = s * s
    p = 0.06060606060606061 + z * (0.05714285714285714 + z * 0.05405405405405406)
    p = 0.07407407407407407 + z * (0.06896551724137931 + z * (0.06451612903225806 + z * p))
    p = 0.09523809523809523 + z * (0.08695652173913043 + z * (0.08 + z * p))
    p = 0.13333333333333333 + z * (0.11764705882352941 + z * (0.10526315789473684 + z * p))
    p = 0.2222222222222222 + z * (0.18181818181818182 + z * (0.15384615384615385 + z * p))
    p = 0.6666666666666666 + z * (0.4 + z * (0.2857142857142857 + z * p))
    far = tl.where(x == float("inf"), x, x - libdevice.log1p(x))
    return tl.where((x > -0.5) & (x < 1), s * (x - z * p), far)


@triton.jit
def log1mexp(x):
    return tl.where(x < 0.6931471805599453, libdevice.log(-libdevice.expm1(-x)), libdevice.log1p(-libdevice.exp(-x)))


@triton.jit
def _digamma_by_root(z):
    """digamma(x) / (x - its root) on [1, 2], in powers of z = x - 1.5; as in csrc/primitives.h."""
    p = 4.2653333844373586e-5 + z * (-2.196484669517091e-5 + z * (1.565197980393198e-4 + z * (-1.0893022856498073e-4)))
    p = 6.790931352890383e-4 + z * (
        -4.5133856535807001e-4 + z * (3.574160892346243e-4 + z * (-2.4223026660345615e-4 + z * p))
    )
    p = 3.5177271847911316e-3 + z * (
        -2.3443734990198843e-3 + z * (1.5659949395148446e-3 + z * (-1.0441759478593802e-3 + z * p))
    )
    p = 1.7907246139933334e-2 + z * (
        -1.1908213593611636e-2 + z * (7.927057688549205e-3 + z * (-5.2800439481248632e-3 + z * p))
    )
    p = 9.4988724451238502e-2 + z * (
        -6.1922133270489815e-2 + z * (4.076083402139815e-2 + z * (-2.6975796902208651e-2 + z * p))
    )
    p = 9.5105587603183284e-1 + z * (
        -4.2362742128146047e-1 + z * (2.4054248424080257e-1 + z * (-1.4840492305392819e-1 + z * p))
    )
    return p


@triton.jit
def digamma(x):
    """From 10 the asymptotic series; below, down or up to [1, 2] by digamma(x + 1) = digamma(x) + 1/x, and there a
    polynomial with the root as a factor; left of 0 by reflection. In float64, for near its root the sum cancels."""
    wide = x.to(tl.float64)
    y = tl.where(wide > 0, wide, 1.0 - wide)
    u = 1.0 / y
    z = u * u
    tail = 1.0 / 240 - z * (1.0 / 132 - z * (691.0 / 32760 - z / 12.0))
    high = libdevice.log(y) - (0.5 * u + z * (1.0 / 12 - z * (1.0 / 120 - z * (1.0 / 252 - z * tail))))
    near = y
    total = tl.where(y < 1, -u, 0.0)
    for _ in tl.static_range(8):
        down = near > 2
        near = tl.where(down, near - 1.0, near)
        total += tl.where(down, 1.0 / near, 0.0)
    one = tl.where(y < 1, 1.0, 0.0).to(tl.float64)  # y + 1 itself would be rounded
    at = near - (1.5 - one)
    low = total + ((near - (1.4616321449683622 - one)) - 9.5499954299656974e-17) * _digamma_by_root(at)
    right = tl.where(y < 10, low, high)
    part = wide - libdevice.rint(wide)
    left = tl.where(part == 0, float("nan"), right - 3.141592653589793 / libdevice.tan(3.141592653589793 * part))
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
