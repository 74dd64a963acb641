"""A declaration of single elements against its own formula with 80 digits, where mpmath is installed."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.audit.counterexample import call_of, short
from losskit.audit.findings import Finding, Skipped, check, fault, warning
from losskit.audit.points import aligned, at_scale
from losskit.audit.subject import Subject

SIZES = (1e-12, 1e-6, 1e-3, 1.0, 5.0, 20.0, 40.0, 100.0, 1e4, 1e8)
ELEMENTS = 3  # of each place
DIGITS = 80
LOST = 1e6  # rounding errors of float64 that are too many: less than ten digits are left


@check("numbers", "Is float64 right to the last digits?", shrinks=True)
def precision(subject: Subject) -> Iterator[Finding]:
    """Value and gradient of elements in float64 against the formula of the declaration, evaluated with 80 digits."""
    exact = _exact(subject)
    none = subject.unreduced
    place = subject.predictions[0]
    for size in SIZES:
        example = subject.example()
        batches = [at_scale(subject, example, size)]
        batches += [x for right in (True, False) if (x := aligned(subject, example, size, right)) is not None]
        for operands in batches if 0.5 < size <= 1e4 else batches[:1]:
            try:
                got = none.run(operands)
            except ValueError:  # which refuses such operands
                continue
            slope = got.gradients[place] if place < len(got.gradients) else None
            if got.value.shape != subject.first.shape or slope is None:
                raise Skipped("the unreduced loss is not one for each element")
            for i in range(min(ELEMENTS, got.value.numel())):
                point = [float(x.reshape(-1)[i]) for x in operands]
                pair = float(got.value.reshape(-1)[i]), float(slope.reshape(-1)[i])
                found = _compared(exact(point), pair, point[place])
                if found is not None:
                    what, a, b = found
                    one = [x.reshape(-1)[i : i + 1] for x in operands]
                    far = abs(a - b) < 1e-3 * abs(b) or size > 100.0 or abs(b) < 1e-10
                    told = f"the {what} in float64 is {short(a)}, and {short(b)} with 80 digits."
                    yield (warning if far else fault)(told, call_of(none, one))
                    return


def _compared(truth: tuple[float, float, bool], got: tuple[float, float], x: float) -> tuple[str, float, float] | None:
    """What is off: value or gradient, as it is and as it should be."""
    value, slope, kink = truth
    eps = torch.finfo(torch.float64).eps
    room = LOST * eps * (abs(value) + abs(x * slope)) + 1e-300
    if math.isfinite(value) and abs(got[0] - value) > room:
        return "value", got[0], value
    if not kink and math.isfinite(slope) and abs(got[1] - slope) > 10 * LOST * eps * abs(slope) + 1e-300:
        return "gradient", got[1], slope
    return None


def _exact(subject: Subject) -> Callable[[Sequence[float]], tuple[float, float, bool]]:
    """The formula as a function of numbers: value, slope by the prediction, and whether there is a kink."""
    cls: Any = subject.declared
    plain = cls is not None and type(subject.loss) is cls and getattr(cls, "_of_formula", False)
    if not plain or cls._statistics is not None or cls.rows or subject.stopped:
        raise Skipped("no formula of single elements is declared")
    if not all(isinstance(x, Tensor) and x.shape == subject.first.shape for x in subject.operands):
        raise Skipped("the operands have different shapes")
    try:
        import mpmath
    except ModuleNotFoundError:
        raise Skipped("mpmath is not installed") from None
    formula, _ = cls._formula_of(
        {p.name: p.key(getattr(subject.loss, p.name)) for p in cls._plan_params()}
        | dict.fromkeys(cls._optional_operands(), False)
    )
    if any(name not in subject.names for name in formula.operands):
        raise Skipped("the formula speaks of components, or of tensors that are parameters")
    place = subject.names[subject.predictions[0]]
    words = {n: x for n, x in formula.switches.items() if n in cls.params and cls.params[n].kind in ("bool", "choice")}

    def at(point: Sequence[float]) -> tuple[float, float, bool]:
        numbers = dict(zip(subject.names, point, strict=True))
        with mpmath.workdps(DIGITS):
            given = {name: mpmath.mpf(x) for name, x in numbers.items()}
            given |= {name: mpmath.mpf(getattr(subject.loss, name)) for name in formula.numbers}
            taken = inspect.signature(cls.value).parameters

            def f(x: Any) -> Any:
                return cls.value(**{n: x if n == place else given.get(n, words.get(n)) for n in taken})

            x = given[place]
            step = (abs(x) or mpmath.mpf("1e-30")) * mpmath.mpf("1e-15")
            middle = f(x)
            try:
                left, right = (middle - f(x - step)) / step, (f(x + step) - middle) / step
            except (ValueError, ZeroDivisionError, TypeError):  # at the end of the domain
                return float(middle), math.nan, True
            kink = abs(left - right) > 1e-9 * (abs(left) + abs(right))
            unsure = abs(left) * step < abs(middle) * mpmath.mpf(10) ** (12 - DIGITS)
            return float(middle), float((left + right) / 2), bool(kink or unsure)

    return at
