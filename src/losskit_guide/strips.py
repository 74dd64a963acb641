"""The microscope's picture for files: torch beside losskit, a strip for each dtype, of gradient and value."""

from __future__ import annotations

from losskit_guide.micrograph import (
    COLOURS,
    EDGE,
    GAP,
    LEFT,
    MEANINGS,
    SIGNS,
    STRIP,
    WIDTH,
    Axis,
    axis_of,
    edges,
    lost,
)
from losskit_guide.microscope import WHATS, WHO, Film, Sighting, headline, worst_first
from losskit_guide.paper import DARK, LIGHT, Sheet, measured

TOP, BETWEEN, FOOT = 118.0, 26.0, 62.0


def picture(seen: Sighting, dark: bool = False) -> Sheet:
    """A sheet with all strips, and the worst of them in words."""
    films = seen.films
    height = TOP + len(WHATS) * (len(films) * STRIP + BETWEEN) + FOOT
    height += 46.0 * sum(any(s.who == who for s in seen.stretches) for who in WHO)
    sheet = Sheet(WIDTH, height, DARK if dark else LIGHT)
    axis = axis_of(seen)
    half = (WIDTH - 2 * EDGE - LEFT - GAP) / 2
    columns = {who: EDGE + LEFT + i * (half + GAP) for i, who in enumerate(WHO)}
    sheet.text(EDGE, 42.0, f"{seen.label} under the microscope", 21.0, bold=True)
    over = f"over {seen.about[:1].lower()}{seen.about[1:].rstrip('.')}"
    sheet.fitted(EDGE, 64.0, f"{over}. {headline(seen)}", 11.0, WIDTH - 2 * EDGE, sheet.theme.quiet)
    for who, x in columns.items():
        sheet.text(x, 92.0, seen.title(who), 14.0, bold=True)
        sheet.fitted(x, 108.0, seen.calls[who], 8.5, half, sheet.theme.quiet, mono=True)
    y = TOP
    for what in WHATS[::-1]:
        sheet.text(EDGE, y + 14.0, what, 12.0, bold=True)
        y += 20.0
        for film in films:
            sheet.text(EDGE + LEFT - 10.0, y + STRIP / 2 + 1.0, film.dtype, 10.0, sheet.theme.quiet, align="right")
            for who, x in columns.items():
                _strip(sheet, film, axis, who, what, x, y, half)
            y += STRIP
        y += BETWEEN - 20.0
    for x in columns.values():
        _ticks(sheet, axis, x, y - 2.0, half)
    _legend(sheet, y + 36.0)
    _told(sheet, seen, y + 62.0)
    return sheet


def _strip(sheet: Sheet, film: Film, axis: Axis, who: str, what: str, x: float, y: float, width: float) -> None:
    """The bars of one dtype; a run of one kind is one piece of colour, with its sign where there is room."""
    height = STRIP - 6.0
    sheet.panel(x, y, width, height)
    if who in film.refused:
        sheet.fitted(x + 8.0, y + height / 2 + 3.0, f"refused: {film.refused[who]}", 9.0, width - 16.0)
        return
    runs: list[tuple[str, float, float]] = []
    boxes: list[tuple[float, float, float, float]] = []
    colours: list[str] = []
    for point, (low, high) in zip(film.points, edges(film, axis), strict=True):
        shot = point.shots[who].get(what)
        if shot is None:
            continue
        tall = max(lost(shot, film.dtype), 0.05) * height
        start, wide = x + low * width, (high - low) * width
        if boxes and colours[-1] == COLOURS[shot.kind] and boxes[-1][3] == tall:  # one box for all that are alike
            boxes[-1] = (boxes[-1][0], boxes[-1][1], start + wide - boxes[-1][0], tall)
        else:
            boxes.append((start, y + height - tall, wide, tall))
            colours.append(COLOURS[shot.kind])
        if runs and runs[-1][0] == shot.kind and abs(runs[-1][2] - low) < 1e-9:
            runs[-1] = (shot.kind, runs[-1][1], high)
        else:
            runs.append((shot.kind, low, high))
    sheet.bars(boxes, colours)
    for kind, low, high in runs:
        sign = SIGNS.get(kind, "")
        if sign and (high - low) * width > measured(sign, 10.0, bold=True)[0] + 4.0:
            sheet.text(
                x + (low + high) / 2 * width, y + height / 2 + 4.0, sign, 10.0, "#ffffff", align="center", bold=True
            )


def _ticks(sheet: Sheet, axis: Axis, x: float, y: float, width: float) -> None:
    """The numbers below the strips, as far as they have room."""
    end = -1e9
    for place, text in axis.ticks():
        wide = measured(text, 8.0)[0]
        at = x + place * width
        if at - wide / 2 < end + 5.0:
            continue
        sheet.rule((at, at), (y - 3.0, y + 2.0))
        sheet.text(at, y + 12.0, text, 8.0, sheet.theme.quiet, align="center")
        end = at + wide / 2


def _legend(sheet: Sheet, y: float) -> None:
    x = EDGE + LEFT
    for kind, meaning in MEANINGS.items():
        sheet.bars([(x, y - 8.0, 10.0, 10.0)], [COLOURS[kind]])
        x += 16.0 + sheet.text(x + 15.0, y, meaning, 9.5) + 18.0
    sheet.text(x, y, "A bar is as high as the share of lost digits.", 9.5, sheet.theme.quiet)


def _told(sheet: Sheet, seen: Sighting, y: float) -> None:
    """The worst stretch of each, and the lines that show it."""
    for who in WHO:
        own = worst_first(s for s in seen.stretches if s.who == who)
        if not own:
            continue
        sheet.text(EDGE, y, f"{seen.title(who)}, {own[0].dtype}: {own[0].sentence}", 10.5, bold=True)
        y += 14.0
        for line in seen.lines(own[0].dtype, who, own[0].worst):
            sheet.fitted(EDGE, y, line, 8.5, WIDTH - 2 * EDGE, sheet.theme.quiet, mono=True)
            y += 12.0
        y += 6.0
