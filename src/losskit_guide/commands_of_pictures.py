"""The commands that draw: a loss on a slide, all losses on a poster. Both import matplotlib when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from losskit_guide.terminal import names, refuse, wrote

Dark = Annotated[bool, typer.Option("--dark", help="Light letters on dark paper.")]


def card(
    name: Annotated[
        str, typer.Argument(help='A loss, also with settings: "huber_loss:delta=2".', autocompletion=names)
    ],
    out: Annotated[Path, typer.Option(help="The picture's file: .svg, .pdf or .png.")],
    dark: Dark = False,
) -> None:
    """One loss on one slide: formula, curves of value and gradient, facts, what it is for, who published it."""
    try:
        from losskit_guide.lines import line
        from losskit_guide.paper import kind_of
        from losskit_guide.slide import slide

        kind = kind_of(out)
        one = line(name)
        _write(out, slide(one, dark=dark).written(kind, title=one.card.class_name))
    except (LookupError, ValueError, ModuleNotFoundError) as problem:
        refuse(problem.args[0])


def poster(
    out: Annotated[Path, typer.Option(help="The picture's file: .svg, .pdf or .png.")],
    dark: Dark = False,
) -> None:
    """All losses on one sheet of the size A1, by task: curves, facts, authors, and which losses are one another."""
    try:
        from losskit_guide.paper import kind_of
        from losskit_guide.poster import TITLE
        from losskit_guide.poster import poster as drawn

        kind = kind_of(out)
        _write(out, drawn(dark=dark).written(kind, outlines=False, title=TITLE))
    except (ValueError, ModuleNotFoundError) as problem:
        refuse(problem.args[0])


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as problem:
        refuse(f"{path} cannot be written: {problem.strerror or problem}")
    wrote(path)
