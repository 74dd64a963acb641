"""What the microscope saw, for people: where digits are lost, in words, in lines to paste, and as data.

`losskit.microscope` looks; this file needs neither torch nor mpmath.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

DTYPES = {"f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}
BITS = {"float64": 53, "float32": 24, "bfloat16": 8, "float16": 11}
WHATS = ("value", "gradient")
WHO = ("torch", "losskit")
# What a result may be, the worst last. Only the first is as it should be.
RIGHT, LOSES, WRONG, ZERO, INFINITE, NAN = KINDS = ("right", "loses", "wrong", "zero", "infinite", "nan")
SPARE = 0.25  # the part of its digits that a result may lose without being told
SAID = {
    LOSES: "{what} loses digits", WRONG: "no digit of the {what} is right", ZERO: "{what} is 0",
    INFINITE: "{what} is infinite", NAN: "{what} is NaN",
}  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """A result at a point: the number, by how many units in the last place it is off, and what that is."""

    result: float
    error: float
    kind: str

    @property
    def lost(self) -> float:
        """How many binary digits are lost, of those that a right result has."""
        return 0.0 if self.error <= 1.0 else math.log2(self.error) if math.isfinite(self.error) else math.inf


@dataclass(frozen=True)
class Point:
    """A place of the variable: the truth of value and gradient as text and as float, and what was computed there.

    x: the literal, which the dtype rounds to `exact`. Without a truth (an end, a pole) a text is empty.
    """

    x: float
    exact: float
    told: dict[str, str]
    truth: dict[str, float]
    shots: dict[str, dict[str, Shot]]  # by who, then by what; who raises has none


@dataclass(frozen=True)
class Stretch:
    """Where one kind of error reaches from and to, and its most telling point. None: to the end of all numbers."""

    dtype: str
    who: str
    what: str
    kind: str
    start: float | None
    end: float | None
    worst: Point

    @property
    def where(self) -> str:
        """The place, in words."""
        if self.start is None or self.end is None:
            if self.start is not None:
                return f"from {literal(self.start)} on"
            return "everywhere" if self.end is None else f"up to {literal(self.end)}"
        if self.start == self.end:
            return f"at {literal(self.start)}"
        return f"from {literal(self.start)} to {literal(self.end)}"

    @property
    def sentence(self) -> str:
        """What happens where, and what would be right."""
        shot = self.worst.shots[self.who][self.what]
        told = f"{SAID[self.kind].format(what=self.what)} {self.where}"
        at = f"at {literal(self.worst.x)}"
        truth = self.worst.told[self.what]
        if self.kind in (ZERO, INFINITE, NAN):
            return f"{told}; {at} the truth is {approximate(truth)}"
        off = f", off by {short(float(f'{shot.error:.2g}'))} ULP" if math.isfinite(shot.error) else ""
        digits = 3 + max(0, int((BITS[self.dtype] - shot.lost) * 0.302)) if off else 3  # so many that they differ
        return f"{told}; {at} it is {short(shot.result, digits)}, the truth {approximate(truth, digits)}{off}"


@dataclass(frozen=True)
class Film:
    """All points of a dtype, and who refuses it, in what words."""

    dtype: str
    points: list[Point]
    refused: dict[str, str]
    stretches: list[Stretch]


@dataclass(frozen=True)
class Sighting:
    """A loss under the microscope: over which number, computed by whom, seen in which dtypes."""

    name: str
    label: str
    variable: str
    about: str
    given: dict[str, float]
    calls: dict[str, str]  # by who: the call, as Python
    native: bool  # torch has a function of its own
    template: dict[str, dict[str, list[str]]] = field(repr=False)  # by dtype and who: two lines, with {x} for a literal
    films: list[Film] = field(repr=False)

    @property
    def stretches(self) -> list[Stretch]:
        """Where something is lost, in all dtypes."""
        return [stretch for film in self.films for stretch in film.stretches]

    def lines(self, dtype: str, who: str, point: Point) -> list[str]:
        """Two lines of Python that compute this point again, and print the truth beside it."""
        told = [point.told[what] or "none" for what in WHATS]
        return [line.replace("{x}", repr(point.x)).replace("{value}", told[0]).replace("{gradient}", told[1])
                for line in self.template[dtype][who]]  # fmt: skip

    def title(self, who: str) -> str:
        """Who it is, in words."""
        return who if who == "losskit" or self.native else "torch by hand"

    def worst(self, who: str) -> Stretch | None:
        """The most telling fault; the gradient comes before the value, single precision before the others."""
        found = [stretch for stretch in self.stretches if stretch.who == who]
        return min(found, key=_order, default=None)


def _order(stretch: Stretch) -> tuple[Any, ...]:
    """Faults without a right digit first, at ordinary numbers, of gradients, in single precision."""
    x = abs(stretch.worst.x)
    far = not 1e-4 <= x <= 1e4
    dtypes = ("float32", "bfloat16", "float64", "float16")
    shot = stretch.worst.shots[stretch.who][stretch.what]
    return (
        stretch.kind == LOSES, far, stretch.what != "gradient", dtypes.index(stretch.dtype), -KINDS.index(stretch.kind),
        -min(shot.error, 1e300),
    )  # fmt: skip


def worst_first(stretches: Iterable[Stretch]) -> list[Stretch]:
    """In the order in which they are told."""
    return sorted(stretches, key=_order)


def literal(x: float) -> str:
    """A number that has few digits, with all of them."""
    return short(x, 17) if len(repr(x)) > 12 else short(x, 12)


def short(x: float, digits: int = 4) -> str:
    """A number in few digits."""
    return f"{x:.{digits}g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def approximate(told: str, digits: int = 3) -> str:
    """The text of a number with many digits, in a few; it may be too small or too large for a float."""
    head, _, exponent = told.partition("e")
    if not exponent:
        return short(float(head), digits)
    return f"{float(head):.{digits}g}e{int(exponent)}"


def headline(seen: Sighting) -> str:
    """The one sentence."""
    counts = {}
    for who in WHO:
        blind = {s.dtype for s in seen.stretches if s.who == who and s.kind != LOSES}
        counts[who] = blind, {s.dtype for s in seen.stretches if s.who == who} - blind
    parts = []
    for who, (blind, loses) in counts.items():
        name = seen.title(who)
        if blind:
            parts.append(f"{name} has stretches without a right digit in {', '.join(_ordered(blind))}")
        elif loses:
            parts.append(f"{name} loses digits in {', '.join(_ordered(loses))}")
        else:
            parts.append(f"{name} keeps its digits everywhere")
    return f"{'; '.join(parts)}."


def _ordered(dtypes: set[str]) -> list[str]:
    return [dtype for dtype in DTYPES.values() if dtype in dtypes]


def table(seen: Sighting, most: int = 3) -> dict[str, list[tuple[str, str]]]:
    """By who: rows of a dtype and a sentence, the worst stretches of each dtype first."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for who in WHO:
        rows[who] = []
        for film in seen.films:
            own = worst_first(s for s in film.stretches if s.who == who)
            told = [stretch.sentence for stretch in own[:most]]
            if len(own) > most:
                rest = len(own) - most
                told.append(f"and {rest} more stretch{'es' * (rest > 1)}: --json has all")
            if who in film.refused:
                told.append(f"refused: {film.refused[who]}")
            elif not own:
                told.append(f"keeps its digits, off by {_largest(film, who):.2g} ULP at most")
            rows[who] += [(film.dtype if i == 0 else "", sentence) for i, sentence in enumerate(told)]
    return rows


