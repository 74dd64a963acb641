"""Losses as lines to look at: what a user names ("huber_loss:delta=2"), over an axis, as numbers.

An axis is each loss's own variable, or a probability, or a logit. Over a probability p a prediction is p itself, a
logit log(p / (1 - p)), a log-probability log(p); over a logit z the probability is sigmoid(z). Slopes over such an axis
follow from the chain rule.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from losskit_guide.card import Card, Curve, CurveVariant, find
from losskit_guide.scalar import evaluate, log_sigmoid, sigmoid

AXES = {"own": "the loss's own variable", "probability": "probability p", "logit": "logit z"}
LIMITS = {"probability": (0.001, 0.999), "logit": (-6.0, 6.0)}


@dataclass
class Line:
    """A loss under some settings of its parameters and of what is given."""

    card: Card = field(repr=False)
    settings: dict[str, Any]

    @property
    def curve(self) -> Curve:
        """The loss over its natural variable."""
        if self.card.curve is None:
            raise ValueError(f"{self.card.name} is not a function of one number")
        return self.card.curve

    @property
    def variant(self) -> CurveVariant:
        """The formula that the switches select; a tensor parameter is there if it is set."""
        wanted = self.card.setting(self.settings)
        return next(variant for variant in self.curve.variants if variant.switches == wanted)

    @property
    def label(self) -> str:
        """The name with what was set."""
        return self.card.name + "".join(f", {name}={_short(value)}" for name, value in self.settings.items())

    @property
    def limits(self) -> tuple[float, float]:
        """The part of its own axis that is worth looking at."""
        return self.curve.low, self.curve.high

    @property
    def numbers(self) -> dict[str, float]:
        """What is given and the parameters, as they are set."""
        own = {name: float(x) for name, x in self.settings.items() if isinstance(x, int | float)}
        return {g.name: g.value for g in self.curve.given} | own

    def allows(self, x: float, axis: str = "own") -> bool:
        """Whether the loss is defined at a point of an axis."""
        if axis == "probability" and not 0.0 <= x <= 1.0:
            return False
        return self.variant.domains[self.curve.variable].includes(place(self.curve.kind, axis, x)[0])

    def at(self, x: float, axis: str = "own") -> tuple[float, float]:
        """Value and slope at a point of an axis; NaN where the loss is not defined."""
        here, speed = place(self.curve.kind, axis, x)
        if not self.allows(x, axis):
            return math.nan, math.nan
        variant = self.variant
        numbers = self.numbers | {self.curve.variable: here}
        arguments = [numbers[name] for name in variant.arguments]
        value, slope = (
            evaluate(text["python"], variant.arguments)(*arguments) for text in (variant.value, variant.slope)
        )
        return value, slope * speed

    def over(self, xs: Sequence[float], axis: str = "own") -> tuple[list[float], list[float]]:
        """Values and slopes at many points."""
        points = [self.at(x, axis) for x in xs]
        return [value for value, _ in points], [slope for _, slope in points]


def line(text: str, **given: Any) -> Line:
    """A line from "name" or "name:parameter=number,..."; `given` are settings for lines that know them."""
    name, _, rest = text.partition(":")
    card = find(name.strip())
    numbers, switches = settable(card)
    settings: dict[str, Any] = {k: v for k, v in given.items() if k in numbers or k in switches}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = (x.strip() for x in part.partition("="))
        if not equals:
            raise ValueError(f"{part!r} is not a setting; write {name}:parameter=number")
        if key not in numbers and key not in switches:
            names = [*numbers, *(name for name in switches if name not in numbers)]
            close = difflib.get_close_matches(key, names, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" It has {', '.join(names) or 'none'}."
            raise ValueError(f"{card.name} has no parameter {key!r} to set here.{hint}")
        settings[key] = value
    found = Line(card, {
        key: _number(card.name, key, x) if key in numbers else _switch(card.name, key, x, switches[key])
        for key, x in settings.items()
    })  # fmt: skip
    allowed = found.variant.domains if card.curve else {}
    for key, number in found.numbers.items() if card.curve else ():
        if key in allowed and not allowed[key].includes(number):
            raise ValueError(f"{card.name}: {key} must be {allowed[key].description}, got {number:g}")
    return found


def of_card(card: Card) -> Line:
    """The line of a card, with its parameters as they are set."""
    known = [name for names in settable(card) for name in names]
    return Line(card, {name: value for name, value in card.values.items() if name in known})


def lines_of(losses: Sequence[Any], given: Mapping[str, Any]) -> list[Line]:
    """Lines from names with settings, cards, or lines; what is given must be known to one of them."""
    found = []
    for loss in losses:
        if isinstance(loss, str):
            found.append(line(loss, **given))
        elif isinstance(loss, Card):
            found.append(of_card(loss))
        else:
            found.append(loss)
    known = {name for one in found for names in settable(one.card) for name in names}
    unknown = [name for name in given if name not in known]
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise ValueError(f"none of these losses has a setting {unknown[0]!r}; they have {names}")
    return found


def limits_of(lines: Sequence[Line], axis: str, low: float | None, high: float | None) -> tuple[float, float]:
    """The range to draw: the user's, else what is worth looking at for all lines."""
    own = LIMITS.get(axis) or (min(x.limits[0] for x in lines), max(x.limits[1] for x in lines))
    start, end = (own[0] if low is None else low), (own[1] if high is None else high)
    if not start < end:
        raise ValueError(f"the range {start:g} to {end:g} is empty")
    check_places(lines, axis, [x for x in (low, high) if x is not None])
    return start, end


