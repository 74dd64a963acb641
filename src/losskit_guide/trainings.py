"""The playground's modes and trainings by name, as the built page lists them."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path

_LIST = re.compile(r'<script type="application/json" id="named">(.*?)</script>', re.S)


def training(page: Path, name: str, losses: str) -> str:
    """The part of the page's address that opens a mode, with these losses ("#loss=..."), or a training by its name."""
    found = _LIST.search(page.read_text(encoding="utf-8"))
    if found is None:
        raise ValueError("the explorer's page is older than its playground; run `make explorer`, which needs npm")
    links = {one["name"]: one["link"] for one in json.loads(found[1])}
    plain = {_plain(known): known for known in links}
    known = plain.get(_plain(name))
    if known is None:
        close = difflib.get_close_matches(_plain(name), plain, n=1)
        hint = f"Did you mean {plain[close[0]]!r}?" if close else f"There are {'; '.join(links)}."
        raise ValueError(f"the playground has no mode or training {name!r}. {hint}")
    if losses and "&" in links[known]:
        modes = ", ".join(known for known, link in links.items() if "&" not in link)
        raise ValueError(f"the training {known!r} has losses of its own; name a mode to choose them: {modes}")
    return f"#{links[known]}{'&' + losses[1:] if losses else ''}"


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", name.lower().replace("'", "")).strip()
