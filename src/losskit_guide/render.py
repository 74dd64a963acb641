"""Cards and lists of them on a terminal (rich), in a notebook (HTML with LaTeX), and a small plot made of text."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from losskit_guide.card import Card, Equation, Variant, convexity, missing, number
from losskit_guide.lines import of_card, points

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


Rows = Sequence[Sequence[tuple[float, float]]]  # value and gradient of each loss at each point


def one_line_each(cards: Sequence[Card], width: int | None) -> str:
    """What `losskit list` shows; width: of the terminal, where lines are cut; None: they are whole."""
    columns = [[card.name for card in cards], [card.class_name for card in cards], [card.task for card in cards]]
    if width is not None and width < 110:
        columns.pop()  # the task
    columns = [[cell.ljust(max(map(len, column))) for cell in column] for column in columns]
    lines = ["  ".join([*cells, card.summary]).rstrip() for card, *cells in zip(cards, *columns, strict=True)]
    return "\n".join(line if width is None or len(line) <= width else f"{line[: width - 1]}…" for line in lines)


def comparison(labels: Sequence[str], axis: str, xs: Sequence[float], rows: Rows, console: Console) -> Iterator[Table]:
    """What `losskit compare` shows: tables that fit the terminal, or one where there is none."""
    start, count = 0, len(labels)
    while start < len(labels):
        chosen = range(start, min(start + count, len(labels)))
        table = _compared([labels[i] for i in chosen], axis, xs, [[row[i] for i in chosen] for row in rows])
        if console.is_terminal and whole(table, console) > console.width and len(chosen) > 1:
            count = len(chosen) - 1
            continue
        yield table
        start += len(chosen)


def whole(table: Table, console: Console) -> int:
    """The width of a table of which nothing is cut off."""
    return console.measure(table, options=console.options.update(width=10_000)).maximum


def _compared(labels: Sequence[str], axis: str, xs: Sequence[float], rows: Rows) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(axis, justify="right", no_wrap=True)
    for label in labels:
        table.add_column(label, justify="right", no_wrap=True)
        table.add_column("gradient", justify="right", style="dim", no_wrap=True)
    for x, row in zip(xs, rows, strict=True):
        table.add_row(f"{x:g}", *(_figures(figure) for pair in row for figure in pair))
    means = [sum(row[i][0] for row in rows) / len(rows) for i in range(len(labels))]
    table.add_section()
    table.add_row("mean", *(cell for mean in means for cell in (_figures(mean), "")))
    return table


def _figures(x: float) -> str:
    return "-" if math.isnan(x) else f"{x:.6g}"


COLUMNS = {"name": "name", "summary": "what it is", "best_for": "best for", "not_for": "not for"}


def overview(cards: Iterable[Card], width: int) -> RenderableType:
    """What `losskit list` shows: a table, or on a narrow terminal a paragraph for each loss."""
    from rich import box
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if width < 130:
        parts: list[RenderableType] = []
        for card in cards:
            parts.append(Text.assemble((card.name, "bold"), "  ", (card.task, "dim")))
            for text in (card.summary, f"best for: {card.best_for}", f"not for: {card.not_for}"):
                parts.append(Padding(Text(text), (0, 0, 0, 2)))
        return Group(*parts)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in COLUMNS.values():
        table.add_column(title, style="bold" if title == "name" else "", no_wrap=title == "name")
    for card in cards:
        table.add_row(*(getattr(card, key) for key in COLUMNS))
    return table


class ShownCard(Card):
    """A card that shows itself: on a terminal, at Python's prompt, in a notebook."""

    def __rich_console__(self, console: Any, options: Any) -> Any:
        yield page(self, min(options.max_width - 12, 72))

    def _repr_html_(self) -> str:
        return notebook(self)

    def _repr_latex_(self) -> str:
        return "".join(f"$${latex(equations)}$$" for _, equations in formulas(self))

    def __repr__(self) -> str:
        try:
            return str(self)
        except ModuleNotFoundError as problem:
            return f"the card of {self.class_name} ({problem})"

    def __str__(self) -> str:
        try:
            from rich.console import Console
        except ModuleNotFoundError as problem:
            raise missing("the text of a loss's card", problem) from None
        console = Console(width=100, color_system=None)
        with console.capture() as captured:
            console.print(self)
        return captured.get()


