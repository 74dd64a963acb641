"""Who pulls, for people: the text and the page of `losskit.autopsy`."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from typing import Any

from losskit_guide.card import missing

FRACTIONS = (0.01, 0.1, 0.5)
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b1f24;
  background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .3rem .6rem; border-bottom: 1px solid #d8dee4;
  text-align: right; } td:first-child, th:first-child { text-align: left; }
.bar { background: linear-gradient(#0072B2, #0072B2) no-repeat left / var(--share) 100%; min-width: 8rem; }
.wide { overflow-x: auto; } img { max-width: 100%; background: #fff; } .lead { font-size: 1.2rem; }
@media (prefers-color-scheme: dark) { body { color: #e6edf3; background: #0d1117; }
  td, th { border-color: #30363d; } }
"""


def headline(found: Any) -> str:
    """The one sentence: how few rows have how much of the pull."""
    rows = len(found.pulls)
    if bool(found.pulls.isnan().any()):
        return f"{int(found.pulls.isnan().sum())} of {rows} rows have a gradient that is NaN: they spoil all others."
    if not float(found.pulls.sum()):
        return f"No row of {rows} pulls: the gradient is 0."
    fraction = next((x for x in FRACTIONS if x * rows >= 1), 1.0)
    count = max(1, round(fraction * rows))
    told = f"{count} of {rows} rows" if rows < 1000 else f"{fraction:.0%} of the rows"
    return f"{told} {'has' if count == 1 else 'have'} {found.share_of(fraction):.0%} of the pull."


def text(found: Any, count: int = 10) -> str:
    """As a terminal shows it."""
    lines = [f"{found.name}: {headline(found)}", ""]
    lines += _table(*_rows(found, count))
    if found.others:
        lines += ["", "the same rows under other losses:", ""]
        lines += _table(*_compared(found))
    return "\n".join(lines)


def data(found: Any, count: int) -> dict[str, Any]:
    """As numbers, for JSON."""
    shares = {one.name: {f"{x:g}": one.share_of(x) for x in FRACTIONS} for one in (found, *found.others)}
    worst = [vars(one) for one in found.worst(count)]
    return {"loss": found.name, "rows": len(found.pulls), "worst": worst, "shares": shares}


def page(found: Any, count: int = 25) -> str:
    """One HTML page without anything to load."""
    head, rows = _rows(found, count)
    largest = max((suspect.share for suspect in found.worst(1)), default=0.0) or 1.0
    shares = [suspect.share / largest for suspect in found.worst(count)]
    body = [
        f"<h1>Who pulls? {html.escape(found.name)}</h1>",
        f'<p class="lead">{html.escape(headline(found))}</p>',
        f'<img alt="Share of the pull over the share of the rows" src="{_picture(found)}">',
        "<p>Rows are in the order of their pull, the strongest first. If all pulled alike, the curve would be the "
        "line.</p>",
        "<h2>The rows that pull hardest</h2>",
        _html_table(head, rows, shares),
    ]
    if found.others:
        body += ["<h2>The same rows under other losses</h2>", _html_table(*_compared(found))]
    body.append(
        "<p>A row's pull is the length of its part of the gradient of the whole batch's loss by the predictions. "
        "Made by losskit.</p>"
    )
    title = html.escape(f"Who pulls? {found.name}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def rows_as_text(found: Any, count: int) -> list[str]:
    """The rows that pull hardest as lines of a terminal."""
    return _table(*_rows(found, count))


def rows_as_html(found: Any, count: int) -> str:
    """The rows that pull hardest as a table of HTML."""
    return _html_table(*_rows(found, count))


def _rows(found: Any, count: int) -> tuple[list[str], list[list[str]]]:
    head = ["row", *found.columns, "loss", "pull", "share"]
    rows = [
        [str(one.row), *(_shown(values[one.row]) for values in found.columns.values()), _shown(one.loss),
         _shown(one.pull), f"{one.share:.1%}"]
        for one in found.worst(count)
    ]  # fmt: skip
    return head, rows


def _compared(found: Any) -> tuple[list[str], list[list[str]]]:
    """How the pull is spread under each loss, and what the rows that pull hardest now have under it."""
    suspects = [one.row for one in found.worst(max(1, round(0.01 * len(found.pulls))))]
    head = ["loss", "mean", *(f"hardest {x:.0%}" for x in FRACTIONS), f"the {len(suspects)} now hardest"]
    rows = []
    for one in (found, *found.others):
        share = float(one.shares[suspects].sum())
        rows.append(
            [one.name, _shown(float(one.losses.mean())), *(f"{one.share_of(x):.0%}" for x in FRACTIONS), f"{share:.0%}"]
        )
    return head, rows


def _shown(x: Any) -> str:
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return ["  ".join(x.ljust(w) if i == 0 else x.rjust(w) for i, (x, w) in enumerate(zip(row, widths, strict=True)))
            for row in (head, *rows)]  # fmt: skip


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]], shares: Sequence[float] = ()) -> str:
    cells = ["<tr>" + "".join(f"<th>{html.escape(x)}</th>" for x in head) + ("<th></th>" if shares else "") + "</tr>"]
    for i, row in enumerate(rows):
        bar = f'<td class="bar" style="--share: {shares[i]:.1%}"></td>' if shares else ""
        cells.append("<tr>" + "".join(f"<td>{html.escape(x)}</td>" for x in row) + bar + "</tr>")
    return f'<div class="wide"><table>{"".join(cells)}</table></div>'


def _picture(found: Any) -> str:
    """The share of the pull over the share of the rows, of each loss."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as problem:
        raise missing("the page of losskit.autopsy", problem) from None
    from losskit_guide.figures import COLOURS, DASHES, png

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for number, one in enumerate((found, *found.others)):
        shares = one.shares.nan_to_num().sort(descending=True).values.cumsum(0).tolist()
        step = max(1, math.ceil(len(shares) / 2000))
        kept = [*range(0, len(shares), step), len(shares) - 1]
        xs = [0.0, *((i + 1) / len(shares) for i in kept)]
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linestyle": DASHES[number % len(DASHES)]}
        axes.plot(xs, [0.0, *(shares[i] for i in kept)], label=one.name, **style)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    axes.set_xlabel("share of the rows")
    axes.set_ylabel("share of the pull")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return "data:image/png;base64," + base64.b64encode(png(figure)).decode()
