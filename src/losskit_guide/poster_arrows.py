"""The grid of a poster's cells, and the arrows that `losskit_guide.arrows` has found a way for, drawn in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from losskit_guide.arrows import Bundle, Stub
from losskit_guide.card import Card, catalogue
from losskit_guide.paper import Sheet, measured

WIDTH = 2384.0  # points: A1
EDGE, GAP, COLUMNS = 44.0, 8.0, 12
CELL = (WIDTH - 2 * EDGE - (COLUMNS - 1) * GAP) / COLUMNS
TOP, STRIP = 84.0, 22.0  # of the title; of the name of a task above its cells
TRACK, MARGIN = 3.4, 8.0  # between two lines of a strip; below a cell, for numbers
NUMBER = 5.6  # the size of numbers and of names at stubs
LINE = 0.75


@dataclass
class Grid:
    """Where cells are: their cards in order, the heights of the strips above each row, and that of the cells."""

    cards: Sequence[Card]
    strips: Sequence[float]
    height: float

    def top(self, row: int) -> float:
        """Where the cells of a row begin."""
        return TOP + sum(self.strips[: row + 1]) + row * self.height

    def corner(self, number: int) -> tuple[float, float]:
        """The upper left corner of a cell."""
        row, column = divmod(number, COLUMNS)
        return EDGE + column * (CELL + GAP), self.top(row)

    def label(self, number: int) -> float:
        """The width of the name of a task above a cell, where there is one."""
        task, before = self.cards[number].task, self.cards[number - 1].task if number else ""
        if number % COLUMNS and task == before:
            return 0.0
        return measured(task, 14.0, bold=task != before)[0]


def draw(sheet: Sheet, grid: Grid, bundles: Sequence[Bundle], stubs: Sequence[Stub]) -> None:
    """All arrows."""
    places = {card.name: number for number, card in enumerate(grid.cards)}
    told = {source: _stubs(sheet, grid, places[source], [s for s in stubs if s.source == source])
            for source in dict.fromkeys(stub.source for stub in stubs)}  # fmt: skip
    ports = _ports(grid, bundles, places, told)
    for bundle in sorted(bundles, key=lambda b: b.track):
        _bundle(sheet, grid, bundle, places, ports)


def _ports(
    grid: Grid, bundles: Sequence[Bundle], places: dict[str, int], told: dict[str, float]
) -> dict[tuple[str, int, int], float]:
    """Where each bundle leaves or enters each of its cells, beside the others: by loss, strip and bundle."""
    touching: dict[tuple[str, int], list[int]] = {}
    for number, bundle in enumerate(bundles):
        for loss in bundle.losses:
            touching.setdefault((loss, bundle.strip), []).append(number)
    found = {}
    for (loss, strip), numbers in touching.items():
        place = places[loss]
        left = grid.corner(place)[0]
        below = place // COLUMNS == strip
        start = left + 8.0 + (grid.label(place) + 4.0 if below else told.get(loss, 0.0))
        wide = min(22.0, (left + CELL - 6.0 - start) / len(numbers))

        def middle(number: int, loss: str = loss) -> float:
            others = [places[x] % COLUMNS for x in bundles[number].losses if x != loss]
            return sum(others) / len(others)

        # In the middle, or right of what is written there.
        first = max(start, left + CELL / 2 - wide * len(numbers) / 2)
        for i, number in enumerate(sorted(numbers, key=lambda n: (middle(n), bundles[n].track))):
            found[loss, strip, number] = first + (i + 0.3) * wide
    return {(loss, strip, id(bundles[number])): x for (loss, strip, number), x in found.items()}


def _bundle(
    sheet: Sheet, grid: Grid, bundle: Bundle, places: dict[str, int], ports: dict[tuple[str, int, int], float]
) -> None:
    colour = sheet.theme.gradient if bundle.limit else sheet.theme.value
    last = grid.top(bundle.strip - 1) + grid.height  # where the cells above end
    first = grid.top(bundle.strip)
    track = last + MARGIN + 1.0 + bundle.track * TRACK

    def end(loss: str) -> tuple[float, float]:
        return ports[loss, bundle.strip, id(bundle)], last if places[loss] // COLUMNS < bundle.strip else first

    x, y = end(bundle.target)
    lines = [[end(loss), (end(loss)[0], track), (x, track), (x, y)] for loss in bundle.sources]
    for line in lines:
        sheet.bend(line, 3.0, sheet.theme.paper, 3.2 * LINE)  # what is crossed has a gap there
    for line in lines:
        sheet.bend(line, 3.0, colour, LINE)
    away = 1.0 if y == last else -1.0
    if bundle.limit:
        sheet.rule((x - 2.2, x, x + 2.2), (y + 4.4 * away, y + 0.6 * away, y + 4.4 * away), colour, LINE)
    for loss, numbers in bundle.sources.items():
        at, edge = end(loss)
        said = " ".join(map(str, numbers))
        sheet.text(at + 1.6, edge + 6.0 if edge == last else edge - 6.6, said, NUMBER, colour, bold=True)


def _stubs(sheet: Sheet, grid: Grid, place: int, stubs: Sequence[Stub]) -> float:
    """Losses far away, named below a cell; the width of it."""
    x, y = grid.corner(place)
    y += grid.height
    start = x + 4.0
    for stub in stubs:
        colour = sheet.theme.gradient if stub.limit else sheet.theme.value
        sheet.bend([(start, y), (start, y + 4.4), (start + 5.0, y + 4.4)], 3.0, colour, LINE)
        sign = "→" if stub.limit else "="
        said = f"{stub.number} {sign} {catalogue()[stub.target].class_name}"
        start += 6.0 + sheet.text(start + 6.0, y + 6.4, said, NUMBER, colour, bold=True) + 6.0
    return start - x
