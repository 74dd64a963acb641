"""The floating-point microscope: a loss over one number, by torch and by losskit, against hundreds of digits.

1. A point is a call of one unit, written as Python: what is measured is what can be pasted.
2. The truth is the formula as books print it, at the operands as the dtype rounds them; `losskit.digits` computes it.
3. Errors are in units in the last place of the truth. Ends of stretches are found by halving.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from losskit.curves import Sight
from losskit.digits import rounded, text_of, truths
from losskit.loss import Loss
from losskit.policy import checks
from losskit.registry import get
from losskit_guide.card import Limits, missing
from losskit_guide.lines import Line
from losskit_guide.microscope import (
    BITS,
    INFINITE,
    LOSES,
    NAN,
    RIGHT,
    SPARE,
    WHATS,
    WHO,
    WRONG,
    ZERO,
    Film,
    Point,
    Shot,
    Sighting,
    Stretch,
)

CLOSE = 4  # so many right points between two that lose digits are luck
Probe = Callable[[float], Point]


def look(line: Line, dtypes: Sequence[str], scope: dict[str, Any]) -> Sighting:
    """A loss under the microscope, in these dtypes. scope: what the calls need by name, torch and losskit."""
    try:
        import mpmath  # noqa: F401
    except ModuleNotFoundError as problem:
        raise missing("losskit microscope", problem) from None
    sight = sight_of(line)
    if sight is None:
        raise ValueError(
            f"{line.card.name} is no function of one number in a call, which the microscope needs; "
            f"`losskit audit {line.card.name}` looks at its whole batches"
        )
    calls, native = _calls(line, sight)
    templates = {dtype: {who: _template(line, sight, dtype, calls[who]) for who in WHO} for dtype in dtypes}
    films = [_film(line, sight, dtype, templates[dtype], scope) for dtype in dtypes]
    used = [name for name in line.variant.arguments if name in line.numbers and name in _named(sight)]
    return Sighting(
        line.card.name, line.label, sight.variable or line.curve.variable, sight.label or line.curve.label,
        {name: line.numbers[name] for name in used}, calls, native, templates, films,
    )  # fmt: skip


def sight_of(line: Line) -> Sight | None:
    """The loss as a call over one number; None where no call has this one number."""
    cls: Any = get(line.card.name)
    if line.card.curve is None or not issubclass(cls, Loss) or cls._sight is None:
        return None
    formula = next(x for x in cls._formulas.all() if cls._shown(x.switches) == line.variant.switches)
    found: Sight | None = cls._sight(formula)
    return found


def _named(sight: Sight) -> frozenset[str]:
    """The numbers that a formula depends on."""
    return sight.book.variables | sight.computed.variables


# ---------------------------------------------------------------------------------------------------------
# Calls


def _calls(line: Line, sight: Sight) -> tuple[dict[str, str], bool]:
    """The calls of torch and of losskit as Python, and whether torch has a function of its own."""
    cls: Any = get(line.card.name)
    optional = [name for name in sight.operands if name in (*cls._optional_operands(), *cls.params)]
    settings = {name: x for name, x in line.settings.items() if name in cls.params and name not in optional}
    settings |= {name: int(x) for name, x in settings.items() if cls.params[name].kind == "int" and x is not None}
    operands = [name for name in sight.operands if name not in optional]
    words = [*operands, *(f"{name}={name}" for name in optional)]

    def call(function: str) -> str:
        return f"{function}({', '.join([*words, *(f'{k}={x!r}' for k, x in settings.items())])}, reduction='none')"

    calls = {"losskit": call(f"losskit.functional.{cls.name}")}
    function = getattr(torch.nn.functional, cls.name, None)
    if function is not None and {*optional, *settings} <= inspect.signature(function).parameters.keys():
        calls["torch"] = call(f"torch.nn.functional.{cls.name}")
        return calls, True
    unknown = next((name for name in settings if f"{{{name}}}" not in sight.by_hand), "")
    if unknown:
        raise ValueError(
            f"{cls.name}: the formula by hand, which the microscope compares with where torch has no function, "
            f"has no {unknown}; leave it out"
        )
    values = {name: cls._default(name) for name in cls.params} | dict.fromkeys(cls._optional_operands()) | settings
    calls["torch"] = sight.by_hand.format(**{name: repr(x) for name, x in values.items()})
    return calls, False


def _template(line: Line, sight: Sight, dtype: str, call: str) -> list[str]:
    """Two lines of Python for a dtype and a call: the operands with `{x}` in them; the call, and the truth."""
    numbers = {name: repr(x) for name, x in line.numbers.items()}
    numbers[sight.variable or line.curve.variable] = "{x}"

    def written(x: Any) -> str:
        if isinstance(x, list):
            return f"[{', '.join(map(written, x))}]"
        return re.sub(r"[A-Za-z_]\w*", lambda name: numbers[name[0]], x) if isinstance(x, str) else repr(x)

    def of_integers(x: Any) -> bool:
        return all(map(of_integers, x)) if isinstance(x, list) else isinstance(x, int)

    by, place = sight.by
    parts = [f"import torch{', losskit' if 'losskit' in call else ''}"]
    for name, x in sight.operands.items():
        typed = "" if of_integers(x) else f", dtype=torch.{dtype}"
        parts.append(f"{name} = torch.tensor({written(x)}{typed}{', requires_grad=True' if name == by else ''})")
    at = ", ".join(map(str, place))
    shown = f"loss.item(), torch.autograd.grad(loss, {by})[0][{at}].item()"
    return ["; ".join(parts), f"loss = {call}; print({shown}, 'truth:', '{{value}}', '{{gradient}}')"]


# ---------------------------------------------------------------------------------------------------------
# A dtype


def _film(line: Line, sight: Sight, dtype: str, template: dict[str, list[str]], scope: dict[str, Any]) -> Film:
    """All points of a dtype."""
    own: torch.dtype = getattr(torch, dtype)
    runs = {who: _runner(template[who], scope) for who in WHO}
    allowed = Limits("any real number") if sight.variable else line.variant.domains[line.curve.variable]
    exact = truths(line, sight, own)
    refused: dict[str, str] = {}

    @cache
    def probe(x: float) -> Point:
        number = rounded(x, own)
        told, numbers, shots = {}, {}, {}
        found = exact(number)
        for what, true in zip(WHATS, found, strict=True):
            told[what], numbers[what] = text_of(true, dtype), math.nan if true is None else float(true)
        for who, run in runs.items():
            try:
                results = run(x)
            except Exception as problem:
                refused.setdefault(who, " ".join(str(problem).split()))
                continue
            pairs = zip(WHATS, results, found, strict=True)
            shots[who] = {what: _shot(result, true, own) for what, result, true in pairs if true is not None}
        return Point(x, number, told, numbers, shots)

    info = torch.finfo(own)
    # Of a sight of its own, twice the number must be exact, too.
    least, most = (info.smallest_normal, info.max / 4.0) if sight.variable else (0.0, info.max)
    if "losskit." in template["torch"][1]:  # at 0 torch's derivative of |x|, of which stable functions are made, is 0
        least = max(least, info.smallest_normal * info.eps)
    xs = [x for x in grid(own, allowed.high == 1.0) if allowed.includes(rounded(x, own)) and least <= abs(x) <= most]
    with warnings.catch_warnings(), checks("off"):
        warnings.simplefilter("ignore")
        points = [probe(x) for x in xs]
        stretches = [
            stretch for who in WHO for what in WHATS for stretch in _stretches(points, probe, dtype, who, what)
        ]
    return Film(dtype, points, {who: told for who, told in refused.items() if not any(who in p.shots for p in points)},
                stretches)  # fmt: skip


def _runner(lines: Sequence[str], scope: dict[str, Any]) -> Callable[[float], tuple[float, float]]:
    """The two lines as a function: value and gradient at a literal."""
    first, second = lines
    call, _, rest = second.partition("; print(")
    shown = rest.partition(", 'truth:'")[0]
    run = compile(call, "<microscope>", "exec")
    results = compile(f"({shown})", "<microscope>", "eval")

    def at(x: float) -> tuple[float, float]:
        own = dict(scope)
        exec(first.replace("{x}", repr(x)).partition("; ")[2], own)
        exec(run, own)
        value, gradient = eval(results, own)
        return float(value), float(gradient)

    return at


def grid(dtype: torch.dtype, upper: bool = False) -> list[float]:
    """Where to look, as short literals: linear in the middle, by magnitude to both sides of it; upper: close to 1, too.

    Most numbers are no round ones, as those of data are.
    """
    info = torch.finfo(dtype)
    tiny = _between(math.log10(info.smallest_normal * info.eps), math.log10(0.2), 28)
    far = [*_between(math.log10(26.0), min(3.3, math.log10(info.max)), 26)]
    far += _between(3.4, math.log10(info.max) - 0.001, 20) if info.max > 1e4 else []
    middle = [26.0 * (i + 0.37) / 64 for i in range(64)]
    positive = sorted({float(f"{x:.4g}") for x in [*tiny, *middle, *far]})
    points = [*(-x for x in reversed(positive)), 0.0, *positive]
    if upper:
        bits = BITS[str(dtype).removeprefix("torch.")]
        points += [1.0 - 2.0**-k for k in range(4, bits + 1)] + [(i + 0.37) / 48 for i in range(48)] + [1.0]
    found: dict[float, float] = {}
    for x in sorted(points):
        found.setdefault(rounded(x, dtype), x)
    return [x for number, x in found.items() if math.isfinite(number)]


def _between(low: float, high: float, count: int) -> list[float]:
    return [10.0 ** (low + (high - low) * i / (count - 1)) for i in range(count)]


# ---------------------------------------------------------------------------------------------------------
# Results


def _shot(result: float, number: Any, dtype: torch.dtype) -> Shot:
    """How far off a result is, and what that is called."""
    import mpmath

    info = torch.finfo(dtype)
    tiny, enough = info.smallest_normal * info.eps, 2.0 ** (BITS[str(dtype).removeprefix("torch.")] * SPARE)
    if abs(number) >= info.max * (1 + mpmath.mpf(info.eps) / 4):  # the right result is infinite
        right = math.isinf(result) and (result > 0) == (number > 0)
        near = abs(result) >= info.max * (1 - 4 * info.eps) and (result > 0) == (number > 0)
        return Shot(result, 0.0 if right else 1.0 if near else math.inf,
                    RIGHT if right or near else NAN if math.isnan(result) else WRONG)  # fmt: skip
    if math.isnan(result):
        return Shot(result, math.inf, NAN)
    if math.isinf(result):
        near = abs(number) > info.max * (1 - 4 * info.eps)
        return Shot(result, 1.0 if near else math.inf, RIGHT if near else INFINITE)
    exponent = int(mpmath.mag(number)) if number else -100000
    unit = mpmath.ldexp(info.eps, max(exponent, math.frexp(info.smallest_normal)[1]) - 1)
    error = float(abs(result - number) / unit)
    if error <= 1.0:
        return Shot(result, error, RIGHT)
    if result == 0.0 and abs(number) > tiny:
        return Shot(result, error, ZERO)
    if error > enough and abs(result - number) > abs(number) / 2:
        return Shot(result, error, WRONG)
    return Shot(result, error, LOSES if error > enough else RIGHT)


# ---------------------------------------------------------------------------------------------------------
# Stretches


def _stretches(points: Sequence[Point], probe: Probe, dtype: str, who: str, what: str) -> list[Stretch]:
    """Neighbours of the same fault, with ends that are found by halving."""
    own = [point for point in points if what in point.shots.get(who, {})]
    kinds = [point.shots[who][what].kind for point in own]
    losing = [i for i, kind in enumerate(kinds) if kind == LOSES]
    for i, j in itertools.pairwise(losing):
        if j - i <= CLOSE + 1 and set(kinds[i + 1 : j]) <= {RIGHT}:
            kinds[i:j] = [LOSES] * (j - i)
    found, start = [], 0
    for i in range(1, len(own) + 1):
        if i < len(own) and kinds[i] == kinds[start]:
            continue
        if kinds[start] != RIGHT:
            inside = own[start:i]
            low = _end(probe, who, what, own[start - 1].x, inside[0].x) if start else None
            high = _end(probe, who, what, own[i].x, inside[-1].x) if i < len(own) else None
            ends = [probe(x) for x in (low, high) if x is not None]
            found.append(Stretch(dtype, who, what, kinds[start], low, high, _telling(inside + ends, who, what)))
        start = i
    return found


def _telling(points: Sequence[Point], who: str, what: str) -> Point:
    """Of points with one fault, the one at the most ordinary number, of those that are off by far."""
    worst = max(point.shots[who][what].error for point in points)
    bad = [point for point in points if point.shots[who][what].error >= min(worst, 1e9) / 8]
    return min(bad, key=lambda point: abs(math.log10(abs(point.x) or 1e-320)))


def _end(probe: Probe, who: str, what: str, outside: float, inside: float) -> float:
    """Where a fault begins between a point without it and one with it, to three digits of their distance."""
    kind = probe(inside).shots[who][what].kind
    digits = 2 + max(2, math.ceil(-math.log10(abs(outside - inside) / max(abs(outside), abs(inside)))))
    for _ in range(24):
        same = outside * inside > 0 and not 0.25 < outside / inside < 4
        middle = math.copysign(math.sqrt(outside * inside), inside) if same else (outside + inside) / 2
        middle = float(f"{middle:.{digits}g}")
        point = probe(middle)
        if point.exact in (probe(outside).exact, probe(inside).exact):
            break
        shot = point.shots.get(who, {}).get(what)
        if shot is not None and shot.kind == kind:
            inside = middle
        else:
            outside = middle
    return inside
