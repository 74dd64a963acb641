"""A sheet to draw on for slides and posters: lengths in points from the upper left corner, texts that are measured.

Texts are set in DejaVu Sans, which comes with matplotlib, so that a picture is the same on every machine.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path as File
from typing import Any, NamedTuple

from losskit_guide.card import missing
from losskit_guide.lines import Line, points

try:
    import matplotlib
    from matplotlib.collections import PolyCollection
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
    from matplotlib.path import Path
    from matplotlib.textpath import TextToPath
except ModuleNotFoundError as problem:
    raise missing("a picture of a loss", problem) from None

SUFFIXES = (".svg", ".pdf", ".png")
POINT = 72.0  # an inch has so many


class Theme(NamedTuple):
    """Colours; those of value and gradient are Okabe and Ito's, which the colour-blind can tell apart."""

    paper: str
    ink: str
    quiet: str
    rule: str
    panel: str
    value: str
    gradient: str


LIGHT = Theme("#ffffff", "#1b1f24", "#57606a", "#d0d7de", "#f6f8fa", "#0072b2", "#c24e00")
DARK = Theme("#0d1117", "#e6edf3", "#9da7b1", "#30363d", "#161b22", "#56b4e9", "#e69f00")


def kind_of(path: File) -> str:
    """The kind of picture that a file is to be, by its suffix."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    return path.suffix.lower()[1:]


@cache
def measured(
    text: str, size: float, *, bold: bool = False, mono: bool = False, formula: bool = False
) -> tuple[float, float, float]:
    """Width, height and depth of a text in points."""
    if not text:
        return 0.0, 0.0, 0.0
    with matplotlib.rc_context({"mathtext.fontset": "dejavusans"}):
        found = TextToPath().get_text_width_height_descent(text, font(size, bold, mono), ismath=formula)
    width, height, depth = (float(x) for x in found)
    return width, height, depth


@cache
def font(size: float, bold: bool = False, mono: bool = False) -> FontProperties:
    """The one font, in its shapes."""
    family = ["DejaVu Sans Mono", "DejaVu Sans"] if mono else ["DejaVu Sans"]  # the first has not all letters
    return FontProperties(family=family, size=size, weight="bold" if bold else "normal")


def wrapped(text: str, size: float, width: float, *, mono: bool = False) -> list[str]:
    """A text as lines that are no wider than that, but for words that are."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line and measured(longer, size, mono=mono)[0] > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


class Sheet:
    """A sheet of paper."""

    def __init__(self, width: float, height: float, theme: Theme) -> None:
        self.width, self.height, self.theme = width, height, theme
        self.figure = Figure(figsize=(width / POINT, height / POINT), facecolor=theme.paper)
        self.axes = self.figure.add_axes((0.0, 0.0, 1.0, 1.0))
        self.axes.set(xlim=(0.0, width), ylim=(height, 0.0))
        self.axes.set_axis_off()

    def text(self, x: float, y: float, text: str, size: float, colour: str = "", **shape: Any) -> float:
        """A line of text at its baseline; its width. shape: bold, mono, formula; align: left, right, center."""
        align = shape.pop("align", "left")
        formula = shape.pop("formula", False)
        with _fonts():
            self.axes.text(
                x, y, text, color=colour or self.theme.ink, fontproperties=font(size, **shape), ha=align,
                va="baseline", parse_math=formula,
            )  # fmt: skip
        width: float = measured(text, size, formula=formula, **shape)[0]
        return width

    def fitted(self, x: float, y: float, text: str, size: float, width: float, colour: str = "", **shape: Any) -> float:
        """A line of text, smaller where it would be too wide; the size that it has."""
        wide = measured(text, size, bold=shape.get("bold", False), mono=shape.get("mono", False))[0]
        size = size * min(1.0, width / wide) if wide else size
        self.text(x, y, text, size, colour, **shape)
        return size

    def paragraph(
        self, x: float, y: float, text: str, size: float, width: float, colour: str = "", **shape: Any
    ) -> float:
        """Lines of text, the first one's baseline at y; where the next line would be."""
        for line in wrapped(text, size, width, mono=shape.get("mono", False)):
            self.text(x, y, line, size, colour, **shape)
            y += 1.35 * size
        return y

    def rule(
        self, xs: Sequence[float], ys: Sequence[float], colour: str = "", width: float = 0.6, *, inside: Any = None,
        **style: Any,
    ) -> None:  # fmt: skip
        """A line through points; inside: a rectangle (x, y, width, height), beyond which nothing of it is drawn."""
        (line,) = self.axes.plot(xs, ys, color=colour or self.theme.rule, linewidth=width, **style)
        if inside is not None:
            x, y, across, down = inside
            line.set_clip_path(Rectangle((x, y), across, down, transform=self.axes.transData))

    def bend(self, points: Sequence[tuple[float, float]], radius: float, colour: str = "", width: float = 0.6) -> None:
        """A line through points, around its corners in arcs."""
        corners, codes = [points[0]], [Path.MOVETO]
        for before, at, after in zip(points, points[1:], points[2:], strict=False):
            for end, code in ((before, Path.LINETO), (after, Path.CURVE3)):
                away = math.dist(at, end) or 1.0
                share = min(radius, away / 2) / away
                near = at[0] + share * (end[0] - at[0]), at[1] + share * (end[1] - at[1])
                corners += [near] if code == Path.LINETO else [at, near]
                codes += [code] if code == Path.LINETO else [code, code]
        path = Path([*corners, points[-1]], [*codes, Path.LINETO])
        self.axes.add_patch(PathPatch(path, facecolor="none", edgecolor=colour or self.theme.rule, linewidth=width))

    def panel(self, x: float, y: float, width: float, height: float, radius: float = 5.0) -> None:
        """A box with round corners."""
        style = f"round,pad=0,rounding_size={radius}"
        self.axes.add_patch(FancyBboxPatch(
            (x, y), width, height, boxstyle=style, facecolor=self.theme.panel, edgecolor=self.theme.rule, linewidth=0.6,
        ))  # fmt: skip

    def bars(self, boxes: Sequence[tuple[float, float, float, float]], colours: Sequence[str]) -> None:
        """Rectangles (x, y, width, height), each in its colour, without seams between them."""
        corners = [[(x, y), (x + w, y), (x + w, y + h), (x, y + h)] for x, y, w, h in boxes]
        self.axes.add_collection(PolyCollection(corners, facecolors=colours, edgecolors=colours, linewidths=0.25))

    def written(self, kind: str, *, outlines: bool = True, title: str = "", dpi: float = 150) -> bytes:
        """The sheet as a file. outlines: an SVG has its letters as curves: alike everywhere, but large."""
        data = io.BytesIO()
        metadata: dict[str, Any] = {"Title": title}
        if kind != "png":
            metadata["Date" if kind == "svg" else "CreationDate"] = None  # the same sheet is the same file
        with _fonts(outlines):
            self.figure.savefig(data, format=kind, dpi=dpi, metadata=metadata)
        return data.getvalue() if kind != "svg" else _lean(data.getvalue().decode(), title).encode()


