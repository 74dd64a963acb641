"""What computes a primitive for torch and for mpmath, where a name of theirs does not."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def softplus_torch(x: Tensor) -> Tensor:
    # F.softplus switches to the identity at 20, which is wrong by 580,105 ULP there in float64.
    return torch.maximum(x, torch.zeros_like(x)) + torch.log1p(torch.exp(-x.abs()))


def sigmoid_torch(x: Tensor) -> Tensor:
    e = torch.exp(-x.abs())  # torch.sigmoid flushes subnormal results to 0
    return torch.where(x >= 0, torch.ones_like(e), e) / (1.0 + e)


def _tensors(a: Tensor | float, b: Tensor | float) -> tuple[Tensor, Tensor]:
    """Two operands, of which one may be a number: a condition of numbers would be none that graphs know."""
    if not isinstance(a, Tensor):
        a = torch.full((), a, dtype=b.dtype, device=b.device)  # type: ignore[union-attr]
    return a, b if isinstance(b, Tensor) else torch.full((), b, dtype=a.dtype, device=a.device)


def times_torch(weight: Tensor | float, x: Tensor | float) -> Tensor:
    weight, x = _tensors(weight, x)
    return torch.where((weight == 0) & (x == x), torch.zeros_like(weight * x), weight * x)


def times_finite(weight: Tensor | float, x: Tensor | float) -> Tensor:
    """The same without a product that is NaN, which would stay in torch's own gradient."""
    weight, x = _tensors(weight, x)
    return weight * torch.where((weight == 0) & x.isinf(), torch.zeros_like(x), x)


def mute_torch(a: Tensor | float, b: Tensor | float) -> Tensor:
    a, b = _tensors(a, b)
    product = a * b
    return torch.where(((a == 0) | (b == 0)) & (a == a) & (b == b), torch.zeros_like(product), product)


def mp(name: str) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        import mpmath

        return getattr(mpmath, name)(*args)

    return function


def mp_divide(a: Any, b: Any) -> Any:
    import mpmath

    if b != 0:
        return a / b
    return mpmath.nan if a == 0 or mpmath.isnan(a) else a * mpmath.inf


def mp_log(x: Any) -> Any:
    import mpmath

    return mpmath.nan if x < 0 or mpmath.isnan(x) else mpmath.log(x)


def mp_softplus(x: Any) -> Any:
    import mpmath

    if mpmath.isnan(x):
        return x
    return max(x, mpmath.mpf(0)) + mpmath.log1p(mpmath.exp(-abs(x)))


def mp_sigmoid(x: Any) -> Any:
    import mpmath

    e = mpmath.exp(-abs(x))
    return (1 if x >= 0 else e) / (1 + e)


def mp_times(weight: Any, x: Any) -> Any:
    return weight if weight == 0 and x == x else weight * x


def mp_mute(a: Any, b: Any) -> Any:
    return a + b if a != a or b != b else a * b if a != 0 and b != 0 else mp("mpf")(0)


def mp_pick(first: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    return lambda a, b: a if a != a or (b == b and first(a, b)) else b


def mp_sign(x: Any) -> Any:
    import mpmath

    return x if x != x else mpmath.sign(x)


EXPM1M = [1.0 / math.factorial(k) for k in range(2, 21)]  # e^x - 1 - x = x^2 (1/2 + x (1/6 + ...))
MINUS_LOG1P = [
    2.0 / (2 * k + 3) for k in range(18)
]  # x - log(1 + x) = s (x - s^2 (2/3 + s^2 (2/5 + ...))), s = x/(2 + x)


def horner(x: Any, coefficients: list[float]) -> Any:
    """c0 + x (c1 + x (c2 + ...))."""
    result = x * 0.0 + coefficients[-1]
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


def expm1m_torch(x: Tensor) -> Tensor:
    near = x.abs() < 1.0
    small = torch.where(near, x, torch.zeros_like(x))  # torch differentiates the branch that is not taken, too
    far = torch.where(x == math.inf, x, torch.expm1(x) - torch.where(x == math.inf, torch.zeros_like(x), x))
    return torch.where(near, small * small * horner(small, EXPM1M), far)


def minus_log1p_torch(x: Tensor) -> Tensor:
    near = (x > -0.5) & (x < 1.0)
    small = torch.where(near, x, torch.zeros_like(x))
    s = small / (2.0 + small)
    finite = torch.where(x == math.inf, torch.zeros_like(x), x)
    far = torch.where(x == math.inf, x, finite - torch.log1p(finite))
    return torch.where(near, s * (small - s * s * horner(s * s, MINUS_LOG1P)), far)


def log1mexp_torch(x: Tensor) -> Tensor:
    near, one = x < math.log(2.0), torch.ones_like(x)
    by_log = torch.log(-torch.expm1(-torch.where(near, x, one)))
    return torch.where(near, by_log, torch.log1p(-torch.exp(-torch.where(near, one, x))))


def mp_expm1m(x: Any) -> Any:
    import mpmath

    if not mpmath.isfinite(x):
        return abs(x)
    with mpmath.extraprec(20 + 2 * max(0, -int(mpmath.mag(x)) if x else 0)):
        return mpmath.expm1(x) - x


def mp_minus_log1p(x: Any) -> Any:
    import mpmath

    if not mpmath.isfinite(x) or x <= -1:
        return mpmath.inf if x == mpmath.inf or x == -1 else mpmath.nan
    with mpmath.extraprec(20 + 2 * max(0, -int(mpmath.mag(x)) if x else 0)):
        return x - mpmath.log1p(x)


def mp_log1mexp(x: Any) -> Any:
    import mpmath

    if x != x or x < 0:
        return mpmath.nan
    return mp_log(-mpmath.expm1(-x)) if x < 1 else mpmath.log1p(-mpmath.exp(-x))


def mp_erfc(x: Any) -> Any:
    import mpmath

    return mpmath.erfc(x) if abs(x) < 1e4 else x if x != x else mpmath.mpf(0 if x > 0 else 2)


def mp_acos(x: Any) -> Any:
    import mpmath

    return mpmath.acos(x) if abs(x) <= 1 else mpmath.nan


def mp_floor(x: Any) -> Any:
    import mpmath

    return mpmath.floor(x) if mpmath.isfinite(x) else x
