"""What mkdocs.yml cannot say: losses and explorer in the navigation, formulas and plots in pages."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import beside
import home
import magnified
import plots
from formulas import TEMML, Formulas
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.structure.nav import Link

from losskit.declaration import TASKS
from losskit_guide.card import catalogue

NUMBERS = ("accuracy.md", "speed.md")  # pages of large tables
EXPLORER = "explorer/index.html"
ROOT = Path(__file__).resolve().parent.parent.parent
BUILT = ROOT / "src" / "losskit_guide" / EXPLORER
FIGURES = [ROOT / "explorer" / "generated" / name for name in ("figures.js", "figures.css")]  # of the article


def on_config(config: Any) -> Any:
    """Formulas in every page, and a page for each loss in the navigation."""
    needed = [("the explorer", BUILT), *(("the article's figures", path) for path in FIGURES)]
    for part, path in (*needed, ("Temml, which sets formulas", TEMML)):
        if not path.exists() or shutil.which("node") is None:
            raise PluginError(f"the site needs {part}, which is not here: run `make explorer`, which needs npm")
    config.markdown_extensions.append(Formulas())
    losses = next(entry["Losses"] for entry in config.nav if "Losses" in entry)
    cards = sorted(catalogue().values(), key=lambda card: card.class_name)
    for task in dict.fromkeys([*TASKS, *(card.task for card in cards)]):
        entries = [{card.class_name: f"loss/{card.name}.md"} for card in cards if card.task == task]
        if entries:
            losses.append({task[:1].upper() + task[1:]: entries})
    peers = next(entry["Coming from"] for entry in config.nav if "Coming from" in entry)
    pages = {beside.title(path.stem): f"peers/{path.name}" for path in Path(config.docs_dir, "peers").glob("*.md")}
    pages.pop("index")
    peers += [{name: pages[name]} for name in sorted(pages, key=str.lower)]
    return config


def on_files(files: Any, config: Any) -> Any:
    """The explorer is a part of the site, and so are the figures of the article."""
    files.append(File.generated(config, EXPLORER, abs_src_path=str(BUILT)))
    for path in FIGURES:
        files.append(File.generated(config, f"scripts/{path.name}", abs_src_path=str(path)))
    return files


def on_nav(nav: Any, **_: Any) -> Any:
    """The explorer, which is no page of MkDocs, has its place before the losses."""
    place = next(i for i, item in enumerate(nav.items) if item.title == "Losses")
    nav.items.insert(place, Link("Explorer", EXPLORER))
    return nav


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The wide tables get the room of the contents; `<!-- plot: name -->` and `<!-- part: name -->` become one.

    The name of a plot is that of a loss, whose value and slope are drawn, or of a comparison in `plots.DRAWN`. That of
    a part is in `home.PARTS`. The page of a loss shows it under the microscope, where that says something.
    """
    if page.file.src_uri in (*NUMBERS, "deviations.md", "losses.md") or page.file.src_uri.startswith("peers/"):
        page.meta["hide"] = ["toc"]
    markdown = re.sub(r"<!-- part: (\w+) -->", lambda match: home.PARTS[match[1]](), markdown)
    folder, _, name = page.file.src_uri.removesuffix(".md").rpartition("/")
    if folder == "loss":
        markdown = markdown.replace("\n## Signatures\n", f"\n{magnified.named(name)}\n\n## Signatures\n", 1)
    return re.sub(r"<!-- plot: (\w+) -->", lambda match: plots.named(match[1]), markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Tables become cards on a phone, so their cells know their headings; one of many numbers scrolls instead."""
    if page.file.src_uri in NUMBERS:
        return html
    return re.sub(r"<table>.*?</table>", _with_headings, html, flags=re.S)


def _with_headings(table: re.Match[str]) -> str:
    headings = [re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<th[^>]*>(.*?)</th>", table[0], re.S)]

    def row(found: re.Match[str]) -> str:
        names = iter(headings)
        return re.sub(r"<td", lambda _: f'<td data-heading="{next(names)}"', found[0])

    return re.sub(r"<tr>.*?</tr>", row, table[0], flags=re.S).replace("<table>", "<table data-cards>", 1)
