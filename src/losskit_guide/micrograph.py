"""What pictures of the microscope share, in files and in the site: colours, the axis, the height of a bar."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from losskit_guide.microscope import BITS, INFINITE, LOSES, NAN, RIGHT, WRONG, ZERO, Film, Shot, Sighting, short

COLOURS = {RIGHT: "#4c9a6a", LOSES: "#e3a008", WRONG: "#b4552d", ZERO: "#8e6cc9", INFINITE: "#2f7fc1", NAN: "#d1495b"}
MEANINGS = {
    RIGHT: "right", LOSES: "digits lost", WRONG: "no digit right", ZERO: "0, which is wrong",
    INFINITE: "infinite, which is wrong", NAN: "NaN",
}  # fmt: skip
SIGNS = {WRONG: "✗", ZERO: "0", INFINITE: "∞", NAN: "NaN"}
LINEAR = 26.0  # in the middle the axis is linear as far as this
SMALL = 0.25
WIDTH, EDGE, LEFT, GAP, STRIP = 1180.0, 28.0, 92.0, 34.0, 34.0


class Axis:
    """Places from 0 to 1 for the numbers of a sighting: linear in the middle, by magnitude outside of it."""

    def __init__(self, xs: Sequence[float]) -> None:
        sizes = [abs(x) for x in xs if x]
        self.tiny, self.huge = min(sizes), max(sizes)
        self.unit = max(xs) <= 1.0 and min(xs) >= 0.0  # probabilities: fine near 1, too
        self.near = min([1.0 - x for x in xs if x < 1.0]) if self.unit else 1.0
        ends = self._way(min(xs)), self._way(max(xs))
        self.start, self.span = ends[0], (ends[1] - ends[0]) or 1.0

    def place(self, x: float) -> float:
        """Where a number is."""
        return (self._way(x) - self.start) / self.span

    def _way(self, x: float) -> float:
        if self.unit:
            return self._of_probability(x)
        return math.copysign(self._of_size(abs(x)), x)

    def _of_size(self, size: float) -> float:
        small, far = min(SMALL, self.huge), 2000.0
        if size < small:
            return 0.0 if size <= self.tiny else 0.02 + 0.16 * _share(size, self.tiny, small)
        if size <= LINEAR:
            return 0.18 + 0.44 * (size - small) / (LINEAR - small)
        if size <= far:
            return 0.62 + 0.2 * _share(size, LINEAR, far)
        return 0.82 + 0.18 * _share(size, far, max(self.huge, 2.0 * far))

    def _of_probability(self, x: float) -> float:
        if x < 0.05:
            return 0.0 if x <= self.tiny else 0.02 + 0.28 * _share(x, self.tiny, 0.05)
        if x <= 0.95:
            return 0.3 + 0.4 * (x - 0.05) / 0.9
        return 1.0 if x >= 1.0 else 0.7 + 0.28 * (1.0 - _share(1.0 - x, self.near, 0.05))

    def ticks(self) -> list[tuple[float, str]]:
        """Numbers to write on the axis, with their places."""
        if self.unit:
            near = math.ceil(math.log10(self.near) / 2)
            labels = [(1.0 - 10.0**near, f"1 − 1e{near}")] if near <= -3 else []
            numbers = [0.05, 0.25, 0.5, 0.75, 0.95, 1.0]
            sizes = _decades(self.tiny, 0.01, 3)
            told = [(x, short(x)) for x in (*sizes, *numbers)] + labels
            return sorted((self.place(x), text) for x, text in told)
        middle = [1.0, 5.0, 10.0, 15.0, 20.0, 26.0, 100.0, 1000.0]
        sizes = [x for x in (*_decades(self.tiny, 0.1, 2), *middle, *_decades(1e4, self.huge, 2)) if x <= self.huge]
        low, high = self.start, self.start + self.span
        signed = [x for size in sizes for x in (-size, size)] + [0.0]
        return sorted((self.place(x), short(x)) for x in signed if low - 1e-9 <= self._way(x) <= high + 1e-9)


def _share(x: float, low: float, high: float) -> float:
    """Where a number is between two, by magnitude."""
    return (math.log(x) - math.log(low)) / (math.log(high) - math.log(low)) if high > low else 1.0


def _decades(low: float, high: float, most: int) -> list[float]:
    """A few powers of ten between two numbers."""
    first, last = max(math.ceil(math.log10(low)), -300), math.floor(math.log10(high))
    step = max(1, math.ceil((last - first) / most / 10)) * 10 if last - first > 30 else 4
    return [10.0**k for k in range(first, last + 1, step)]


def lost(shot: Shot, dtype: str) -> float:
    """The share of its digits that a result has lost, from 0 to 1."""
    return 1.0 if shot.kind not in (RIGHT, LOSES) else min(1.0, shot.lost / BITS[dtype])


def edges(film: Film, axis: Axis) -> list[tuple[float, float]]:
    """The stretch of the axis that each point stands for: half the way to its neighbours."""
    places = [axis.place(point.x) for point in film.points]
    middles = [(a + b) / 2 for a, b in itertools.pairwise(places)]
    return list(zip([places[0], *middles], [*middles, places[-1]], strict=True))


def axis_of(seen: Sighting) -> Axis:
    """The axis that all dtypes share."""
    return Axis([point.x for film in seen.films for point in film.points])
