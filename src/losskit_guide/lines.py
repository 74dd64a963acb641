"""Losses as lines to look at: what a user names ("huber_loss:delta=2"), over an axis, as numbers.

An axis is each loss's own variable, or a probability, or a logit. Over a probability p a prediction is p itself, a
logit log(p / (1 - p)), a log-probability log(p); over a logit z the probability is sigmoid(z). Slopes over such an axis
follow from the chain rule.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from losskit_guide.card import Card, Curve, CurveVariant, find
from losskit_guide.scalar import evaluate, log_sigmoid, sigmoid

AXES = {"own": "the loss's own variable", "probability": "probability p", "logit": "logit z"}
LIMITS = {"probability": (0.001, 0.999), "logit": (-6.0, 6.0)}


@dataclass
class Line:
    """A loss under some settings of its parameters and of what is given."""

    card: Card
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
        defaults = {p["name"]: bool(p["default"]) for p in self.card.parameters}
        for variant in self.curve.variants:
            if all(bool(self.settings.get(k, defaults.get(k, False))) == on for k, on in variant.switches.items()):
                return variant
        raise ValueError(f"{self.card.name} has no formula for {self.settings}")

    @property
    def label(self) -> str:
        """The name with what was set."""
        return self.card.name + "".join(f", {name}={_short(value)}" for name, value in self.settings.items())

    @property
    def limits(self) -> tuple[float, float]:
        """The part of its own axis that is worth looking at."""
        return self.curve.low, self.curve.high

    def at(self, x: float, axis: str = "own") -> tuple[float, float]:
        """Value and slope at a point of an axis."""
        here, speed = place(self.curve.kind, axis, x)
        variant = self.variant
        numbers = {g.name: g.value for g in self.curve.given} | {k: float(v) for k, v in self.settings.items()}
        numbers[self.curve.variable] = here
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
    numbers, switches = _settable(card)
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
        settings[key] = _number(card.name, key, value, switch=key not in numbers)
    return Line(card, settings)


def of_card(card: Card) -> Line:
    """The line of a card, with its parameters as they are set."""
    known = [name for names in _settable(card) for name in names]
    return Line(card, {name: value for name, value in card.values.items() if name in known})


def _settable(card: Card) -> tuple[list[str], list[str]]:
    """The names of numbers and of switches that a line may set."""
    return ([g.name for g in card.curve.given], card.curve.switches) if card.curve else ([], [])


def _number(loss: str, key: str, value: str, switch: bool) -> Any:
    if switch:
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        raise ValueError(f"{loss}: {key} must be True or False, got {value!r}")
    try:
        return float(value)
    except ValueError:
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
