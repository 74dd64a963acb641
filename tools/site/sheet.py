"""The page of the poster, and its files: all losses on one sheet, drawn while the site is made."""

from __future__ import annotations

from collections.abc import Callable

from losskit_guide.card import catalogue
from losskit_guide.poster import TITLE, poster
from losskit_guide.relations import RELATIONS, bare

FILES = {"light.svg": False, "dark.svg": True, "light.pdf": False, "light.png": False}  # whether it is dark
ALT = "All losses, by task: value and gradient, facts, authors, and which losses are one another"


def page(table: Callable[[list[str], list[list[str]]], str]) -> str:
    """The picture, and the relations on it as text, with links to the losses."""
    images = "\n".join(
        f"[![{ALT}](images/poster-{theme}.svg#only-{theme})](images/poster-{theme}.svg)" for theme in ("light", "dark")
    )
    rows = []
    for number, relation in enumerate(RELATIONS, 1):
        links = ", ".join(f"[{catalogue()[name].class_name}](loss/{name}.md)" for name in relation.losses)
        sign = f"tends to, as {relation.condition}" if relation.limit else "equals"
        rows.append([str(number), f"`{bare(relation.left)}`", sign, f"`{bare(relation.right)}`", links])
    files = ", ".join(f"[{name.replace('.', ', ')}](images/poster-{name})" for name in FILES)
    return (
        f"# All losses on one poster\n\n{len(catalogue())} losses, by task: value and gradient of each, what is known "
        "of it, who published it and when, and which losses are one another. The poster is made from the declarations: "
        f"no curve and no number on it was typed. It is as large as A1 paper: {files}. "
        "`losskit poster --out losses.pdf` draws it anew, and `losskit card huber_loss --out huber.svg` draws "
        f"[a loss on a slide](command.md#losskit-card).\n\n{images}\n\n## Which losses are one another\n\n"
        "The losses are unreduced. A call without operands has those of the left side. Each row is a test, on random "
        "operands in float64: two equal sides differ by less than 1e-12 of their size, and each step to a tenth of the "
        "way to a limit brings the sides at least twice as near, until rounding.\n\n"
        f"{table(['', 'this', '', 'that', 'losses'], rows)}\n"
    )


def pictures() -> dict[str, bytes]:
    """The files of the poster by their path in the site."""
    sheets = {dark: poster(dark=dark) for dark in (False, True)}
    return {
        f"images/poster-{name}": sheets[dark].written(name.rpartition(".")[2], outlines=False, title=TITLE)
        for name, dark in FILES.items()
    }
