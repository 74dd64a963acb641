"""Names of losses as people write them: "huber", "HuberLoss", "BCE with logits", "mae".

A loss is found by its function's name, its class's name, or an alias of its declaration. Capitals, spaces, hyphens,
underscores and a final "loss" do not matter.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

Names = tuple[str, ...]  # of one loss: of its function, of its class, its aliases


def find_name(text: str, losses: Iterable[Names]) -> str | None:
    """The function's name of the loss that `text` means, if there is one."""
    table = list(losses)
    exact = [names[0] for names in table if text in names[:2]]
    meant = exact or [names[0] for names in table if _bare(text) in map(_bare, names)]
    return meant[0] if meant else None


def close_name(text: str, losses: Iterable[Names]) -> str | None:
    """The name that `text` is probably a misspelling of, in the same style: of a class, of a function, or an alias."""
    known = {key(name): (name, names) for key in (_letters, _bare) for names in losses for name in reversed(names)}
    for wanted in (_letters(text), _bare(text)):
        close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.75)
        if close:
            name, names = known[close[0]]
            return name if name in names[2:] else names[1 if text[:1].isupper() else 0]
    return None


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _bare(name: str) -> str:
    """A name without what people leave out."""
    return _letters(name).removesuffix("loss") or _letters(name)
