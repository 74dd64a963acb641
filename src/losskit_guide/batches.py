"""A batch for people: as text, as a picture with the rows that matter, and as the live page of a notebook."""

from __future__ import annotations

import base64
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from losskit_guide.card import Card, catalogue
from losskit_guide.lines import Line, link, points, settable
from losskit_guide.pulls import headline, rows_as_html, rows_as_text

CELLS, ROWS, COLUMNS = 200_000, 10_000, 200  # that the page is given, at most
DOTS = 2000  # rows on a picture
FAR = 2  # ranges of nearly all rows, beyond which a row is not looked for
# What the page takes as a variable of a kind (explorer/src/formulas.js).
KINDS = {
    "probability": (0.0, 1.0),
    "log_probability": (-math.inf, 0.0),
    "distance": (0.0, math.inf),
    "cosine": (-1.0, 1.0),
}
TRIED = 64  # rows on which it is tried whether a loss depends on a difference


@dataclass
class Table:
    """Rows as the live page takes them: their numbers, and columns that the page knows by their names.

    line: the loss with the settings that the page has. notes: what the page does not show.
    """

    line: Line
    notes: list[str]
    rows: list[int] = field(default_factory=list)
    columns: Mapping[str, list[float]] = field(default_factory=dict)


def rows_of(columns: int) -> int:
    """How many rows of that many columns the page is given."""
    return max(1, min(ROWS, CELLS // columns))


def table(card: Card, params: Mapping[str, Any], present: Sequence[str], extras: Iterable[str]) -> Table | None:
    """The table of a loss with these parameters, yet without rows; None: the page does not have the loss.

    present: operands that might have been left out. extras: what else is given, and the page does not know.
    """
    if card.name not in catalogue() or card.curve is None:
        return None
    usual = {p["name"]: p["default"] for p in card.parameters}
    changed = {name: x for name, x in params.items() if x is not usual[name] and x is not None}
    numbers, switches = settable(card)
    settings = {
        name: x for name, x in changed.items()
        if isinstance(x, bool | str | int | float) and x != usual[name] and name in (*numbers, *switches)
    }  # fmt: skip
    settings |= {g.name: g.value for g in card.curve.given if g.name in present}
    # Rows that are ignored are left out.
    known = {*settings, "ignore_index"}
    lost = [name for name, x in changed.items() if name not in known and _differs(x, usual[name])]
    lost += extras
    notes = [f"The page computes its losses without {_listed(lost)}, which it does not have."] if lost else []
    return Table(Line(card, settings), notes)


def includes(card: Card, columns: Mapping[str, Any]) -> bool:
    """Whether the page reads these numbers as the loss's variable: of some kinds it takes only what they can be."""
    low, high = KINDS.get(card.curve.kind if card.curve else "", (-math.inf, math.inf))
    own = columns.get(card.curve.variable) if card.curve else None
    return own is None or bool(((own >= low) & (own <= high)).all())


def _differs(x: Any, usual: Any) -> bool:
    return not isinstance(x, bool | str | int | float) or x != usual


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def text(batch: Any, count: int = 10) -> str:
    """As a terminal shows it."""
    lines = [f"{batch.name}: {_first(batch)}", headline(batch), *batch.notes, "", *rows_as_text(batch, count)]
    return "\n".join(lines)


def _first(batch: Any) -> str:
    rows = len(batch.pulls)
    return f"{rows} {'rows' if rows > 1 else 'row'}, {batch.reduction} of the loss {batch.value:.6g}."


def html_of(batch: Any, count: int = 10) -> str:
    """What a notebook shows where no widget runs: sentences, the picture, the rows that pull hardest."""
    said = [_first(batch), headline(batch), *batch.notes, *(batch.table.notes if batch.table else [])]
    parts = [
        f"<h3>{html.escape(batch.card.class_name)} <code>{html.escape(batch.name)}</code></h3>",
        *(f"<p>{html.escape(sentence)}</p>" for sentence in said),
        *_picture(batch),
        "<p><b>The rows that pull hardest</b></p>",
        rows_as_html(batch, count),
    ]
    return "\n".join(parts)


# ---------------------------------------------------------------------------------------------------------
# The picture


def _picture(batch: Any) -> list[str]:
    """The picture as an image of HTML, where matplotlib is installed."""
    try:
        from losskit_guide.figures import png

        data = base64.b64encode(png(figure(batch))).decode()
    except ModuleNotFoundError:
        return []
    alt = f"The rows of the batch under {batch.card.class_name}"
    return [f'<img alt="{html.escape(alt)}" style="max-width: 100%" src="data:image/png;base64,{data}">']


def figure(batch: Any) -> Any:
    """The rows on the curve of the loss, where they have a place there, and the histogram of their losses."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    from losskit_guide.figures import COLOURS

    places = None if batch.table is None else on_curve(batch.table, [float(batch.losses[i]) for i in batch.table.rows])
    drawn = Figure(figsize=(10, 3.8) if places else (6, 3.8), layout="constrained")
    axes = drawn.subplots(1, 2 if places else 1, squeeze=False)[0]
    for one in axes:
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
    if places:
        _draw_curve(axes[0], batch, places, COLOURS)
    finite = [x for x in batch.losses.tolist() if math.isfinite(x)]
    if finite:
        positive = min(finite) > 0 and max(finite) > 100 * min(finite)
        powers = points(math.log10(min(finite)), math.log10(max(finite)), 41) if positive else []
        bins = [min(finite), *(10.0**p for p in powers[1:-1]), max(finite)] if positive else 40
        axes[-1].hist(np.array(finite), bins=bins, color=COLOURS[0], alpha=0.8)
        if positive:
            axes[-1].set_xscale("log")
            axes[-1].xaxis.set_major_locator(LogLocator(numticks=7))
            axes[-1].xaxis.set_major_formatter(lambda x, _: f"{x:g}")  # a power would need fonts of formulas
            axes[-1].xaxis.set_minor_formatter("")
    axes[-1].set_title("losses of the rows")
    axes[-1].set_xlabel("loss of a row" + (" (logarithmic)" if finite and positive else ""))
    axes[-1].set_ylabel("rows")
    return drawn


def _draw_curve(axes: Any, batch: Any, places: Sequence[float], colours: Sequence[str]) -> None:
    line = batch.table.line
    ys = [float(batch.losses[i]) for i in batch.table.rows]
    step = math.ceil(len(ys) / DOTS)
    ordered = sorted(places)
    low = min(line.limits[0], ordered[len(ordered) // 100])
    high = max(line.limits[1], ordered[-1 - len(ordered) // 100])
    room = FAR * (high - low)
    low, high = min(low, max(ordered[0], low - room)), max(high, min(ordered[-1], high + room))
    xs = [x for x in points(low, high, 401) if line.allows(x)]
    axes.plot(xs, line.over(xs)[0], color=colours[0])
    axes.plot(places[::step], ys[::step], "o", color=colours[1], alpha=0.4, markersize=4, markeredgewidth=0)
    top = axes.get_ylim()
    axes.plot(places[::step], [0.0] * len(places[::step]), "|", color=colours[1], alpha=0.4, markersize=8,
              transform=axes.get_xaxis_transform(), clip_on=True)  # fmt: skip
    axes.set(title="rows on the curve", xlabel=line.curve.label.rstrip("."), ylabel="loss", xlim=(low, high), ylim=top)


def on_curve(rows: Table, losses: Sequence[float]) -> list[float] | None:
    """Where rows lie on the curve: at their own variable; None: they have no one place.

    Rows of class scores lie at the margin of the right class over all others. Where a loss depends on the difference of
    two operands alone, rows are moved to the curve's own target; whether it does is tried on some.
    """
    card, columns = rows.line.card, list(rows.columns.values())
    if card.rows is not None:
        scores, right = columns[:-1], columns[-1]
        return _margins(scores, right, card.rows.softmax) if card.rows.terms == "class" else None
    variable = rows.columns[rows.line.curve.variable]
    others = [name for name in rows.columns if name != rows.line.curve.variable]
    if len(others) != 1 or others[0] not in rows.line.numbers:
        return variable
    there = rows.line.numbers[others[0]]
    shifted = [x - t + there for x, t in zip(variable, rows.columns[others[0]], strict=True)]
    step = max(1, len(shifted) // TRIED)
    same = all(
        math.isclose(rows.line.at(x)[0], loss, rel_tol=1e-6, abs_tol=1e-12)
        for x, loss in zip(shifted[::step], losses[::step], strict=True)
    )
    return shifted if same else variable


def _margins(scores: Sequence[Sequence[float]], right: Sequence[float], softmax: bool) -> list[float]:
    found = []
    for row, k in zip(zip(*scores, strict=True), right, strict=True):
        others = [x for j, x in enumerate(row) if j != k]
        most = max(others)
        rest = most + math.log(sum(math.exp(x - most) for x in others))
        found.append(row[int(k)] - rest if softmax else row[int(k)])
    return found


# ---------------------------------------------------------------------------------------------------------
# The live page

# Nothing but the page itself runs in the frame: it has an origin of its own, and its policy forbids every request.
FRAME = """
function theme() {
  const { jpThemeLight, vscodeThemeKind } = document.body.dataset;
  if (jpThemeLight) return jpThemeLight === "true" ? "light" : "dark";
  return vscodeThemeKind ? (vscodeThemeKind.includes("light") ? "light" : "dark") : "";
}
function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.title = model.get("title");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.style.cssText = "width: 100%; height: 46rem; border: 0; resize: vertical; background: transparent";
  const named = theme() ? `<html data-theme="${theme()}" ` : "<html ";
  frame.srcdoc = model.get("page").replace("<html ", named);
  el.replaceChildren(frame);
}
export default { render };
"""
MARK = "<!-- batch -->"  # where the page takes the rows


def page(batch: Any) -> str | None:
    """The explorer's page with the batch's rows in it; None: it is not built, or does not have the loss."""
    built = files("losskit_guide").joinpath("explorer/index.html")
    if batch.table is None or not built.is_file():
        return None
    names = list(batch.table.columns)
    rows = zip(*batch.table.columns.values(), strict=True)
    data = {
        "link": link([batch.table.line])[1:],
        "table": "\n".join([",".join(names), *(",".join(map(repr, row)) for row in rows)]),
        "rows": batch.table.rows,
        "said": [_first(batch), headline(batch), *batch.notes, *batch.table.notes],
    }
    inside = json.dumps(data).replace("<", "\\u003c")  # nothing in it can end the script element
    before, mark, after = built.read_text(encoding="utf-8").partition(MARK)
    return f'{before}<script type="application/json" id="batch">{inside}</script>{after}' if mark else None


def widget(batch: Any) -> Any:
    """What a notebook shows of a widget with the live page; None where there is none to show."""
    try:
        import anywidget
        import traitlets
    except ModuleNotFoundError:
        return None
    whole = page(batch)
    if whole is None:
        return None
    traits: dict[str, Any] = {"_esm": FRAME}
    traits |= {name: traitlets.Unicode(x).tag(sync=True) for name, x in (("page", whole), ("title", batch.name))}
    found = type("LiveBatch", (anywidget.AnyWidget,), traits)()._repr_mimebundle_()
    bundle = found[0] if isinstance(found, tuple) else found
    return {kind: x for kind, x in bundle.items() if kind != "text/plain"}  # which is the batch's own
