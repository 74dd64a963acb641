"""Losses as functions of one number: what plots, the command and the explorer draw. A family says over which number.

Curves are over a loss's natural variable: the prediction, or for a loss of rows what its formula speaks of.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from losskit.calculus import derivative
from losskit.declaration import Param
from losskit.display import text_of
from losskit.domains import Domain, Interval, Signs, real
from losskit.graph import Expr, Trace
from losskit.traced import Formula
from losskit_guide.card import Curve, CurveVariant, Given, Limits


@dataclass(frozen=True)
class Sight:
    """How the one number of a curve becomes a call: what the microscope (`losskit.microscope`) looks at.

    operands: by name, in the order of the call, what a tensor of one unit holds: numbers, names of the curve's numbers,
        lists of them, and "2 * name"; integers make a tensor of integers.
    by: the operand and the place in it that hold the curve's variable.
    book, computed: the loss as books print it, and as kernels compute it, over the variable `x`; slope: the derivative
        of the latter.
    by_hand: the loss in torch's operations, as Python, where torch has no function.
    share: the part of the call's loss that the curve is.
    variable, label: where it is another number than that of the curve: its name, and what it is.
    more: numbers of the formula that the curve does not have.
    """

    operands: dict[str, list[Any]]
    by: tuple[str, tuple[int, ...]]
    book: Expr
    computed: Expr
    slope: Expr
    x: Expr
    by_hand: str
    share: float = 1.0
    variable: str = ""
    label: str = ""
    more: dict[str, float] = field(default_factory=dict)


def sight(
    formula: Formula,
    over: str,
    statistics: Callable[[Expr, Callable[..., Any]], dict[str, Any]],
    operands: dict[str, list[Any]],
    by: tuple[str, tuple[int, ...]],
    by_hand: str,
    share: float = 1.0,
    **more: Any,
) -> Sight:
    """A sight of a loss whose `value` speaks of statistics, which are functions of the variable, as in `of_trace`."""
    cls, trace = formula.loss, Trace()
    x = trace.variable(over)
    made = [(f, statistics(x, f)) for f in (cls.textbook or cls.value, cls.value)]
    book, computed = (
        trace.lift(found["result"] if "result" in found else result_of(f, found, formula.numbers, formula.switches, x))
        for f, found in made
    )
    return Sight(operands, by, book, computed, derivative(computed, x), x, by_hand, share, **more)


def result_of(
    function: Callable[..., Any],
    found: dict[str, Any],
    numbers: Sequence[str],
    switches: Mapping[str, Any],
    x: Expr,
) -> Any:
    """A formula of a declaration on the statistics that were found."""
    arguments = {name: x.trace.variable(name) for name in numbers} | dict(switches) | found
    return function(**{name: arguments.get(name) for name in inspect.signature(function).parameters})


def called(formula: Formula, **statistics: str) -> str:
    """The formula of a loss as books print it, called with statistics that are torch's operations."""
    function = "textbook" if formula.loss.textbook else "value"
    taken = inspect.signature(getattr(formula.loss, function)).parameters
    given = [f"{name}={statistics.get(name, f'{{{name}}}')}" for name in taken]
    return f"losskit.{formula.loss.__name__}.{function}({', '.join(given)})"


def of_elements(cls: Any, formulas: Sequence[Formula]) -> Curve:
    """The curve over the first operand, or the first of its components that has a side to grow; the others stay."""
    variants = []
    place = next((i for i, domain in enumerate(formulas[0].domains) if domain.back), 0)
    variable = formulas[0].operands[place]
    for formula in formulas:
        x = formula.trace.variable(variable)
        domains = dict(zip(formula.operands, formula.required, strict=True))
        domains |= {name: cls.params[name].domain for name in formula.numbers if name not in formula.unused}
        domains = {variable: domains[variable], **domains}  # the variable is the first argument
        variants.append(curve_variant(formula.switches, domains, formula.value, formula.gradients[place], x, cls))
    first = max(formulas, key=lambda formula: len(formula.operands))
    operand = cls.operands.get(variable, first.declared[variable])
    domain = formulas[-1].declared[variable].domain if operand.unless else operand.domain
    low, high = limits_of(domain)
    if operand.kind == "distance":
        low = 0.0
    kinds = {"in [0, 1]": "probability", "log-probability (at most 0)": "log_probability"}
    told = (kind for description, kind in kinds.items() if domain.description.endswith(description))
    kind = operand.kind or next(told, "prediction")
    numbers = [of_param(p, cls) for p in cls.params.values() if p.name in first.numbers]
    return Curve(variable, operand.doc, kind, low, high, given_of(first, variable) + numbers, variants)


