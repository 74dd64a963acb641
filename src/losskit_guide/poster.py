"""All losses on one sheet of the size A1: a cell for each, by task, and below them which losses are other ones.

Nothing on it is typed: cells are printed from the cards, curves computed from their formulas, and the relations at the
bottom are those of `losskit_guide.relations`, which a test computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from losskit_guide.arrows import Bundle, Stub, routes, tracks
from losskit_guide.card import Card, catalogue
from losskit_guide.lines import Line, of_card
from losskit_guide.paper import DARK, LIGHT, Sheet, broken, curve, lines_of_labels, measured, room, wrapped
from losskit_guide.poster_arrows import CELL, COLUMNS, EDGE, GAP, MARGIN, STRIP, TOP, TRACK, WIDTH, Grid, draw
from losskit_guide.references import origin
from losskit_guide.relations import RELATIONS, Relation, bare, of

TITLE = "The losses of losskit: value, gradient, facts, and which are one another"
HEIGHT = 1684.0  # points: A1

INSIDE = 7.0  # the edge of a cell
LISTS, LINE = 5, 11.8  # columns of relations, and the height of a line there
SMALL = 7.6
DASHES = ("-", (0, (3, 1.5)))
BOUND = 18  # a longer bound of the gradient is not written out


def poster(*, dark: bool = False) -> Sheet:
    """The sheet."""
    sheet = Sheet(WIDTH, HEIGHT, DARK if dark else LIGHT)
    cards = by_task()
    _title(sheet, len(cards))
    bottom = HEIGHT - 18.0
    columns = _columns()
    foot = max(sum(len(_lines(one)) for _, one in column) for column in columns) * LINE + 44.0
    _relations(sheet, columns, bottom - foot)
    rows = math.ceil(len(cards) / COLUMNS)
    bundles, stubs = routes({card.name: divmod(number, COLUMNS) for number, card in enumerate(cards)})
    strips = [_room(bundles, stubs, cards, strip) + (STRIP if strip < rows else 0.0) for strip in range(rows + 1)]
    height = (bottom - foot - TOP - 6.0 - sum(strips)) / rows
    grid = Grid(cards, strips, height)
    for number, card in enumerate(cards):
        x, y = grid.corner(number)
        _strip(sheet, cards, number, x, y - STRIP)
        _cell(sheet, card, x, y, height)
    draw(sheet, grid, bundles, stubs)
    return sheet


def _room(bundles: Sequence[Bundle], stubs: Sequence[Stub], cards: Sequence[Card], strip: int) -> float:
    """The height that arrows need above a row of cells."""
    row = {card.name: number // COLUMNS for number, card in enumerate(cards)}
    count = tracks(bundles, strip)
    told = any(row[stub.source] + 1 == strip for stub in stubs)
    return (
        (2.0 + MARGIN + count * TRACK if count else 0.0)
        + (0.0 if count or not told else MARGIN)
        + (3.0 if strip else 0.0)
    )


def by_task() -> list[Card]:
    """All losses; those of a task stand together, the largest task first."""
    cards = list(catalogue().values())
    sizes = {task: sum(card.task == task for card in cards) for task in {card.task for card in cards}}
    return sorted(cards, key=lambda card: (-sizes[card.task], card.task, card.class_name.lower()))


def _title(sheet: Sheet, count: int) -> None:
    theme = sheet.theme
    wide = sheet.text(EDGE, 66.0, f"{count} losses", 50.0, bold=True)
    sheet.text(WIDTH - EDGE, 66.0, "losskit", 30.0, theme.quiet, align="right", bold=True)
    x, y = EDGE + wide + 40.0, 42.0
    sheet.text(x, y, "value", 19.0, theme.value, bold=True)
    sheet.text(x + 72.0, y, "and", 19.0, theme.quiet)
    sheet.text(x + 120.0, y, "gradient", 19.0, theme.gradient, bold=True)
    told = "over a loss's own variable, at its defaults; where a target is one of two labels, dashes are the lower one."
    sheet.text(x + 232.0, y, told, 19.0, theme.quiet)
    told = "Words tell of the loss as a function of its prediction. "
    told += "⇄, numbers and arrows: the relations below; each is a test."
    sheet.text(x, y + 26.0, told, 19.0, theme.quiet)


def _strip(sheet: Sheet, cards: Sequence[Card], number: int, x: float, y: float) -> None:
    """The line above a cell, and the name of the task above its first one, and where it goes on in a new row."""
    task = cards[number].task
    first, begins = number == 0 or cards[number - 1].task != task, number % COLUMNS == 0
    last = number + 1 == len(cards) or cards[number + 1].task != task
    end = x + CELL + (0.0 if last or (number + 1) % COLUMNS == 0 else GAP)
    sheet.rule((x, end), (y + STRIP - 4.0,) * 2, sheet.theme.ink, 1.6, solid_capstyle="butt")
    if first or begins:
        sheet.fitted(x, y + STRIP - 8.5, task, 14.0, CELL, sheet.theme.ink if first else sheet.theme.quiet, bold=first)


def _cell(sheet: Sheet, card: Card, x: float, y: float, height: float) -> None:
    """What a cell says of a loss."""
    theme, width = sheet.theme, CELL - 2 * INSIDE
    sheet.panel(x, y, CELL, height)
    left = x + INSIDE
    sheet.fitted(left, y + 15.0, card.class_name, 11.0, width, bold=True)
    sheet.fitted(left, y + 25.0, f"{card.name} · {origin(card.reference)}", SMALL, 0.97 * width, theme.quiet)
    lines = wrapped("\u00a0· ".join(_known(card)), SMALL, 0.97 * width)
    numbers = of(card.name)
    below = (len(lines) + bool(numbers)) * 1.25 * SMALL + 5.0
    top, bottom = y + 30.0, y + height - below
    if card.curve is not None:
        _sparklines(sheet, of_card(card), left, top, width, bottom - top - 2.0)
    else:
        middle = (top + bottom) / 2 + 2.0
        sheet.text(x + CELL / 2, middle, "of whole tensors: no curve", SMALL, theme.quiet, align="center")
    for number, text in enumerate(lines):
        sheet.text(left, bottom + (number + 1) * 1.25 * SMALL - 1.0, text, SMALL)
    if numbers:
        told = f"⇄ {' '.join(map(str, numbers))}"
        sheet.fitted(left, y + height - 5.0, told, SMALL, width, theme.value, bold=True)


def _known(card: Card) -> list[str]:
    """The properties of a loss; a bound of the gradient that is a long formula is only said to be there."""
    long = isinstance(card.facts.get("lipschitz"), str) and len(card.facts["lipschitz"]) > BOUND
    return ["bounded gradient" if long and text.startswith("gradient at most") else text for text in card.properties]


def _sparklines(sheet: Sheet, line: Line, x: float, y: float, width: float, height: float) -> None:
    """Value and gradient, side by side; thin lines where the variable and the ordinate are 0."""
    half = (width - GAP) / 2
    several = [(one, curve(one, 160)) for one in lines_of_labels(line)]
    low, high = line.limits
    for which, colour in ((1, sheet.theme.value), (2, sheet.theme.gradient)):
        left = x + (which - 1) * (half + GAP)
        bottom, top = room([number for _, found in several for number in found[which]])

        def across(number: float, left: float = left) -> float:
            return left + (number - low) / (high - low) * half

        def up(number: float, bottom: float = bottom, top: float = top) -> float:
            return y + height - (number - bottom) / (top - bottom) * height

        if bottom <= 0.0 <= top:
            sheet.rule((left, left + half), (up(0.0),) * 2)
        if low <= 0.0 <= high:
            sheet.rule((across(0.0),) * 2, (y, y + height))
        for (_, found), dashes in zip(several, DASHES, strict=False):
            xs, ys = broken(found[0], found[which])
            frame = (left - 1.0, y - 1.0, half + 2.0, height + 2.0)
            sheet.rule([across(a) for a in xs], [up(b) for b in ys], colour, 1.5, linestyle=dashes, inside=frame)


# ---------------------------------------------------------------------------------------------------------
# Relations


def _lines(relation: Relation) -> list[str]:
    """The sides of a relation: in one line of a list, or in two where they are long."""
    left, right = bare(relation.left), bare(relation.right)
    room = (WIDTH - 2 * EDGE) / LISTS - 30.0
    wide = measured(left, 8.6)[0] + _arrow(relation) + measured(right, 8.6)[0]
    return [left + right] if wide <= room else [left, right]


def _arrow(relation: Relation) -> float:
    """The width of the sign between both sides."""
    return measured(relation.condition, 6.6)[0] + 24.0 if relation.limit else 20.0


def _columns() -> list[list[tuple[int, Relation]]]:
    """The numbered relations in lists of about the same height."""
    whole = sum(len(_lines(relation)) for relation in RELATIONS)
    columns: list[list[tuple[int, Relation]]] = [[] for _ in range(LISTS)]
    height = 0
    for number, relation in enumerate(RELATIONS, 1):
        columns[min(LISTS - 1, height * LISTS // whole)].append((number, relation))
        height += len(_lines(relation))
    return columns


def _relations(sheet: Sheet, columns: Sequence[Sequence[tuple[int, Relation]]], top: float) -> None:
    theme = sheet.theme
    wide = sheet.text(EDGE, top + 20.0, "Which losses are one another", 19.0, bold=True)
    told = "Lines without a tip and =: the same numbers; →: tends to, while the letter goes to its bound. "
    told += "A call without operands has those of the left side."
    sheet.text(EDGE + wide + 22.0, top + 20.0, told, 13.0, theme.quiet)
    for place, column in enumerate(columns):
        x, y = EDGE + place * (WIDTH - 2 * EDGE) / LISTS, top + 44.0
        for number, relation in column:
            sheet.text(x + 15.0, y, str(number), 8.6, theme.value, align="right", bold=True)
            at = x + 21.0 + sheet.text(x + 21.0, y, bare(relation.left), 8.6)
            if len(_lines(relation)) > 1:
                at, y = x + 26.0, y + LINE
            _sign(sheet, relation, at, y)
            sheet.text(at + _arrow(relation), y, bare(relation.right), 8.6)
            y += LINE


def _sign(sheet: Sheet, relation: Relation, x: float, y: float) -> None:
    """An equals sign, or an arrow with what goes where above it."""
    theme, width = sheet.theme, _arrow(relation)
    if not relation.limit:
        sheet.text(x + width / 2, y, "=", 9.5, theme.gradient, align="center", bold=True)
        return
    start, end, middle = x + 6.0, x + width - 6.0, y - 2.2
    sheet.rule((start, end), (middle,) * 2, theme.gradient, 1.0)
    sheet.rule((end - 4.5, end, end - 4.5), (middle - 2.6, middle, middle + 2.6), theme.gradient, 1.0)
    sheet.text(x + width / 2 - 1.0, middle - 2.0, relation.condition, 6.6, theme.gradient, align="center")
