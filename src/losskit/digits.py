"""The truth with hundreds of digits, for the microscope: a formula evaluated by mpmath, as far as its digits carry.

1. The formula is that of books. It is computed with 40 digits and with 90, and again with 400 and 900 where they
   differ, or where the result is so small that both may have lost a part of it: exp(-x) - 1 + x is x with 90 digits
   where x is less than 1e-90.
2. Beyond 1000 a book's formula may need more digits than that: log(1 - sigmoid(x)) needs x / log(10) of them. There the
   truth is the formula as the kernels compute it, with as many digits.
3. Operands and parameters are the numbers that the dtype rounds them to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from losskit.calculus import derivative, truth
from losskit.curves import Sight
from losskit.graph import Expr
from losskit_guide.lines import Line
from losskit_guide.microscope import BITS

LEVELS = ((40, 90), (400, 900))  # digits
AGREE = 22  # so many digits must be the same: more than float64 has
SMALL = 1e-18  # 40 digits of numbers near 1 have no more than AGREE digits of what is less
FAR = 1000.0  # from here on a formula of books may have no digit left


def rounded(x: float, dtype: torch.dtype) -> float:
    """The number that a dtype has for a literal."""
    return float(torch.tensor(x, dtype=dtype).item())


def truths(line: Line, sight: Sight, dtype: torch.dtype) -> Callable[[float], list[Any]]:
    """Value and gradient at a number, as mpmath's; None where there is none."""
    import mpmath

    wide = torch.float64 if dtype == torch.float64 else torch.float32
    params = {p["name"] for p in line.card.parameters} - sight.operands.keys()
    numbers = line.numbers | sight.more
    given = {name: rounded(x, wide if name in params else dtype) for name, x in numbers.items()}
    roots = (sight.book, sight.computed), (derivative(sight.book, sight.x), sight.slope)
    rules = _rules()

    def at(x: float) -> list[Any]:
        numbers = given | {sight.variable or line.curve.variable: x}
        found = []
        for book, computed in roots:
            number = _converged(book, numbers, rules)
            if number is None or (abs(x) > FAR and (number == 0 or not mpmath.isfinite(number))):
                other = _converged(computed, numbers, rules)
                number = number if other is None else other
            elif x == 0.0 and not _alike(number, _converged(computed, numbers, rules)):
                number = None  # a corner, or a pole with a limit by convention
            with mpmath.workdps(LEVELS[0][1]):  # else it would be rounded to float64
                found.append(None if number is None else sight.share * number)
        return found

    return at


def _alike(a: Any, b: Any) -> bool:
    """Whether two numbers are the same, up to the rounding of a kernel's constants."""
    import mpmath

    return b is not None and (a == b or bool(mpmath.isfinite(a) and abs(a - b) <= abs(a) * mpmath.mpf(10) ** -12))


def _converged(root: Expr, numbers: dict[str, float], rules: dict[str, Callable[..., Any]]) -> Any:
    """A formula with as many digits as it needs; None where they are not enough."""
    import mpmath

    for pair in LEVELS:
        found = []
        for digits in pair:
            with mpmath.workdps(digits):
                try:
                    found.append(mpmath.mpf(truth(root, numbers, rules)))
                except (ArithmeticError, ValueError, TypeError):  # at a pole; a complex number
                    return None
        rough, fine = found
        if mpmath.isnan(fine):
            return None
        nothing = fine == 0 or rough == 0 or not mpmath.isfinite(fine)
        if pair == LEVELS[0] and (nothing or abs(fine) < SMALL):
            continue
        if rough == fine or (not nothing and abs(rough - fine) <= abs(fine) * mpmath.mpf(10) ** -AGREE):
            return fine
    return None


@cache
def _rules() -> dict[str, Callable[..., Any]]:
    """Primitives for the microscope: 0 times anything is 0, and nothing raises or takes all memory."""
    import mpmath

    zero, most = mpmath.mpf(0), mpmath.mpf(10) ** 6
    # Constants of formulas that stand for numbers with more digits, by their nearest float64.
    known = {
        float(number()): number
        for number in (
            lambda: mpmath.log(2), lambda: mpmath.log(mpmath.pi), lambda: mpmath.log(2 * mpmath.pi),
            lambda: mpmath.log(2 * mpmath.pi) / 2, lambda: mpmath.pi, lambda: 2 * mpmath.pi, lambda: mpmath.sqrt(2),
            lambda: 1 / mpmath.sqrt(2), lambda: mpmath.sqrt(mpmath.pi), lambda: 1 / mpmath.sqrt(mpmath.pi),
            lambda: 2 / mpmath.sqrt(mpmath.pi), lambda: mpmath.sqrt(2 / mpmath.pi),
        )
    }  # fmt: skip

    def product(a: Any, b: Any) -> Any:
        return zero if (a == 0 and b == b) or (b == 0 and a == a) else a * b

    def exp(x: Any) -> Any:
        return mpmath.inf if x > most else zero if x < -most else mpmath.exp(x)

    def expm1(x: Any) -> Any:
        return mpmath.inf if x > most else mpmath.expm1(x) if x > -most else -mpmath.mpf(1)

    def power(a: Any, b: Any) -> Any:
        return mpmath.inf if a == 0 and b < 0 else a**b

    def log1p(x: Any) -> Any:
        return mpmath.nan if x < -1 else -mpmath.inf if x == -1 else mpmath.log1p(x)

    def constant(x: float) -> Any:
        return known[x]() if x in known else -known[-x]() if -x in known else mpmath.mpf(x)

    return {"mul": product, "times": product, "mute": product, "exp": exp, "expm1": expm1, "power": power,
            "log1p": log1p, "constant": constant}  # fmt: skip


def text_of(number: Any, dtype: str) -> str:
    """A truth as text, with two digits more than the dtype has."""
    import mpmath

    if number is None:
        return ""
    text: str = mpmath.nstr(number, round(BITS[dtype] * 0.302) + 2, strip_zeros=True)
    return text.replace("+", "").removesuffix(".0")
