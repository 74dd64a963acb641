"""What mkdocs.yml cannot say: losses and explorer in the navigation, formulas and plots in pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import plots
from formulas import Formulas
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File
from mkdocs.structure.nav import Link

from losskit.loss import TASKS
from losskit_guide.card import catalogue

EXPLORER = "explorer/index.html"


def on_config(config: Any) -> Any:
    """Formulas in every page, and a page for each loss in the navigation."""
    config.markdown_extensions.append(Formulas())
    losses = next(entry["Losses"] for entry in config.nav if "Losses" in entry)
    cards = sorted(catalogue().values(), key=lambda card: card.class_name)
    for task in dict.fromkeys([*TASKS, *(card.task for card in cards)]):
        entries = [{card.class_name: f"loss/{card.name}.md"} for card in cards if card.task == task]
        if entries:
            losses.append({task[:1].upper() + task[1:]: entries})
    return config


def on_files(files: Any, config: Any) -> Any:
    """The explorer is a part of the site."""
    page = Path(__file__).resolve().parent.parent.parent / "src" / "losskit_guide" / EXPLORER
    if not page.exists():
        raise PluginError("the site has the explorer in it, which is not here: run `make explorer`, which needs npm")
    files.append(File.generated(config, EXPLORER, abs_src_path=str(page)))
    return files


def on_nav(nav: Any, **_: Any) -> Any:
    """The explorer, which is no page of MkDocs, has its place before the losses."""
    place = next(i for i, item in enumerate(nav.items) if item.title == "Losses")
    nav.items.insert(place, Link("Explorer", EXPLORER))
    return nav


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The wide tables get the room of the contents; `<!-- plot: name -->` becomes a plot.

    The name is that of a loss, whose value and slope are drawn, or of one of the comparisons in `plots.DRAWN`.
    """
    if page.file.src_uri in ("accuracy.md", "deviations.md", "losses.md"):
        page.meta["hide"] = ["toc"]
    return re.sub(r"<!-- plot: (\w+) -->", lambda match: plots.named(match[1]), markdown)