def page(card: Card, width: int = 72) -> RenderableType:
    """What `losskit show` shows."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    about = ", ".join(filter(None, [card.task, card.family]))
    title = Text.assemble((card.class_name, "bold"), "  ", (card.name, "cyan"), "  ", (about, "dim"))
    parts: list[RenderableType] = [title]
    if card.aliases:
        parts.append(Text(f"also called {', '.join(name.replace('_', ' ') for name in card.aliases)}", style="dim"))
    for heading, lines in sections(card).items():
        above = [Text(), Text(heading, style="bold yellow")] if heading else []
        style = "cyan" if heading.startswith("Formula") else ""
        parts += [*above, *(Padding(Text(x, style=style), (0, 0, 0, 2), expand=False) for x in lines)]
    if card.curve is not None:
        parts += [Text(), Text("Plot", style="bold yellow"), plot(card, width)]
    return Group(*parts)


def sections(card: Card) -> dict[str, list[str]]:
    """A card as titled lines of plain text."""
    found: dict[str, list[str]] = {"": [card.summary]}  # the section without a title comes first
    for title, equations in formulas(card):
        found[f"Formula{f', {title}' if title else ''}"] = [line for x in equations for line in told(x)]
    letters = [f"{symbol['plain']}: {named(card, symbol)}" for symbol in card.symbols]
    found["Where"] = letters
    found["Reduction"] = [
        f"'none' gives {card.unreduced}.",
        *(line for equation in card.reductions for line in told(equation)),
    ]
    found["Called with"] = [f"{operand['name']}: {operand['doc']}" for operand in card.operands]
    found["Parameters"] = [f"{p['name']}{setting(card, p)}: {p['doc']}" for p in card.parameters]
    found["Facts"] = facts(card)
    found["When"] = [
        *card.advice,
        *([f"Best for: {card.best_for}"] if card.best_for else []),
        *([f"Not for: {card.not_for}"] if card.not_for else []),
    ]
    found["Alternatives"] = [", ".join(card.alternatives)] if card.alternatives else []
    found["Numerical notes"] = card.notes
    found["Where torch differs"] = [
        f"{d['reason']} ({d['of'] if d['of'] == 'value' else 'gradient by ' + d['of']}: torch {d['torch']}, losskit "
        f"{d['losskit']})"
        for d in card.deviations
    ]
    found["In other libraries"] = [line for peer in card.peers for line in beside(peer)]
    found["Source"] = [card.reference] if card.reference else []
    return {title: lines for title, lines in found.items() if lines}


def beside(peer: dict[str, Any]) -> list[str]:
    """The call of another library and the call here, and what a user has to know."""
    relation = "differs from" if peer["differs"] else "is"
    why = f"  {peer['why']}" if peer["why"] else ""
    return [f"{peer['library']}: {peer['there']} {relation} {peer['here']}", *([why] if why else [])]


def formulas(card: Card) -> list[tuple[str, list[Equation]]]:
    """The equations under each setting of the switches, the card's own first; settings that share them are one."""
    own = card.setting(card.values)
    ordered = sorted(card.variants, key=lambda v: sum(on != own[name] for name, on in v.switches.items()))
    found: dict[tuple[Equation, ...], Variant] = {}
    for variant in ordered:
        found.setdefault(tuple(variant.equations), variant)
    matter = [
        name
        for name in (ordered[0].switches if ordered else ())
        if any(v.equations != w.equations for v in ordered for w in ordered if _differ_in(v, w) == [name])
    ]
    if len(found) == 1:
        matter = []
    first = ordered[0].switches
    return [
        (", ".join(_told(card, name, on) for name, on in variant.switches.items() if name in matter and
                   (variant is ordered[0] or on != first[name])), list(equations))
        for equations, variant in found.items()
    ]  # fmt: skip


def _differ_in(one: Variant, other: Variant) -> list[str]:
    return [name for name, on in one.switches.items() if other.switches[name] != on]


def _told(card: Card, name: str, on: bool | str) -> str:
    named = isinstance(on, str) or any(p["name"] == name and p["kind"] == "bool" for p in card.parameters)
    return f"{name}={on!r}" if named else f"{'with' if on else 'without'} {name}"


def told(equation: Equation) -> list[str]:
    """An equation as lines of text, with what it is of in front of it where that is not plain to see."""
    lines = equation.plain.split("\n")
    title = equation.title if equation.title.startswith(("with ", "mean with ", "batchmean", "sum", "mean")) else ""
    return [f"{title}: {lines[0]}" if title else lines[0], *lines[1:]]


def named(card: Card, symbol: dict[str, str]) -> str:
    """What a letter stands for: an argument, or what the family says."""
    docs = {entry["name"]: entry["doc"] for entry in [*card.operands, *card.parameters]}
    name, meaning = symbol["name"], symbol["meaning"]
    if name not in docs:
        return meaning
    return name if docs[name].startswith(meaning) else f"{name}, {meaning}"


def setting(card: Card, parameter: dict[str, Any]) -> str:
    """The value of a parameter, if it has one, with its default where that is another one, and the words it may be."""
    name, default = parameter["name"], parameter["default"]
    value = card.values.get(name, default)
    words = f", one of {parameter['range']}" if parameter["kind"] == "choice" and parameter["range"] else ""
    if parameter["required"]:
        return f" = {value!r}{words}" if name in card.values else f" (no default){words}"
    return f" = {value!r}{words}" if value == default else f" = {value!r} (by default {default!r}){words}"