def check_places(lines: Sequence[Line], axis: str, xs: Sequence[float]) -> None:
    """Refuse points at which no loss is defined."""
    for x in xs:
        if any(one.allows(x, axis) for one in lines):
            continue
        if axis == "probability":
            raise ValueError(f"a probability is in [0, 1], got {x:g}")
        one = lines[0]
        allowed = one.variant.domains[one.curve.variable].description
        raise ValueError(f"{one.card.name}: {one.curve.variable} must be {allowed}, got {x:g}")


def link(lines: Sequence[Line]) -> str:
    """The part of the explorer's address that shows these losses: #loss=huber_loss:delta=2&loss=..."""
    parts = []
    for one in lines:
        given = [name for name in settable(one.card)[0] if name in one.settings]
        texts = [f"{name}={_short(one.settings[name])}" for name in given if one.settings[name] is not None]
        wanted = one.card.setting(one.settings)
        for name in [name for name in one.settings if name in wanted and wanted[name] != one.card.usual[name]]:
            on = wanted[name]
            texts.append(f"{name}={on}" if isinstance(on, str) else f"{'+' if on else '-'}{name}")
        parts.append(f"loss={one.card.name}{':' + ','.join(texts) if texts else ''}")
    return f"#{'&'.join(parts)}" if parts else ""


def settable(card: Card) -> tuple[list[str], dict[str, list[bool | str]]]:
    """The names of numbers that a line may set, and its switches with what they may be."""
    return ([g.name for g in card.curve.given], card.curve.switches) if card.curve else ([], {})


def _switch(loss: str, key: str, value: Any, allowed: Sequence[bool | str]) -> bool | str:
    """A setting of a switch; on the command line it is a text."""
    text = str(value)
    known = {str(x) if isinstance(x, str) else str(x).lower(): x for x in allowed}
    found = known.get(text, known.get(text.lower()))
    if found is not None:
        return found
    if not all(isinstance(x, str) for x in allowed):
        raise ValueError(f"{loss}: {key} must be True or False, got {value!r}")
    close = difflib.get_close_matches(text, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise ValueError(f"{loss}: {key} must be one of {', '.join(known)}, got {value!r}.{hint}")


def _number(loss: str, key: str, value: Any) -> Any:
    """A number as it is computed with; on the command line it is a text. None is none."""
    if value is None or str(value).lower() == "none":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{loss}: {key} must be a number, got {value!r}") from None


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def place(kind: str, axis: str, x: float) -> tuple[float, float]:
    """Where a variable of some kind is at a point of an axis, and how fast it moves there."""
    if axis == "own":
        return x, 1.0
    if kind not in ("prediction", "probability", "logit", "log_probability"):
        raise ValueError(f"a {kind} cannot be drawn over a {axis}")
    if axis == "probability":
        if kind == "logit":
            return (math.log(x) - math.log1p(-x), 1.0 / (x * (1.0 - x))) if 0 < x < 1 else (math.nan, math.nan)
        if kind == "log_probability":
            return (math.log(x), 1.0 / x) if x > 0 else (-math.inf, math.inf)
        return x, 1.0
    p, q = float(sigmoid(x)), float(sigmoid(-x))
    if kind == "logit":
        return x, 1.0
    if kind == "log_probability":
        return float(log_sigmoid(x)), q
    return p, p * q


def points(low: float, high: float, count: int) -> list[float]:
    """Evenly spaced numbers, both ends among them."""
    return [low + (high - low) * i / (count - 1) for i in range(count)]
