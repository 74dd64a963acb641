"""How commands speak: to the console, as JSON, and in one sentence where something is wrong."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from losskit_guide.card import catalogue, heads, plain

AS_IT_IS: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}
Json = Annotated[bool, typer.Option("--json", help="Print data instead of a table.")]
console = Console()


def names(incomplete: str) -> list[str]:
    """The losses whose names begin so, for the shell's completion."""
    return [name for name in catalogue() | heads() if name.startswith(incomplete)]


def refuse(problem: object) -> NoReturn:
    """One sentence on stderr, exit code 2."""
    Console(stderr=True).print(str(problem), style="red", **AS_IT_IS)
    raise typer.Exit(2)


def wrote(path: object) -> None:
    """What a command tells on stderr when it has written a file."""
    Console(stderr=True).print(f"wrote {path}", style="dim", highlight=False, soft_wrap=True, markup=False)


def emit(data: Any) -> None:
    """Data as JSON on stdout."""
    print(json.dumps(plain(data), indent=2, allow_nan=False, ensure_ascii=False))
