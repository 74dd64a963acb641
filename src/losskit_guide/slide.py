"""A loss on one slide: its formula, the curves of value and gradient, facts, what it is for, who published it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from losskit_guide.card import Card, Equation
from losskit_guide.lines import Line
from losskit_guide.paper import DARK, LIGHT, Sheet, broken, curve, lines_of_labels, room, wrapped
from losskit_guide.references import origin
from losskit_guide.render import facts, formulas
from losskit_guide.typeset import Block, equation, stacked

WIDTH, HEIGHT = 960.0, 540.0  # points: 16 to 9, as wide as a slide of 13.3 inches
EDGE, GUTTER = 40.0, 30.0
COLUMN = 560.0  # of formula and curves; the rest is that of the words
SIZES = (21.0, 18.0, 16.0, 14.0, 12.0)  # of formulas, the largest that fits
DASHES = ("-", (0, (4, 1.6)))


def slide(line: Line, *, dark: bool = False) -> Sheet:
    """The slide of a loss with the settings of this line."""
    card = replace(line.card, values=line.card.values | line.settings)
    sheet = Sheet(WIDTH, HEIGHT, DARK if dark else LIGHT)
    theme = sheet.theme
    sheet.fitted(EDGE, 62.0, card.class_name, 34.0, WIDTH - 2 * EDGE - 220.0, bold=True)
    sheet.text(WIDTH - EDGE, 62.0, origin(card.reference), 15.0, theme.quiet, align="right")
    about = f"{line.label}   ·   {card.task}   ·   {card.family}"
    sheet.fitted(EDGE, 86.0, about, 14.0, WIDTH - 2 * EDGE, theme.quiet)
    y = sheet.paragraph(EDGE, 116.0, card.summary.replace("`", ""), 15.5, WIDTH - 2 * EDGE)
    top, bottom = y - 2.0, HEIGHT - 44.0
    _words(sheet, card, EDGE + COLUMN + GUTTER, top, bottom)
    plots = 190.0 if card.curve is not None else 0.0
    _formula(sheet, card, top, bottom - plots - (20.0 if plots else 0.0))
    if card.curve is not None:
        _curves(sheet, line, bottom - plots, plots)
    first, *others = wrapped(card.reference, 9.5, WIDTH - 2 * EDGE - 75.0)
    sheet.text(EDGE, HEIGHT - 18.0, f"{first} …" if others else first, 9.5, theme.quiet)
    sheet.text(WIDTH - EDGE, HEIGHT - 18.0, "losskit", 9.5, theme.quiet, align="right", bold=True)
    return sheet


def _formula(sheet: Sheet, card: Card, top: float, bottom: float) -> None:
    """The loss, what its letters stand for, and its gradients, as many of them as there is room for."""
    sheet.panel(EDGE, top, COLUMN, bottom - top)
    setting, equations = formulas(card)[0]
    wanted = [x for x in equations if not x.title.startswith(("with ", "gradient", "derivative"))]
    wanted += [x for x in equations if x.title.startswith(("gradient", "derivative"))]
    width, height = COLUMN - 36.0, bottom - top - 26.0
    # The size at which all of them fit, unless it is small; then the one at which the loss itself does, with its parts.
    parts = min(3, sum(not x.title.startswith(("gradient", "derivative")) for x in wanted))
    space = height - (12.0 if len(wanted) > 1 else 0.0)
    tried = [(size, _that_fit(wanted, size, width, space)) for size in SIZES[:-1]]
    whole = [(size, kept) for size, kept in tried if len(kept) == len(wanted)]
    enough = [(size, kept) for size, kept in tried if len(kept) >= parts]
    size, kept = (whole or enough or [(SIZES[-1], _that_fit(wanted, SIZES[-1], width, space))])[0]
    more = len(wanted) - len(kept)
    block = stacked(kept or [equation(wanted[0], size, width)], 0.7 * size)
    block.draw(
        sheet,
        EDGE + 18.0,
        top + 13.0 + max(0.0, (height - block.height - (12.0 if more else 0.0)) / 2),
        sheet.theme.ink,
    )
    told = [setting] if setting else []
    told += [f"{more} more line{'s' if more > 1 else ''}: losskit show {card.name}"] if more else []
    sheet.text(EDGE + COLUMN - 10.0, bottom - 7.0, "   ·   ".join(told), 8.5, sheet.theme.quiet, align="right")


def _that_fit(equations: Sequence[Equation], size: float, width: float, height: float) -> list[Block]:
    """The first of the equations, as many as the height has room for."""
    kept: list[Block] = []
    for one in equations:
        block = equation(one, size, width)
        if stacked([*kept, block], 0.7 * size).height > height:
            break
        kept.append(block)
    return kept


def _words(sheet: Sheet, card: Card, x: float, top: float, bottom: float) -> None:
    """Facts and advice, as large as fits."""
    width = WIDTH - EDGE - x
    parts = [("Facts", facts(card)), ("Best for", [card.best_for]), ("Not for", [card.not_for])]
    for size in (13.5, 12.5, 11.5, 10.5, 9.5):
        trial = Sheet(WIDTH, HEIGHT, sheet.theme)
        if _told(trial, parts, x, top, size, width) <= bottom:
            break
    _told(sheet, parts, x, top, size, width)


def _told(sheet: Sheet, parts: Sequence[tuple[str, list[str]]], x: float, y: float, size: float, width: float) -> float:
    y += 0.8 * size
    for title, lines in parts:
        if not any(lines):
            continue
        sheet.text(x, y, title, size, sheet.theme.value, bold=True)
        y += 1.45 * size
        for text in lines:
            sheet.text(x, y, "·", size, sheet.theme.quiet, bold=True)
            y = sheet.paragraph(x + 0.9 * size, y, text[:1].upper() + text[1:], size, width - 0.9 * size) + 0.2 * size
        y += 0.75 * size
    return y - 1.5 * size


def _curves(sheet: Sheet, line: Line, top: float, height: float) -> None:
    """Value and gradient side by side; where a label has two values, a line for each."""
    theme, half = sheet.theme, (COLUMN - 30.0) / 2
    several = lines_of_labels(line)
    label = line.curve.variable.replace("_", " ")
    used = {name: x for name, x in line.numbers.items() if name in line.variant.arguments and name != "eps"}
    varied = [name for name in several[0].settings if name not in line.settings] if len(several) > 1 else []
    held = ", ".join(f"{name.replace('_', ' ')} = {x:g}" for name, x in used.items() if name not in varied)
    for which, (title, colour) in enumerate((("value", theme.value), ("gradient", theme.gradient))):
        left = EDGE + which * (half + 30.0)
        axes = sheet.figure.add_axes((
            (left + 26.0) / WIDTH, 1.0 - (top + height - 38.0) / HEIGHT,
            (half - 26.0) / WIDTH, (height - 56.0) / HEIGHT,
        ))  # fmt: skip
        heights: list[float] = []
        for one, dashes in zip(several, DASHES, strict=False):
            xs, *both = curve(one, 800)  # an even number: kinks are between the points
            told = ", ".join(f"{name.replace('_', ' ')} = {one.settings[name]:g}" for name in varied)
            axes.plot(*broken(xs, both[which]), color=colour, linewidth=2.2, linestyle=dashes, label=told)
            heights += both[which]
        axes.set_ylim(*room(heights))
        axes.set_xlim(*line.limits)
        axes.set_facecolor("none")
        axes.grid(color=theme.rule, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(theme.quiet)
        axes.tick_params(colors=theme.quiet, labelsize=9, length=3)
        axes.locator_params(nbins=6)
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}".replace("-", "−"))
        if varied and which == 0:
            axes.legend(frameon=False, labelcolor=theme.ink, fontsize=9)
        sheet.text(left + 26.0, top + 8.0, title, 13.0, colour, bold=True)
    sheet.fitted(EDGE, top + height - 5.0, f"over {label}{f';  {held}' if held else ''}", 10.0, COLUMN, theme.quiet)
