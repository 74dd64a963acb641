"""The vocabulary of exact formulas, for the proofs in tests/losses/. Nothing here knows the declarations.

A formula is written once, over a small vocabulary that exists twice: `Exact` works on mpmath numbers with 66 digits,
`Wide` on NumPy arrays in float64, which is truth enough for halves.

1. Inputs are exact floating-point numbers, also the parameters: pass them as rounded to the compute type.
2. A quantity is a tuple of terms; it is their sum. Most have one. Where a formula adds terms of either sign that may
   cancel, it returns them apart, and the size of the largest is the unit in which an error can be judged.
3. Limits: 0 * inf is 0. A quantity without a limit is NaN; nothing is compared there.
4. One-sided conventions at kinks are torch's: |0| has slope 0, a loss exactly at its margin is active, a variance
   below eps passes its gradient straight through, BCE limits the value at -100 but not the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

import mpmath
import numpy as np
import torch
from mpmath import mp, mpf

DIGITS = 66
Terms = tuple[Any, ...]
Result = tuple[Terms, dict[str, Terms]]
RowResult = tuple[Terms, dict[int, list[Any]]]  # of a row: the value, and the entries of each gradient


class Exact:
    """The vocabulary on mpmath numbers."""

    inf = mpf("inf")
    pi = mp.pi
    zero, one = mpf(0), mpf(1)

    @staticmethod
    def where(condition: bool, a: Any, b: Any) -> Any:
        return a if condition else b

    @staticmethod
    def maximum(a: Any, b: Any) -> Any:
        return a if a >= b or a != a else b

    @staticmethod
    def times(a: Any, b: Any) -> Any:
        return mpf(0) if (a == 0 and b == b) or (b == 0 and a == a) else a * b

    @staticmethod
    def div(a: Any, b: Any) -> Any:
        if b != 0:
            return a / b
        return mp.nan if a == 0 or a != a else a * mp.inf

    @staticmethod
    def log(x: Any) -> Any:
        return mp.nan if x < 0 or x != x else -mp.inf if x == 0 else mp.log(x)

    @staticmethod
    def log1p(x: Any) -> Any:
        return mp.nan if x < -1 or x != x else -mp.inf if x == -1 else mp.log1p(x)

    @staticmethod
    def exp(x: Any) -> Any:
        return mp.exp(x)

    @staticmethod
    def expm1(x: Any) -> Any:
        return mp.expm1(x)

    @staticmethod
    def tanh(x: Any) -> Any:
        return mp.tanh(x)

    @staticmethod
    def softplus(x: Any) -> Any:
        if x != x:
            return x
        return Exact.maximum(x, mpf(0)) + mp.log1p(mp.exp(-abs(x)))

    @staticmethod
    def sigmoid(x: Any) -> Any:
        if x != x:
            return x
        e = mp.exp(-abs(x))
        return (1 if x >= 0 else e) / (1 + e)

    @staticmethod
    def sign(x: Any) -> Any:
        return x if x != x else mpf(int(mp.sign(x)))

    @staticmethod
    def log_factorial(x: Any) -> Any:
        if x < mpf("1e-18"):  # 1 + x would lose x; log gamma(1 + x) as its series
            return x * (-mp.euler + x * (mp.zeta(2) / 2 - x * mp.zeta(3) / 3))
        return mp.loggamma(1 + x).real

    @staticmethod
    def log_gamma(x: Any) -> Any:
        return mp.loggamma(x).real

    @staticmethod
    def digamma(x: Any) -> Any:
        return mp.digamma(x)

    @staticmethod
    def trigamma(x: Any) -> Any:
        return mp.psi(1, x)

    @staticmethod
    def erf(x: Any) -> Any:
        return mp.erf(x) if mp.isfinite(x) else Exact.sign(x)

    @staticmethod
    def sqrt(x: Any) -> Any:
        return mp.sqrt(x)

    @staticmethod
    def atan2(y: Any, x: Any) -> Any:
        return mp.atan2(y, x)

    @staticmethod
    def cos(x: Any) -> Any:
        return mp.cos(x)

    @staticmethod
    def sin(x: Any) -> Any:
        return mp.sin(x)

    @staticmethod
    def acos(x: Any) -> Any:
        return mp.acos(x)

    @staticmethod
    def floor(x: Any) -> Any:
        return mp.floor(x)

    @staticmethod
    def sum(numbers: Iterable[Any]) -> Any:
        return mp.fsum(numbers)

    @staticmethod
    def softmax(scores: Sequence[Any]) -> tuple[list[Any], Callable[[int], Any], Callable[[int], Any]]:
        """The probabilities, and by class what misses to 1 and the log-probability, where nothing cancels.

        A score of -inf has no probability.
        """
        top = max(scores)
        powers = [mp.exp(x - top) for x in scores]
        total = mp.fsum(powers)
        others = cache(lambda c: mp.fsum(x for i, x in enumerate(powers) if i != c))
        log_probability = lambda c: -mp.log1p(others(c) / powers[c]) if powers[c] else -mp.inf
        return [x / total for x in powers], lambda c: others(c) / total, log_probability


class Wide:
    """The vocabulary on NumPy arrays in float64."""

    inf = np.inf
    pi = np.pi
    where = staticmethod(np.where)
    maximum = staticmethod(np.maximum)
    exp = staticmethod(np.exp)
    expm1 = staticmethod(np.expm1)
    tanh = staticmethod(np.tanh)
    sqrt = staticmethod(np.sqrt)
    cos = staticmethod(np.cos)
    sin = staticmethod(np.sin)
    acos = staticmethod(np.arccos)
    floor = staticmethod(np.floor)
    log = staticmethod(np.log)
    log1p = staticmethod(np.log1p)
    sign = staticmethod(np.sign)

    @staticmethod
    def times(a: Any, b: Any) -> Any:
        return np.where(((a == 0) & (b == b)) | ((b == 0) & (a == a)), 0.0, a * b)

    @staticmethod
    def div(a: Any, b: Any) -> Any:
        return np.divide(a, b)

    @staticmethod
    def softplus(x: Any) -> Any:
        return np.logaddexp(0.0, x)

    @staticmethod
    def sigmoid(x: Any) -> Any:
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, 1.0, e) / (1.0 + e)

    @staticmethod
    def erf(x: Any) -> Any:
        return torch.erf(torch.as_tensor(x)).numpy()

    @staticmethod
    def log_factorial(x: Any) -> Any:
        return torch.lgamma(1.0 + torch.as_tensor(x)).numpy()

    @staticmethod
    def log_gamma(x: Any) -> Any:
        return torch.lgamma(torch.as_tensor(x)).numpy()

    @staticmethod
    def digamma(x: Any) -> Any:
        return torch.digamma(torch.as_tensor(x)).numpy()

    @staticmethod
    def trigamma(x: Any) -> Any:
        return torch.special.polygamma(1, torch.as_tensor(x)).numpy()


def exact(formula: Callable[..., Result], operands: dict[str, float], parameters: dict[str, Any]) -> Result:
    """Value and gradients of a loss at one point, each as terms with 66 digits."""
    with mpmath.workdps(DIGITS):
        numbers = {key: mpf(x) for key, x in operands.items()}
        settings = {key: mpf(x) if isinstance(x, float) else x for key, x in parameters.items()}
        return formula(Exact, **numbers, **settings)


def numbers(x: Any) -> Any:
    """The numbers of a row of a loss, or its parameters, as mpmath's; integers, switches and what is not there stay."""
    if isinstance(x, dict):
        return {key: numbers(part) for key, part in x.items()}
    return [numbers(part) for part in x] if isinstance(x, list) else mpf(x) if isinstance(x, float) else x


def wide(formula: Callable[..., Result], operands: dict[str, np.ndarray], parameters: dict[str, Any]) -> Result:
    """The same for float64 arrays, in float64."""
    with np.errstate(all="ignore"):
        return formula(Wide, **operands, **parameters)


def ulp(x: Any, dtype: torch.dtype) -> Any:
    """The spacing of a dtype at a real number, also a little above its largest."""
    info = torch.finfo(dtype)
    smallest = math.frexp(info.smallest_normal)[1]
    exponent = smallest if x == 0 or not mpmath.isfinite(x) else mpmath.frexp(x)[1]
    return mpmath.ldexp(mpf(info.eps), int(min(max(exponent, smallest), 1040)) - 1)