def _largest(film: Film, who: str) -> float:
    """The largest error among right results."""
    errors = [shot.error for point in film.points for shot in point.shots.get(who, {}).values()]
    return max(errors, default=0.0)


def shown(seen: Sighting) -> Iterator[tuple[str, Stretch, list[str]]]:
    """The most telling point of each: who, where, and the two lines."""
    for who in WHO:
        worst = seen.worst(who)
        if worst is not None:
            yield who, worst, seen.lines(worst.dtype, who, worst.worst)


def data(seen: Sighting) -> dict[str, Any]:
    """As numbers, for JSON."""
    return {
        "loss": seen.name,
        "over": seen.variable,
        "given": seen.given,
        "calls": seen.calls,
        "dtypes": {
            film.dtype: {
                "refused": film.refused,
                "stretches": [
                    {"who": s.who, "what": s.what, "kind": s.kind, "from": s.start, "to": s.end,
                     "sentence": s.sentence, "at": s.worst.x, "lines": seen.lines(s.dtype, s.who, s.worst)}
                    for s in worst_first(film.stretches)
                ],
                "points": [
                    {"x": p.x, "truth": p.told} | {
                        who: {what: {"result": shot.result, "ulp": shot.error, "kind": shot.kind}
                              for what, shot in shots.items()}
                        for who, shots in p.shots.items()
                    }
                    for p in film.points
                ],
            }
            for film in seen.films
        },
    }  # fmt: skip
