"""Plots of losses with matplotlib: value and slope of several lines over one axis."""

from __future__ import annotations

import io
import math
from functools import cache
from typing import TYPE_CHECKING, Any

from losskit_guide.card import missing
from losskit_guide.lines import AXES, limits_of, lines_of, points

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart; without colour the dashes do.
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def plot(
    *losses: Any,
    over: str = "own",
    low: float | None = None,
    high: float | None = None,
    count: int = 401,
    **given: Any,
) -> Figure:
    """As `losskit.plot`, of names, cards and lines."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as problem:
        raise missing("losskit.plot", problem) from None
    if over not in AXES:
        raise ValueError(f"over must be one of {', '.join(AXES)}, got {over!r}")
    if not losses:
        raise ValueError("name at least one loss to plot")
    lines = lines_of(losses, given)
    start, end = limits_of(lines, over, low, high)
    xs = points(start, end, count)
    figure = _picture(Figure)(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, one in enumerate(lines):
        style = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
        inside = [x for x in xs if one.allows(x, over)]
        values, slopes = one.over(inside, over)
        left.plot(inside, values, label=one.label, **style)
        right.plot(inside, slopes, label=one.label, **style)
    variables = list(dict.fromkeys(one.curve.variable for one in lines))
    for axes, title in ((left, "value"), (right, "gradient")):
        axes.set_title(title)
        axes.set_xlabel(AXES[over] if over != "own" else " / ".join(variables))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        _cut(axes)
    left.legend(frameon=False)
    return figure


@cache
def _picture(figure: type[Figure]) -> type[Figure]:
    """A class of figures that notebooks show by themselves, without pyplot and its magic line."""

    return type("Figure", (figure,), {"_repr_png_": png, "__reduce__": figure.__reduce__})


def png(figure: Figure) -> bytes:
    """A figure as a picture."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return data.getvalue()


def _cut(axes: Any) -> None:
    """A steep end must not press everything else flat."""
    ys = sorted(y for drawn in axes.lines for y in drawn.get_ydata() if math.isfinite(y))
    if not ys:
        return
    low, high = ys[len(ys) // 20], ys[len(ys) * 19 // 20]
    room = (high - low) or 1.0
    axes.set_ylim(max(ys[0], low - room) - 0.05 * room, min(ys[-1], high + room) + 0.05 * room)
