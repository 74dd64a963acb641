"""The demo's report: one HTML file without outside references, and its pictures as PNG files.

Every number and every sentence of the page comes from what the demo measured in the same run.
"""

import html
import os
import platform
import re
from dataclasses import asdict

import drawing
import torch

import losskit

STYLE = """
:root { color-scheme: light dark; --page: #f4f6f8; --good: #0b6b3a; --good-bg: #dff3e6; --bad: #9a3d00;
  --bad-bg: #fdebd8; --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  LIGHT }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --good: #7fdca4; --good-bg: #16341f;
  --bad: #ffb877; --bad-bg: #3d2710; DARK } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0; background: var(--page); color: var(--text); line-height: 1.55; font-family: var(--font); }
main { max-width: 1080px; margin: 0 auto; padding: 2.2rem 1.2rem 3rem; }
h1 { font-size: 1.9rem; margin: 0 0 .5rem; letter-spacing: -.015em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; letter-spacing: -.01em; scroll-margin-top: 1rem; }
p { max-width: 75ch; margin: .6rem 0; }
.lead { font-size: 1.08rem; }
.cards { display: grid; grid-template-columns: repeat(3, 1fr); gap: .8rem; margin: 1.6rem 0 0; }
.cards a { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem;
  color: inherit; text-decoration: none; }
.cards a:hover, .cards a:focus-visible { border-color: var(--blue); }
.cards strong { display: block; font-size: 1.35rem; color: var(--blue); line-height: 1.3; }
.cards b { display: block; font-weight: 600; font-size: .85rem; }
.cards span { display: block; color: var(--faint); font-size: .85rem; line-height: 1.4; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem; margin: 1rem 0; }
figure { margin: 0; } figcaption, .note { color: var(--faint); font-size: .88rem; max-width: 85ch; }
figcaption { margin-top: .5rem; }
svg { width: 100%; height: auto; display: block; } svg.narrow { display: none; }
code, pre { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .9em; }
pre { overflow-x: auto; margin: 0; line-height: 1.5; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th { text-align: left; color: var(--faint); font-weight: 500; padding: .3rem .8rem .5rem 0; vertical-align: bottom; }
td { padding: .5rem .8rem .5rem 0; border-top: 1px solid var(--line); vertical-align: top; }
td small { color: var(--faint); display: block; }
.good, .bad, .even { border-radius: 6px; padding: .05rem .45rem; font-weight: 600; }
.even { background: var(--line); }
.good { color: var(--good); background: var(--good-bg); }
.bad { color: var(--bad); background: var(--bad-bg); }
.good, .bad, .even { box-decoration-break: clone; -webkit-box-decoration-break: clone; }
.quote { font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .82rem; }
dl { display: grid; grid-template-columns: auto 1fr; gap: .25rem 1.2rem; margin: 0; }
dt { color: var(--faint); } dd { margin: 0; }
@media (max-width: 760px) {
  main { padding: 1.3rem .8rem 2rem; } h1 { font-size: 1.5rem; } h2 { margin-top: 2.2rem; }
  .cards { grid-template-columns: 1fr; gap: .5rem; }
  svg.wide { display: none; } svg.narrow { display: block; }
  thead { display: none; } table, tbody, tr, td { display: block; width: 100%; }
  tr { padding: .6rem 0; border-top: 1px solid var(--line); }
  tr:first-child { border-top: 0; padding-top: 0; }
  td { border: 0; padding: .2rem 0; display: grid; grid-template-columns: 8.5rem 1fr; gap: .8rem; }
  td > * { overflow-wrap: anywhere; } td:has(> :empty) { display: none; }
  td.of-quote, td.of-quote::before { display: block; }
  td:first-child { display: block; font-weight: 600; } td:first-child small { font-weight: 400; }
  td::before { content: attr(data-label); color: var(--faint); }
  td:first-child::before { content: none; }
}
"""