def facts(card: Card) -> list[str]:
    """The facts in words."""
    f = card.facts
    if not f:
        return []
    if f["lipschitz"] is None:
        slope = "the gradient is unbounded: a single sample can dominate"
    else:
        dominates = "no wrong target can dominate" if f["robust"] else "the loss of a wrong target is unbounded"
        slope = f"the gradient is at most {number(f['lipschitz'])}; {dominates}"
    least = "no smallest value for all targets" if f["minimum"] is None else f"never below {f['minimum']:g}"
    return [
        convexity(f),
        "smooth" if f["smooth"] else "has kinks",
        slope,
        least,
        *(["input and target may change places"] if f["symmetric"] else []),
    ]


def when(card: Card, variant: Variant) -> str:
    """The setting of a variant's switches, in parentheses."""
    on = ", ".join(_told(card, name, x) for name, x in variant.switches.items())
    return f" ({on})" if on else ""


def plot(card: Card, width: int = 72, height: int = 12) -> RenderableType:
    """Value and slope over the natural variable, made of braille dots."""
    from rich.text import Text

    line = of_card(card)
    low, high = line.limits
    values, slopes = line.over(points(low, high, 2 * width))
    finite = sorted(y for y in [*values, *slopes] if math.isfinite(y))
    # A steep end must not press everything else flat: what lies far outside the rest is cut off.
    spread = finite[len(finite) * 9 // 10] - finite[len(finite) // 10] or 1.0
    bottom = max(finite[0], finite[len(finite) // 10] - spread)
    top = min(finite[-1], finite[len(finite) * 9 // 10] + spread)
    dotted = [y if i % 4 == 0 else math.nan for i, y in enumerate(slopes)]  # told from the value without colour
    rows = canvas([values, dotted], width, height, bottom, top)
    text = Text()
    for place, row in enumerate(rows):
        label = f"{top:9.3g} " if place == 0 else f"{bottom:9.3g} " if place == height - 1 else " " * 10
        text.append(label, style="dim")
        for dots, which in row:
            text.append(dots, style=("green", "magenta")[which])
        text.append("\n")
    left, right = f"{low:g}", f"{high:g}"
    text.append(" " * 10 + left + right.rjust(width - len(left)) + "\n", style="dim")
    given = ", ".join(f"{g.name}={line.settings.get(g.name, g.value):g}" for g in line.curve.given)
    text.append(" " * 10 + line.curve.variable + (f" ({given})" if given else "") + "   ")
    text.append("⠒⠒⠒ value", style="green").append("   ").append("⠂⠐⠂ slope", style="magenta")
    return text


def canvas(series: Sequence[Sequence[float]], width: int, height: int, bottom: float, top: float) -> list[list[Any]]:
    """Rows of (braille character, series); a series has two points for each character."""
    bits = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
    cells = [[[0, 0] for _ in range(width)] for _ in range(height)]
    for which, ys in enumerate(series):
        for column, y in enumerate(ys):
            if not math.isfinite(y) or not bottom <= y <= top:
                continue
            dot = round((top - y) / ((top - bottom) or 1.0) * (4 * height - 1))
            cell = cells[dot // 4][column // 2]
            cell[0] |= bits[column % 2][dot % 4]
            cell[1] = which
    return [[(chr(0x2800 + dots), which) for dots, which in row] for row in cells]


def notebook(card: Card) -> str:
    """A card as HTML with its plot; formulas are LaTeX between dollar signs, which notebooks typeset."""
    parts = [f"<h3>{card.class_name} <code>{card.name}</code></h3>"]
    for title, lines in sections(card).items():
        if title.startswith("Formula"):
            continue
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        parts.append(
            f"<p><b>{html.escape(title)}</b></p><ul>{items}</ul>" if title else f"<p>{html.escape(lines[0])}</p>"
        )
        if not title:
            parts += [f"<p><b>Formula{f', {of}' if of else ''}</b></p>$${latex(x)}$$" for of, x in formulas(card)]
            parts += picture(card)
    return "\n".join(parts)


def picture(card: Card) -> list[str]:
    """The plot of value and gradient as an image of HTML, where matplotlib is installed."""
    try:
        from losskit_guide.figures import plot as drawn
        from losskit_guide.figures import png

        data = base64.b64encode(png(drawn(card))).decode() if card.curve else ""
    except ModuleNotFoundError:
        return []
    alt = f"Value and gradient of {card.class_name}"
    return [f'<img alt="{alt}" style="max-width: 100%" src="data:image/png;base64,{data}">'] if data else []


def latex(equations: Iterable[Equation]) -> str:
    """Equations as LaTeX, one below the other, aligned at their first equality sign."""
    lines = [equation.latex.replace(" = ", " &= ", 1) for equation in equations]
    return r"\begin{aligned} " + r" \\ ".join(lines) + r" \end{aligned}"
