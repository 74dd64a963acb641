"""Cards and lists of them on a terminal (rich), in a notebook (HTML with LaTeX), and a small plot made of text."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from losskit_guide.card import Card, Variant
from losskit_guide.lines import of_card, points

if TYPE_CHECKING:
    from rich.console import RenderableType

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


def page(card: Card, width: int = 72) -> RenderableType:
    """What `losskit show` shows."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    about = ", ".join(filter(None, [card.task, card.family]))
    title = Text.assemble((card.class_name, "bold"), "  ", (card.name, "cyan"), "  ", (about, "dim"))
    parts: list[RenderableType] = [title]
    for heading, lines in sections(card).items():
        above = [Text(), Text(heading, style="bold yellow")] if heading else []
        parts += [*above, *(Padding(Text(x), (0, 0, 0, 2)) for x in lines)]
    if card.curve is not None:
        parts += [Text(), Text("Plot", style="bold yellow"), plot(card, width)]
    return Group(*parts)


def sections(card: Card) -> dict[str, list[str]]:
    """A card as titled lines of plain text."""
    found: dict[str, list[str]] = {"": [card.summary]}  # the section without a title comes first
    for variant in card.variants:
        found[f"Formula{when(card, variant)}"] = [
            variant.value["plain"],
            *(f"d/d {name} = {text['plain']}" for name, text in variant.gradients.items()),
        ]
    known = {entry["name"] for entry in [*card.operands, *card.parameters]}
    found["Where"] = [
        f"{symbol['name']}: {symbol['meaning']}" for symbol in card.symbols if symbol["name"] not in known
    ]
    found["Called with"] = [f"{operand['name']}: {operand['doc']}" for operand in card.operands]
    found["Parameters"] = [f"{p['name']} = {p['default']!r}: {p['doc']}" for p in card.parameters]
    found["Gives"] = [f"a scalar; with reduction 'none' {card.unreduced}"]
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
    found["Source"] = [card.reference] if card.reference else []
    return {title: lines for title, lines in found.items() if lines}


def facts(card: Card) -> list[str]:
    """The facts in words."""
    f = card.facts
    if not f:
        return []
    slope = "the gradient is unbounded" if f["lipschitz"] is None else f"the gradient is at most {f['lipschitz']}"
    least = "no smallest value for all targets" if f["minimum"] is None else f"never below {f['minimum']:g}"
    return [
        "convex" if f["convex"] else "not convex",
        "smooth" if f["smooth"] else "has kinks",
        f"{slope}: {'robust against outliers' if f['robust'] else 'a single outlier can dominate'}",
        least,
        *(["input and target may change places"] if f["symmetric"] else []),
    ]


def when(card: Card, variant: Variant) -> str:
    """The setting of a variant's switches, in parentheses."""
    on = ", ".join(f"{k}={v}" if _is_switch(card, k) else f"{'with' if v else 'without'} {k}"
                   for k, v in variant.switches.items())  # fmt: skip
    return f" ({on})" if on else ""


def _is_switch(card: Card, name: str) -> bool:
    return any(p["name"] == name and p["kind"] == "bool" for p in card.parameters)


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
    rows = canvas([values, slopes], width, height, bottom, top)
    text = Text()
    for number, row in enumerate(rows):
        label = f"{top:9.3g} " if number == 0 else f"{bottom:9.3g} " if number == height - 1 else " " * 10
        text.append(label, style="dim")
        for dots, which in row:
            text.append(dots, style=("green", "magenta")[which])
        text.append("\n")
    left, right = f"{low:g}", f"{high:g}"
    text.append(" " * 10 + left + right.rjust(width - len(left)) + "\n", style="dim")
    given = ", ".join(f"{g.name}={line.settings.get(g.name, g.value):g}" for g in line.curve.given)
    text.append(" " * 10 + line.curve.variable + (f" ({given})" if given else "") + "   ")
    text.append("value", style="green").append("   ").append("slope", style="magenta")
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
    """A card as HTML; formulas are LaTeX between dollar signs, which notebooks typeset."""
    parts = [f"<h3>{card.class_name} <code>{card.name}</code></h3>"]
    for title, lines in sections(card).items():
        if title.startswith("Formula"):
            continue
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        parts.append(
            f"<p><b>{html.escape(title)}</b></p><ul>{items}</ul>" if title else f"<p>{html.escape(lines[0])}</p>"
        )
        if not title:
            parts += [
                f"<p><b>Formula{html.escape(when(card, v))}</b></p>$${equation(card, v)}$$" for v in card.variants
            ]
    return "\n".join(parts)


def equation(card: Card, variant: Variant) -> str:
    """Value and gradients of a variant as LaTeX."""
    lines = [rf"\ell &= {variant.value['latex']}"]
    for name, text in variant.gradients.items():
        symbol = text.get("symbol", rf"\mathrm{{{name}}}".replace("_", r"\_"))
        lines.append(rf"\frac{{\partial \ell}}{{\partial {symbol}}} &= {text['latex']}")
    return r"\begin{aligned} " + r" \\ ".join(lines) + r" \end{aligned}"