def style():
    """The style sheet, with the colours of the pictures as its variables."""
    text = STYLE
    for name, theme in (("LIGHT", drawing.LIGHT), ("DARK", drawing.DARK)):
        text = text.replace(name, " ".join(f"--{role}: {colour};" for role, colour in asdict(theme).items()))
    return text


def marked(text):
    """Text as HTML: what is in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def cell(content, label):
    """A cell; its second line is a remark, and a pair says how it is meant."""
    text, kind = content if isinstance(content, tuple) else (content, "plain")
    first, *rest = text.split("\n", 1)
    small = f"<small>{html.escape(rest[0])}</small>" if rest else ""
    content = f'<span class="{kind}">{html.escape(first)}</span>{small}' if text else ""
    return f'<td data-label="{html.escape(label)}" class="of-{kind}"><div>{content}</div></td>'


def table(data):
    """A table; on a narrow screen the style sheet turns each row into a card."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in data.heads)
    rows = "".join(
        f"<tr>{''.join(cell(content, label) for content, label in zip(row, data.heads, strict=True))}</tr>"
        for row in data.rows
    )
    note = f'<p class="note">{marked(data.caption)}</p>' if data.caption else ""
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{note}</div>'


def figure(picture):
    """Both drawings of a picture; the style sheet shows the one that fits."""
    drawings = drawing.svg(picture, narrow=False) + drawing.svg(picture, narrow=True)
    caption = marked(picture.caption)
    return f'<figure class="card">{drawings}<figcaption>{caption}</figcaption></figure>'


def section(part):
    """A part of the page."""
    lead = "".join(f"<p>{marked(text)}</p>" for text in part.lead)
    code = f'<div class="card"><pre><code>{html.escape(part.code)}</code></pre></div>' if part.code else ""
    pictures, tables = "".join(map(figure, part.pictures)), "".join(map(table, part.tables))
    notes = "".join(f'<p class="note">{marked(text)}</p>' for text in part.notes)
    return f'<section><h2 id="{part.key}">{html.escape(part.title)}</h2>{lead}{code}{pictures}{tables}{notes}</section>'


def card(part):
    """A part in the overview: its one number."""
    title = html.escape(part.title.split(":")[0])
    number, means = html.escape(part.number), html.escape(part.means)
    return f'<a href="#{part.key}"><b>{title}</b><strong>{number}</strong><span>{means}</span></a>'


def headline(parts):
    """What the page begins with: the sentences that parts have for it."""
    return " ".join(part.headline for part in parts if part.headline) or parts[0].lead[0]


def versions():
    """What ran, and on what."""
    return {
        "losskit": losskit.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "CPUs": str(os.cpu_count()),
        "Threads": str(torch.get_num_threads()),
        "System": f"{platform.system()} {platform.machine()}",
    }


def page(parts, left_out):
    """The whole report as one HTML document."""
    facts = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in versions().items())
    missing = "".join(f'<p class="note">Left out: {html.escape(text)}.</p>' for text in left_out)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>What losskit is for</title><style>{style()}</style></head><body><main>
<h1>What losskit is for</h1>
<p class="lead">{marked(headline(parts))}</p>
<nav class="cards">{"".join(map(card, parts))}</nav>
{"".join(map(section, parts))}
{missing}<h2>What ran</h2>
<p>The data sets ship with scikit-learn. A quarter of each is held out for the test, and every model shown beats
guessing on it, unless the text says that it does not. Every number on this page was measured in one run.</p>
<dl>{facts}</dl>
</main></body></html>
"""


def write(folder, parts, left_out):
    """Write report.html and the pictures into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    document = folder / "report.html"
    document.write_text(page(parts, left_out), encoding="utf-8")
    paths = [document]
    for picture in (picture for part in parts for picture in part.pictures):
        paths.append(folder / f"{picture.name}.png")
        paths[-1].write_bytes(drawing.png(picture))
    return paths