@contextmanager
def _fonts(outlines: bool = True) -> Iterator[None]:
    with matplotlib.rc_context({
        "svg.fonttype": "path" if outlines else "none", "svg.hashsalt": "losskit", "mathtext.fontset": "dejavusans",
        "pdf.fonttype": 42, "text.hinting": "no_hinting", "path.simplify": True, "path.simplify_threshold": 0.15,
    }):  # fmt: skip
        yield


def _lean(svg: str, title: str) -> str:
    """An SVG without what nobody reads, and with a title for those who listen. Verdana is as wide as DejaVu Sans."""
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<title>.*?</title>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r"'DejaVu Sans'(, [^;\"]*)?", "'DejaVu Sans', Verdana, Arial, sans-serif", svg)
    svg = re.sub(r' transform="rotate\(-?0 [^"]*"', "", svg)
    svg = re.sub(r'<g id="(?:text|line2d|patch|axes|figure)_\d+">', "<g>", svg)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    inside = f"<title>{title}</title>" if title else ""
    return re.sub(r"(<svg [^>]*)>", rf'\1 role="img">{inside}', svg, count=1)


# ---------------------------------------------------------------------------------------------------------
# Curves


def curve(line: Line, count: int) -> tuple[list[float], list[float], list[float]]:
    """Places, values and slopes of a loss over its own variable, where it is defined."""
    low, high = line.limits
    xs = [x for x in points(low, high, count) if line.allows(x)]
    return xs, *line.over(xs)


def room(ys: Sequence[float]) -> tuple[float, float]:
    """The part of the ordinate that is worth looking at: a steep end must not press everything else flat."""
    finite = sorted(y for y in ys if math.isfinite(y))
    if not finite:
        return 0.0, 1.0
    low, high = finite[len(finite) // 25], finite[len(finite) * 24 // 25]
    span = (high - low) or max(1.0, abs(high))
    bottom, top = max(finite[0], low - span), min(finite[-1], high + span)
    span = (top - bottom) or 1.0
    return bottom - 0.08 * span, top + 0.08 * span


def broken(xs: Sequence[float], ys: Sequence[float]) -> tuple[list[float], list[float]]:
    """A curve with a gap where it jumps: there it rises far more within one step than beside it."""
    bottom, top = room(ys)
    steps = [abs(after - before) for before, after in itertools.pairwise(ys)]
    new_xs, new_ys = list(xs[:1]), list(ys[:1])
    for i, step in enumerate(steps):
        around = max(steps[max(0, i - 1) : i] + steps[i + 1 : i + 2], default=0.0)
        if step > 0.12 * (top - bottom) and around < 0.25 * step:
            new_xs, new_ys = [*new_xs, xs[i + 1]], [*new_ys, math.nan]
        new_xs, new_ys = [*new_xs, xs[i + 1]], [*new_ys, ys[i + 1]]
    return new_xs, new_ys


def lines_of_labels(line: Line) -> list[Line]:
    """The line with each of the two labels that an operand may be, where none is set; else the line alone."""
    parameters = {parameter["name"] for parameter in line.card.parameters}
    for given in line.curve.given:
        labels = sorted((x for x in given.choices if math.isfinite(x)), reverse=True)
        own = given.name in parameters or given.name in line.settings
        if len(labels) == 2 and not own and given.name in line.variant.arguments:
            return [Line(line.card, line.settings | {given.name: label}) for label in labels]
    return [line]
