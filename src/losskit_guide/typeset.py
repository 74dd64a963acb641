"""A card's equations on a sheet: by matplotlib's mathtext, cases with a brace, and as plain text where that cannot."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from losskit_guide.card import Equation
from losskit_guide.paper import Sheet, measured, wrapped

SMALLEST = 11.0  # of formulas, in points
CASES = re.compile(r"(.*?)\\begin\{cases\}(.*)\\end\{cases\}(.*)", re.S)
# What LaTeX knows and mathtext does not.
SPELLED = (
    (r"\\tfrac", r"\\frac"), (r"\\[bB]ig+[lr]?(?![a-z])", ""), (r"\\[lr]Vert", r"\\Vert"), (r"\\text\{", r"\\mathrm{"),
    (r"\\(le|ge)(?![a-z])", r"\\\1q"), (r"\\[lr]vert", "|"), (r"\\lbrace", r"\\{"), (r"\\quad", r"\\;\\;"),
    ("'", "^{′}"),
)  # fmt: skip


@dataclass(frozen=True)
class Block:
    """Something that is set: its size, and how to draw it with its upper left corner somewhere."""

    width: float
    height: float
    draw: Callable[[Sheet, float, float, str], None]


def equation(one: Equation, size: float, width: float) -> Block:
    """An equation, no wider than that: smaller; or plain text, where it would be too small or mathtext cannot."""
    try:
        block = _set(one.latex, size)
        if block.width > width and size * width / block.width >= SMALLEST:
            block = _set(one.latex, size * width / block.width * 0.99)
    except ValueError:  # mathtext's errors are some
        return _plain(one.plain, 0.72 * size, width)
    return block if block.width <= width else _plain(one.plain, 0.72 * size, width)


def stacked(blocks: Sequence[Block], gap: float) -> Block:
    """Blocks, one below the other."""

    def draw(sheet: Sheet, x: float, y: float, colour: str) -> None:
        for block in blocks:
            block.draw(sheet, x, y, colour)
            y += block.height + gap

    height = sum(block.height for block in blocks) + gap * (len(blocks) - 1)
    return Block(max(block.width for block in blocks), height, draw)


def spelled(latex: str) -> str:
    """LaTeX as mathtext understands it."""
    for there, here in SPELLED:
        latex = re.sub(there, here, latex)
    return f"${latex.strip()}$"


def _set(latex: str, size: float) -> Block:
    return _cases(latex, size) or _formula(latex, size)


def _formula(latex: str, size: float) -> Block:
    text = spelled(latex)
    width, height, depth = measured(text, size, formula=True)

    def draw(sheet: Sheet, x: float, y: float, colour: str) -> None:
        sheet.text(x, y + height - depth, text, size, colour, formula=True)

    return Block(width, height, draw)


def _cases(latex: str, size: float) -> Block | None:
    """An equation with one choice in it: the rows have a brace in front of them."""
    found = CASES.fullmatch(latex)
    if found is None or r"\begin" in found[2]:
        return None
    before, rows, after = found[1], [row.split("&") for row in found[2].split(r"\\")], found[3]
    values, conditions = (
        [_formula((r"\mathrm{if}\;\;" if k and "otherwise" not in row[k] else "") + row[k], size) for row in rows]
        for k in (0, 1)
    )
    heights = [max(value.height, told.height) for value, told in zip(values, conditions, strict=True)]
    gap, brace = 0.55 * size, 0.7 * size
    height = sum(heights) + gap * (len(rows) - 1)
    left = _formula(before, size)
    right = _formula(after, size) if after.strip() else Block(0.0, 0.0, lambda *_: None)
    start = left.width + brace + 0.3 * size
    second = start + max(value.width for value in values) + 1.3 * size
    end = second + max(told.width for told in conditions) + 0.6 * size

    def draw(sheet: Sheet, x: float, y: float, colour: str) -> None:
        left.draw(sheet, x, y + (height - left.height) / 2, colour)
        right.draw(sheet, x + end, y + (height - right.height) / 2, colour)
        _brace(sheet, x + left.width + 0.2 * size, y, 0.5 * size, height, colour)
        for value, told, tall in zip(values, conditions, heights, strict=True):
            value.draw(sheet, x + start, y + (tall - value.height) / 2, colour)
            told.draw(sheet, x + second, y + (tall - told.height) / 2, colour)
            y += tall + gap

    return Block(end + right.width if right.width else end - 0.6 * size, height, draw)


def _brace(sheet: Sheet, x: float, y: float, width: float, height: float, colour: str) -> None:
    """A left brace."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    middle, bend, half = y + height / 2, min(height / 4, width), x + width / 2
    corners = [(x + width, y), (half, y), (half, y + bend), (half, middle - bend), (half, middle), (x, middle),
               (half, middle), (half, middle + bend), (half, y + height - bend), (half, y + height),
               (x + width, y + height)]  # fmt: skip
    codes = [Path.MOVETO, Path.CURVE3, Path.CURVE3, Path.LINETO, Path.CURVE3, Path.CURVE3, Path.CURVE3, Path.CURVE3,
             Path.LINETO, Path.CURVE3, Path.CURVE3]  # fmt: skip
    path = Path(corners, codes)
    sheet.axes.add_patch(PathPatch(path, facecolor="none", edgecolor=colour, linewidth=0.1 * width + 0.5))


def sentence(lines: Sequence[str]) -> str:
    """The lines of cases, one after another; what they are of stands before the brace of one of them."""
    parts = [re.split("[⎧⎨⎪⎩]", line, maxsplit=1) for line in lines]
    left = "".join(part[0].strip() for part in parts)
    return f"{left} {'; '.join(' '.join(part[-1].split()) for part in parts)}"


def _plain(text: str, size: float, width: float) -> Block:
    """As a terminal shows it. Cases stand below each other; those that would be too small are a sentence."""
    lines, mono = text.split("\n"), "⎧" in text
    wide = max(measured(line, size, mono=mono)[0] for line in lines)
    if mono and size * width / wide < 0.7 * SMALLEST:
        text, mono = sentence(lines), False
    if not mono:
        size = max(size, 0.7 * SMALLEST)
        lines = wrapped(re.sub(" +", " ", text), size, width)
    wide = max(measured(line, size, mono=mono)[0] for line in lines)
    size *= min(1.0, width / wide)
    step = 1.22 * size if mono else 1.4 * size

    def draw(sheet: Sheet, x: float, y: float, colour: str) -> None:
        for number, line in enumerate(lines):
            sheet.text(x, y + 0.9 * size + number * step, line, size, colour, mono=mono)

    return Block(min(width, wide), step * len(lines), draw)
