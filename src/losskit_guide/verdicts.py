"""An audit, for people: the text, the data and the page of `losskit.audit`."""

from __future__ import annotations

import html
from typing import Any

MARKS = {"fault": "FAULT", "warning": "warning", "note": "note", "skipped": "skipped", "pass": "pass"}
COLOURS = {".": "#d8efe0", "d": "#ffe08a", "o": "#f2a65a", "0": "#c9b3e6", "N": "#e06c5c", "x": "#9aa3ad", " ": "#fff"}
MEANINGS = {".": "right", "d": "digits lost", "o": "overflow", "0": "gradient 0", "N": "NaN", "x": "raises",
            " ": "not looked at"}  # fmt: skip
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1b1f24;
  background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; } .lead { font-size: 1.2rem; }
table { border-collapse: collapse; width: 100%; } td, th { padding: .3rem .6rem; border-bottom: 1px solid #d8dee4;
  text-align: left; vertical-align: top; }
code { font-size: .85rem; overflow-wrap: anywhere; } .wide { overflow-x: auto; }
.fault { color: #b3261e; font-weight: 600; } .warning { color: #8a5a00; font-weight: 600; }
.map td { width: 2rem; text-align: center; color: #1b1f24; border: 1px solid #fff; font-size: .8rem; padding: .15rem; }
@media (prefers-color-scheme: dark) { body { color: #e6edf3; background: #0d1117; } td, th { border-color: #30363d; }
  .fault { color: #ff8a80; } .warning { color: #ffc966; } .map td { border-color: #0d1117; } }
"""


def headline(found: Any) -> str:
    """The one sentence."""
    counts = [(len(found.of("fault")), "fault"), (len(found.of("warning")), "warning")]
    told = [f"{count} {word}{'s' if count != 1 else ''}" for count, word in counts if count]
    checks = len({one.check for one in found.findings if one.verdict != "skipped"})
    return f"{' and '.join(told) if told else 'nothing wrong'}, {checks} checks"


def scales_of(found: Any) -> tuple[dict[str, str], list[float]]:
    """The map of where: a letter for each magnitude, by dtype; nothing where it was not made."""
    for one in found.findings:
        if "map" in one.data:
            return one.data["map"], list(one.data["scales"])
    return {}, []


def text(found: Any, *, everything: bool = False) -> str:
    """As a terminal shows it: faults and warnings with their calls, notes, and one line for what passed."""
    lines = [f"{found.name}: {headline(found)}", f"  with {found.example}"]
    for verdict in ("fault", "warning", "note"):
        for one in found.of(verdict):
            lines += ["", f"{MARKS[verdict]}  {one.check}: {one.sentence}"]
            lines += [f"    {one.call}"] if one.call and verdict != "note" else []
    rows, sizes = scales_of(found)
    if rows:
        lines += ["", f"where (magnitudes {sizes[0]:g} to {sizes[-1]:g}; . right, d digits lost, o overflow, "
                  "0 gradient lost, N NaN)"]  # fmt: skip
        lines += [f"    {dtype:>8}  {row}" for dtype, row in rows.items()]
    for verdict in ("pass", "skipped"):
        names = [one.check for one in found.of(verdict)]
        if names and not everything:
            lines += ["", f"{MARKS[verdict]}: {', '.join(names)}"] if verdict == "pass" else []
        for one in found.of(verdict) if everything or verdict == "skipped" else ():
            lines += [f"{MARKS[verdict]}  {one.check}: {one.sentence}"]
    return "\n".join(lines)


def data(found: Any) -> dict[str, Any]:
    """As numbers, for JSON."""
    return {
        "loss": found.name,
        "example": found.example,
        "sound": found.sound,
        "seconds": round(found.seconds, 3),
        "findings": [
            {"check": one.check, "verdict": one.verdict, "sentence": one.sentence, "call": one.call, "data": one.data}
            for one in found.findings
        ],
    }


def page(found: Any) -> str:
    """One HTML page without anything to load."""
    body = [
        f"<h1>Audit of {html.escape(found.name)}</h1>",
        f'<p class="lead">{html.escape(headline(found))}.</p>',
        f"<p>Called with {html.escape(found.example)}.</p>",
    ]
    for verdict, title in (("fault", "Faults"), ("warning", "Warnings"), ("note", "Notes")):
        ones = found.of(verdict)
        if ones:
            body += [f"<h2>{title}</h2>", _table(ones)]
    rows, sizes = scales_of(found)
    if rows:
        body += ["<h2>Where</h2>", "<p>Value and gradient against float64, by dtype and by the magnitude of the "
                 "predictions.</p>", _map(rows, sizes)]  # fmt: skip
    passed = [one.check for one in found.of("pass")]
    if passed:
        body += ["<h2>Passed</h2>", f"<p>{html.escape(', '.join(passed))}</p>"]
    if found.of("skipped"):
        body += ["<h2>Not looked at</h2>", _table(found.of("skipped"))]
    body.append(f"<p>Made by losskit in {found.seconds:.1f} s.</p>")
    title = html.escape(f"Audit of {found.name}")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _table(ones: list[Any]) -> str:
    rows = []
    for one in ones:
        call = f"<br><code>{html.escape(one.call)}</code>" if one.call else ""
        kind = f' class="{one.verdict}"' if one.verdict in ("fault", "warning") else ""
        rows.append(f"<tr><td{kind}>{html.escape(one.check)}</td><td>{html.escape(one.sentence)}{call}</td></tr>")
    return f'<div class="wide"><table>{"".join(rows)}</table></div>'


def _map(rows: dict[str, str], sizes: list[float]) -> str:
    head = "".join(f"<td>{size:.0e}</td>".replace("e+0", "e").replace("e-0", "e-") for size in sizes)
    lines = [f"<tr><td></td>{head}</tr>"]
    for dtype, row in rows.items():
        cells = "".join(
            f'<td style="background: {COLOURS[letter]}" title="{MEANINGS[letter]}">{html.escape(letter)}</td>'
            for letter in row
        )
        lines.append(f"<tr><td>{dtype}</td>{cells}</tr>")
    told = ", ".join(f"{html.escape(letter)} {MEANINGS[letter]}" for letter in MEANINGS if letter != " ")
    return f'<div class="wide"><table class="map">{"".join(lines)}</table></div><p>{told}</p>'
