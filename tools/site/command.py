"""The page of the command `losskit`: its subcommands and options as the program declares them, and an example of each.

What an example prints is what it prints while the page is made. A subcommand without an example is an error.
"""

from __future__ import annotations

import enum
import inspect
import os
import re
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo
from typer.testing import CliRunner

from losskit_guide.cli import app

INTRODUCTION = """# The command

`pip install ".[cli]"` in a clone adds the command `losskit`. It prints what the declarations know, and what runs on
this machine. Every subcommand has `--help`. Results go to stdout; a mistake is one sentence on stderr, and the exit
code is 2. `losskit --install-completion` teaches your shell the subcommands, options and names of losses."""

EXAMPLES = {
    "list": "losskit list --task regression --robust",
    "show": "losskit show huber_loss",
    "compare": "losskit compare binary_cross_entropy mse_loss --over logit --given target=0 --at 0,1.09864,10",
    "why": "losskit why huber_loss --dtype bfloat16",
    "doctor": "losskit doctor",
    "bench": "losskit bench huber_loss --shape 1024,1000",
    "advise": "losskit advise data.csv --target y",
    "audit": 'losskit audit my_module:MyLoss --example "torch.randn(8, 5), torch.randint(5, (8,))" --html audit.html',
    "autopsy": "losskit autopsy preds.csv --target y --prediction p --loss huber_loss --other mse_loss",
    "microscope": "losskit microscope cross_entropy --dtype f32",
    "accelerate": "losskit accelerate train.py --lr 3",
    "card": "losskit card huber_loss:delta=2 --out huber.svg",
    "poster": "losskit poster --out losses.pdf",
    "explore": "losskit explore --out losses.html",
}
UNPRINTED = {  # what these print is true of one machine only, or needs the explorer, which npm builds
    "doctor": "Prints versions, instruction set, compiler, GPU and the folder of compiled kernels, one a line.",
    "bench": "Prints the median time of both, and their ratio, on this machine.",
    "advise": "Prints what the column looks like, the losses that fit it, and what numbers cannot say.",
    "audit": "Prints the faults and the warnings with the calls that show them, notes, the map of where it breaks, and "
    "what passed.",
    "autopsy": "Prints the rows that pull hardest, and the same rows under the other loss.",
    "accelerate": "Runs the script, and prints who computed the losses of each line. Options stand before the script: "
    "`--only` and functions, `--shadow` and a number of calls, `--misses`, `--raise`, `--quiet`, `-m` and a module, "
    "`--help`.",
    "card": "Writes the picture, 16 to 9: SVG or PNG for slides, PDF for LaTeX. The letters of an SVG are curves, so "
    "that it looks alike everywhere.",
    "poster": "Writes [the poster](poster.md), of the size A1.",
    "explore": "Writes the page to that file, and prints where it is. Without `--out` the browser opens it.",
}
KINDS = {str: "text", int: "integer", float: "number", Path: "file"}


def commands() -> dict[str, Callable[..., None]]:
    """The subcommands by name, in the order of the program."""
    found = {}
    for entry in app.registered_commands:
        assert entry.callback is not None
        if not entry.hidden:
            found[entry.name or entry.callback.__name__.replace("_", "-")] = entry.callback
    return found


def options(function: Callable[..., None]) -> list[list[str]]:
    """Rows of a table: an argument or option, what it takes, its default, its help."""
    rows = []
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints[name]
        if get_origin(hint) is not Annotated:
            continue
        kind, declared = get_args(hint)
        if getattr(declared, "hidden", False):
            continue
        first = declared.default if isinstance(declared.default, str) else ""  # where Typer keeps the first word
        words = list(filter(None, [first, *(declared.param_decls or ())])) or [f"--{name.replace('_', '-')}"]
        shown = f"`{name.upper()}`" if isinstance(declared, ArgumentInfo) else " ".join(f"`{word}`" for word in words)
        default = parameter.default.value if isinstance(parameter.default, enum.Enum) else parameter.default
        told = "" if default in (None, "", False, inspect.Parameter.empty) else f"`{default}`"
        rows.append([shown, takes(kind), told, declared.help or ""])
    return rows


def takes(kind: Any) -> str:
    """What an option takes, in a word or two."""
    inner = [k for k in get_args(kind) if k is not type(None)]
    if get_origin(kind) is list:
        return f"{KINDS.get(inner[0], 'text')}, several"
    if inner:
        return takes(inner[0])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(f"`{choice.value}`" for choice in kind)
    return "" if kind is bool else KINDS.get(kind, "text")


def run(line: str) -> str:
    """What a command prints, 92 columns wide, in a folder of its own."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            result = CliRunner().invoke(app, shlex.split(line)[1:], env={"COLUMNS": "92", "NO_COLOR": "1"})
        finally:
            os.chdir(before)
    if result.exit_code != 0:
        raise RuntimeError(f"`{line}` ends with {result.exit_code}: {result.output}")
    return "\n".join(line.rstrip() for line in result.stdout.splitlines()).strip("\n")


def page(table: Callable[[list[str], list[list[str]]], str]) -> str:
    """The page of the command."""
    left_out = commands().keys() ^ EXAMPLES.keys()
    if left_out:
        raise LookupError(
            f"tools/site/command.py has examples of other subcommands than the program: {sorted(left_out)}"
        )
    parts = [INTRODUCTION]
    if app.registered_callback is not None and app.registered_callback.callback is not None:
        rows = options(app.registered_callback.callback)
        parts += ["## losskit", table(["option", "takes", "default", "what it does"], rows)] if rows else []
    for name, function in commands().items():
        told = (inspect.getdoc(function) or "").split("\n")[0]
        parts += [f"## losskit {name}", re.sub(r"(?<=\.) [^.]*:$", "", told)]  # without what announces an example
        parts.append(table(["argument", "takes", "default", "what it does"], options(function)))
        parts.append(f"```sh\n{EXAMPLES[name]}\n```")
        parts.append(UNPRINTED[name] if name in UNPRINTED else f"```{{.text .drawn}}\n{run(EXAMPLES[name])}\n```")
    return "\n\n".join(parts) + "\n"
