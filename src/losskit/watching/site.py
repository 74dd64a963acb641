"""What a watch remembers of a line of a program that asks for a loss: counters, and the numbers of its looks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from losskit.watching.findings import Finding

KEPT = 64  # calls whose numbers are remembered
PENDING = 1024  # losses on a device, which are not read before the next look


@dataclass
class Site:
    """A line of a program that asks for a loss.

    calls: how often it did. looks: the numbers of the calls that were looked at. pulls: those of their gradients.
    counts: rows of each class so far; columns: of each label, how often it was yes. pending: losses on a device since
    the last look. told: kinds that were found.
    """

    function: str
    file: str
    line: int
    module: str = ""
    calls: int = 0
    looked: int = 0
    looks: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=KEPT))
    pulls: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=KEPT))
    counts: list[float] = field(default_factory=list)
    columns: list[float] = field(default_factory=list)
    kept: float = 0.0
    low: float = float("inf")
    high: float = float("-inf")
    pending: deque[Tensor] = field(default_factory=lambda: deque(maxlen=PENDING))
    told: dict[str, Finding] = field(default_factory=dict)
    explained: int = 0
    broken: bool = False

    def add(self, now: dict[str, Any]) -> None:
        """Remember what a look has measured."""
        self.looked += 1
        self.looks.append(now)
        for name in ("counts", "columns"):
            if name in now:
                before = getattr(self, name)
                fits = len(before) == len(now[name])
                setattr(self, name, [a + b for a, b in zip(before, now[name], strict=True)] if fits else now[name])
        if "yes" in now:
            self.counts = [a + b for a, b in zip(self.counts or [0.0, 0.0], (now["kept"] - now["yes"], now["yes"]),
                                                 strict=True)]  # fmt: skip
        if now.get("kept"):
            self.kept += now["kept"]
            self.low, self.high = min(self.low, now.get("low", self.low)), max(self.high, now.get("high", self.high))

    def since(self, call: int) -> list[dict[str, Any]]:
        """The looks from a call on."""
        return [now for now in self.looks if now["call"] >= call]


def due(call: int, first: int, every: int) -> bool:
    """Whether a call is looked at: the first ones, then twice as late each time, then each of an interval."""
    if call <= first or call % every == 0:
        return True
    times, rest = divmod(call, max(first, 1))
    return call < every and rest == 0 and times & (times - 1) == 0
