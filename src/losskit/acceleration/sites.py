"""Who computed the losses of a program, line by line: what `print` shows of an acceleration."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType

import torch

from losskit.kernels.torch_internals import untraced

_WITHIN = (str(Path(__file__).parents[1]), str(Path(torch.__file__).parent), "<losskit ")


@dataclass
class Site:
    """A line of a program that asks for a loss.

    calls: how often it did. eager: how often losskit's formula ran without its kernel, by the reason. torch: how often
    torch's own function computed, by the reason; the other calls were losskit's fused kernels. value and gradient: the
    largest differences between the two libraries that `shadow` has seen, relative to the largest number; compared:
    in how many calls.
    """

    function: str
    file: str
    line: int
    calls: int = 0
    eager: Counter[str] = field(default_factory=Counter)
    torch: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    value: float = 0.0
    gradient: float = 0.0

    @property
    def fused(self) -> int:
        return self.calls - self.eager.total() - self.torch.total()

    @property
    def why(self) -> str:
        """Why not the kernel, with the most frequent reason first."""
        return "; ".join(reason for reason, _ in (self.eager + self.torch).most_common())


class Sites:
    """The lines that were seen."""

    def __init__(self) -> None:
        self.known: dict[tuple[CodeType, int, str], Site] = {}
        self.lock = threading.Lock()

    @untraced
    def of_caller(self, function: str) -> Site:
        """The line outside of torch and losskit that the present call comes from."""
        frame = caller()
        key = frame.f_code, frame.f_lineno, function
        found = self.known.get(key)
        if found is None:
            with self.lock:
                found = self.known.setdefault(key, Site(function, frame.f_code.co_filename, frame.f_lineno))
        return found

    @property
    def by_calls(self) -> list[Site]:
        """Those with the most calls first."""
        return sorted(self.known.values(), key=lambda site: -site.calls)

    def table(self) -> str:
        """One line for each site, those with the most calls first."""
        if not self.known:
            return "  no loss was called"
        rows: list[tuple[str, ...]] = [("calls", "fused", "eager", "torch", "function", "where", "why not fused")]
        for site in self.by_calls:
            counts = site.calls, site.fused, site.eager.total(), site.torch.total()
            rows.append((*map(str, counts), site.function, f"{short(site.file)}:{site.line}", site.why))
        widths = [max(len(row[i]) for row in rows) for i in range(6)]
        lines = []
        for row in rows:
            cells = [x.rjust(w) if i < 4 else x.ljust(w) for i, (x, w) in enumerate(zip(row, widths, strict=False))]
            lines.append("  ".join(["", *cells, row[6]]).rstrip())
        return "\n".join(lines)

    def differences(self) -> str:
        """What `shadow` has compared."""
        compared = [site for site in self.known.values() if site.compared]
        return "\n".join(
            f"  {site.function} at {short(site.file)}:{site.line}: value {site.value:.1e}, "
            f"gradient {site.gradient:.1e}, the largest of {site.compared} calls"
            for site in sorted(compared, key=lambda site: -max(site.value, site.gradient))
        )


@untraced
def caller() -> FrameType:
    """The frame of the line outside of torch and losskit that the present call comes from."""
    frame: FrameType = sys._getframe(1)
    while frame.f_back is not None and inside(frame.f_code):
        frame = frame.f_back
    return frame


_known: dict[CodeType, bool] = {}


@untraced
def inside(code: CodeType) -> bool:
    found = _known.get(code)
    if found is None:
        found = _known[code] = code.co_filename.startswith(_WITHIN)
    return found


def short(path: str) -> str:
    """A path within the working directory, or within a folder of installed packages."""
    if "site-packages" in path:
        return path.partition("site-packages")[2].lstrip("/\\")
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
