"""What several losses compute alike, exactly where the plain expression overflows or loses its digits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from losskit.formula import absolute, exp, expm1, where


def residual(input: Any, target: Any) -> tuple[Any, Any]:
    """The difference d and a factor k of it: k * d is input - target, also where that would overflow."""
    d = input - target
    huge = absolute(d) == math.inf
    return where(huge, 0.5 * input - 0.5 * target, d), where(huge, 2.0, 1.0)


def half(exponent: Any) -> Any:
    """Half of an exponent; 40 less where its exponential would overflow."""
    return where(exponent > 100.0, 0.5 * exponent - 40.0, 0.5 * exponent)


def multiplied(factor: Any, exponent: Any) -> Any:
    """factor * exp(exponent) of a factor that is not 0, where the exponential alone may overflow or be subnormal."""
    root = exp(half(exponent))
    return (factor * where(exponent > 100.0, math.exp(80.0), 1.0) * root) * root


def grown(factor: Any, exponent: Any) -> Any:
    """The same of any factor; 0 of 0, also where the exponential is infinite."""
    return where(factor == 0.0, 0.0, multiplied(factor, exponent))


def close(target: Any, log_mean: Any) -> Any:
    """target / mean - 1 with the digits of a small difference, where the logarithm of the mean is within 1."""
    return (target - 1.0) + target * expm1(-log_mean)


def polynomial(x: Any, coefficients: Sequence[float]) -> Any:
    """c0 + x (c1 + x (c2 + ...))."""
    result: Any = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        result = c + x * result
    return result
