"""Where arrows between the cells of a poster run: in the strips between rows of cells, never over one.

1. Losses of the same row or of neighbouring ones are joined in the strip between them. What goes to the same loss in
   the same way is one bundle: it shares a track, a line along the strip.
2. A loss further away is named in the strip below the cell, as a stub.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from losskit_guide.relations import RELATIONS, Relation

Place = tuple[int, int]  # row and column of a cell
Ports = dict[str, list[int]]  # where a bundle begins, by loss: the numbers of its relations


@dataclass
class Bundle:
    """Relations of several losses to one: in a strip (the one above the row of that number), on a track of it."""

    target: str
    limit: bool
    strip: int
    sources: Ports = field(default_factory=dict)
    track: int = 0

    @property
    def losses(self) -> list[str]:
        """All losses that it touches."""
        return [*self.sources, self.target]


class Stub(NamedTuple):
    """A relation to a loss far away, told at the cell of the first."""

    source: str
    target: str
    number: int
    limit: bool


def routes(places: Mapping[str, Place], relations: Sequence[Relation] = RELATIONS) -> tuple[list[Bundle], list[Stub]]:
    """The bundles, each on its track, and the stubs."""
    bundles: dict[tuple[str, bool, int], Bundle] = {}
    stubs: list[Stub] = []
    for number, relation in enumerate(relations, 1):
        source, *targets = relation.losses
        for target in targets:
            (above, _), (below, _) = sorted((places[source], places[target]))
            if below - above > 1:
                stubs.append(Stub(source, target, number, relation.limit))
                continue
            key = target, relation.limit, above + 1
            bundle = bundles.setdefault(key, Bundle(*key))
            bundle.sources.setdefault(source, []).append(number)
    found = list(bundles.values())
    for strip in {bundle.strip for bundle in found}:
        _lay([bundle for bundle in found if bundle.strip == strip], places)
    return found, stubs


def _lay(bundles: Sequence[Bundle], places: Mapping[str, Place]) -> None:
    """Gives the bundles of a strip their tracks: each the first one that is free where it runs, the shortest first."""
    taken: list[list[tuple[int, int]]] = []
    ends = {id(b): (min(c), max(c)) for b in bundles if (c := [places[loss][1] for loss in b.losses])}
    for bundle in sorted(bundles, key=lambda b: (ends[id(b)][1] - ends[id(b)][0], ends[id(b)])):
        low, high = ends[id(bundle)]
        free = (i for i, track in enumerate(taken) if all(high < a or b < low for a, b in track))
        bundle.track = next(free, len(taken))
        if bundle.track == len(taken):
            taken.append([])
        taken[bundle.track].append((low, high))


def tracks(bundles: Sequence[Bundle], strip: int) -> int:
    """How many tracks a strip has."""
    return max((bundle.track + 1 for bundle in bundles if bundle.strip == strip), default=0)
