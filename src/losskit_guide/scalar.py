"""The primitives of formulas on Python floats, with IEEE's answers where Python's math raises.

`evaluate` turns the Python text of a card into a function of floats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

inf, nan = math.inf, math.nan


def divide(a: float, b: float) -> float:
    """a / b, infinite or NaN where b is 0."""
    a, b = float(a), float(b)
    if b != 0.0:
        return a / b
    return nan if a == 0.0 or a != a else math.copysign(inf, a) * math.copysign(1.0, b)


class Number(float):
    """A float whose quotients and products never raise."""

    def __truediv__(self, other: float) -> Number:
        return Number(divide(self, other))

    def __rtruediv__(self, other: float) -> Number:
        return Number(divide(other, self))

    def __add__(self, other: float) -> Number:
        return Number(float(self) + float(other))

    def __sub__(self, other: float) -> Number:
        return Number(float(self) - float(other))

    def __mul__(self, other: float) -> Number:
        return Number(float(self) * float(other))

    def __rsub__(self, other: float) -> Number:
        return Number(float(other) - float(self))

    def __neg__(self) -> Number:
        return Number(-float(self))

    __radd__, __rmul__ = __add__, __mul__


def _guarded(function: Callable[[float], float], outside: Callable[[float], float]) -> Callable[[float], Number]:
    """A function of math whose errors become what `outside` says."""

    def call(x: float) -> Number:
        try:
            return Number(function(x))
        except (ValueError, OverflowError):
            return Number(outside(x))

    return call


def where(condition: Any, a: float, b: float) -> float:
    return a if condition else b


def sign(x: float) -> Number:
    return Number(x if x != x or x == 0 else math.copysign(1.0, x))


def maximum(a: float, b: float) -> float:
    return a if a != a or (b == b and a >= b) else b


def minimum(a: float, b: float) -> float:
    return a if a != a or (b == b and a <= b) else b


def clamp(x: float, low: float, high: float) -> float:
    return low if x < low else high if x > high else x


def absolute(x: float) -> Number:
    return Number(abs(float(x)))


exp = _guarded(math.exp, lambda x: inf)
expm1 = _guarded(math.expm1, lambda x: inf)
log = _guarded(math.log, lambda x: -inf if x == 0 else nan)
log1p = _guarded(math.log1p, lambda x: -inf if x == -1 else nan)
sqrt = _guarded(math.sqrt, lambda x: nan)
tanh = _guarded(math.tanh, lambda x: nan)
erf = _guarded(math.erf, lambda x: nan)
erfc = _guarded(math.erfc, lambda x: nan)
sin = _guarded(math.sin, lambda x: nan)
cos = _guarded(math.cos, lambda x: nan)
acos = _guarded(math.acos, lambda x: nan)
floor = _guarded(lambda x: float(math.floor(x)), lambda x: x)
lgamma = _guarded(math.lgamma, lambda x: inf)


def atan2(y: float, x: float) -> Number:
    return Number(math.atan2(y, x))


def stop(x: float) -> float:
    return x


_EXPM1M = [1.0 / math.factorial(k) for k in range(2, 21)]
_MINUS_LOG1P = [2.0 / (2 * k + 3) for k in range(18)]


def _horner(x: float, coefficients: Sequence[float]) -> float:
    result = 0.0
    for c in reversed(coefficients):
        result = result * x + c
    return result


def expm1m(x: float) -> Number:
    """By the series near 0."""
    x = float(x)
    near = abs(x) < 1.0
    return Number(x * x * _horner(x, _EXPM1M) if near else x if x == inf else float(expm1(x)) - x)


def minus_log1p(x: float) -> Number:
    """By the series of the inverse hyperbolic tangent near 0."""
    x = float(x)
    if not -0.5 < x < 1.0:
        return Number(x if x == inf else x - float(log1p(x)))
    s = x / (2.0 + x)
    return Number(s * (x - s * s * _horner(s * s, _MINUS_LOG1P)))


def log1mexp(x: float) -> Number:
    x = float(x)
    return log(-expm1(-x)) if x < math.log(2.0) else log1p(-exp(-x))


def softplus(x: float) -> Number:
    return Number(maximum(x, 0.0) + math.log1p(math.exp(-abs(x))))


def log_sigmoid(x: float) -> Number:
    return -softplus(-x)


def sigmoid(x: float) -> Number:
    e = math.exp(-abs(x))
    return Number((1.0 if x >= 0 else e) / (1.0 + e))


def times(weight: float, x: float) -> Number:
    return Number(weight if weight == 0 and x == x else weight * x)


def mute(a: float, b: float) -> Number:
    return Number(0.0 if (a == 0 or b == 0) and a == a and b == b else a * b)


def xlogy(x: float, y: float) -> Number:
    return times(x, log(y))


def logaddexp(a: float, b: float) -> Number:
    return Number(a + math.log(2.0) if a == b else maximum(a, b) + math.log1p(math.exp(-abs(a - b))))


def hypot(a: float, b: float) -> Number:
    return Number(math.hypot(a, b))


def power(a: float, b: float) -> Number:
    odd = b % 2.0 == 1.0  # then the sign of a stays
    try:
        return Number(math.pow(a, b))
    except OverflowError:
        return Number(math.copysign(inf, a) if odd else inf)
    except ValueError:
        return Number(nan if a != 0 else math.copysign(inf, a) if odd else inf)


def digamma(x: float) -> Number:
    """By recurrence to x >= 10 and the asymptotic series there."""
    if x == -inf:
        return Number(nan)
    if x <= 0 and x % 1.0 == 0:
        return Number(-math.copysign(inf, x) if x == 0 else nan)
    if x < 0:
        return Number(digamma(1.0 - x) - math.pi / math.tan(math.pi * x))
    shift = 0.0
    while x < 10:
        shift, x = shift - divide(1.0, x), x + 1.0
    y = 1.0 / (x * x)
    series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y * (1 / 132 - y * 691 / 32760)))))
    return Number(shift + math.log(x) - 0.5 / x - series)


def trigamma(x: float) -> Number:
    """As digamma; the derivative of its series."""
    if x == -inf:
        return Number(nan)
    if x <= 0 and x % 1.0 == 0:
        return Number(inf)
    if x < 0:
        return Number(math.pi**2 / math.sin(math.pi * x) ** 2 - trigamma(1.0 - x))
    shift = 0.0
    while x < 10:
        shift, x = shift + divide(1.0, x * x), x + 1.0
    y = 1.0 / (x * x)
    series = y * (1 / 6 - y * (1 / 30 - y * (1 / 42 - y * (1 / 30 - y * (5 / 66 - y * 691 / 2730)))))
    return Number(shift + 1.0 / x + y / 2 + series / x)


def evaluate(statements: Sequence[str], arguments: Sequence[str]) -> Callable[..., float]:
    """A function of floats from the Python text of a formula."""
    return _compiled(tuple(statements), tuple(arguments))


@cache
def _compiled(statements: tuple[str, ...], arguments: tuple[str, ...]) -> Callable[..., float]:
    *lines, result = statements
    source = "\n".join([f"def formula({', '.join(arguments)}):", *(f"    {x}" for x in [*lines, f"return {result}"])])
    scope: dict[str, Any] = dict(globals())
    exec(compile(source, "<losskit formula>", "exec"), scope)
    function = scope["formula"]
    return lambda *numbers: float(function(*map(Number, numbers)))