def of_trace(
    cls: Any,
    variable: str,
    kind: str,
    limits: tuple[float, float],
    given: list[Given],
    ways: Sequence[tuple[dict[str, Any], list[str], Callable[[Expr], dict[str, Any]]]],
    label: str,
) -> Curve:
    """A curve from `value` traced anew over the natural variable; each way is switches, numbers, statistics."""
    spoken = {statistic.name: statistic.domain for statistic in cls._statistics or ()}
    variants = []
    for switches, numbers, statistics in ways:
        trace = Trace()
        x = trace.variable(variable)
        names = dict.fromkeys([variable, *(g.name for g in given), *numbers])
        found = {variable: x} | statistics(x)
        given_or_made = found["result"] if "result" in found else result_of(cls.value, found, [*names], switches, x)
        root = trace.lift(given_or_made)
        domains = {name: spoken.get(name, real) for name in names} | {
            name: p.domain for name, p in cls.params.items() if name in names
        }
        domains |= {name: cls.operands[name].domain for name in names if name in cls.operands}
        variants.append(curve_variant(switches, domains, root, derivative(root, x), x, cls))
    declared = [p for p in cls.params.values() if any(p.name in way[1] for way in ways)]
    return Curve(variable, label, kind, *limits, given + [of_param(p, cls) for p in declared], variants)


def as_they_are(formulas: Sequence[Formula]) -> list[Any]:
    """The ways of `of_trace` where the formula speaks of the variable itself."""
    return [(f.switches, f.numbers, lambda x: {}) for f in formulas]


def curve_variant(
    switches: dict[str, Any], domains: dict[str, Domain], value: Expr, slope: Expr, x: Expr, cls: Any
) -> CurveVariant:
    """Value, slope and curvature as texts, with what each argument may be."""
    names = list(domains)
    whole = {name for name, p in cls.params.items() if p.kind == "int"}
    limits = {name: allowed(domain, name in whole) for name, domain in domains.items()}
    texts = [text_of(root, names) for root in (value, slope, derivative(slope, x))]
    return CurveVariant(
        cls._shown(switches), names, limits, *({k: t[k] for k in ("python", "javascript")} for t in texts)
    )


def allowed(domain: Domain, whole: bool = False) -> Limits:
    """A domain as data; whole: of integers."""
    if isinstance(domain, Signs):
        return Limits(domain.description, choices=[-1.0, 1.0])
    low, high = (x if math.isfinite(x) else None for x in (domain.low, domain.high))
    counted = range(int(low), int(high) + 1) if whole and low is not None and high is not None else ()
    choices = [float(x) for x in counted]
    return Limits(domain.description, low, high, domain.low_open, domain.high_open, choices)


def given_of(formula: Formula, variable: str = "", only: tuple[str, ...] = ()) -> list[Given]:
    """What stays fixed along a curve over a variable: the other operands, at harmless values."""
    result = []
    for name in [name for name in formula.operands if name != variable and (not only or name in only)]:
        operand = formula.declared[name]
        if isinstance(operand.domain, Signs):
            result.append(Given(name, operand.doc, 1.0, -1.0, 1.0, [-1.0, 1.0]))
            continue
        low, high = limits_of(operand.domain)
        value = 0.0 if operand.domain is real else 1.0 if operand.domain.includes(1.0) else operand.domain.typical
        result.append(Given(name, operand.doc, value, low, high))
    return result


def of_param(p: Param, cls: Any) -> Given:
    """A parameter as what is given along a curve."""
    low, high = limits_of(p.domain)
    default = cls._ordinary(p.name)
    if p.name == "p":
        low, high = 1.0, 2.0
    high = max(high, 2.0 * default) if default > high else high
    return Given(p.name, p.doc, default, min(low, default), high, [1.0, 2.0] if p.name == "p" else [])


def limits_of(domain: Domain) -> tuple[float, float]:
    """The part of a domain that is worth looking at."""
    if not isinstance(domain, Interval) or domain is real or domain.everything:
        return -4.0, 4.0
    low = domain.low if math.isfinite(domain.low) else round(domain.high) - 6.0
    high = domain.high if math.isfinite(domain.high) else domain.low + 4.0
    if low == domain.low and domain.low_open:
        low += 1e-3
    return low, min(high, 0.0) if domain.description.startswith("a log-probability") else high
