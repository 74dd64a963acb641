"""`python -m losskit accelerate train.py ...`: a script, unedited, and the processes that it starts.

Processes that are started find a `sitecustomize` of losskit's first on their path. It waits until they import torch.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from losskit.acceleration import Acceleration, accelerate

VARIABLE = "LOSSKIT_ACCELERATE"
_SITE = str(Path(__file__).parent / "site")
_USAGE = """\
usage: python -m losskit accelerate [--only FUNCTION,...] [--raise] [--shadow CALLS] [--misses] [--quiet]
                                   (SCRIPT | -m MODULE) ...

Runs a script or module, with the arguments that follow it, with losskit in the place of torch's losses; also in the
processes that it starts. At its end it prints, to the standard error, who computed the losses of each line.

  --only FUNCTION,...  replace these functions of torch.nn.functional alone
  --raise              what losskit refuses is an error, and not left to torch
  --shadow CALLS       compare both libraries in the first calls of each line
  --misses             list the losses that losskit does not reach; every call of torch takes longer
  --quiet              print nothing at the end
"""


def main(arguments: Sequence[str]) -> None:
    """The command after the word `accelerate`."""
    given, settings = list(arguments), dict[str, object]()
    shadow, misses, quiet, module = 0, False, False, None
    while given and given[0].startswith("-"):
        word = given.pop(0)
        if word in ("-h", "--help"):
            sys.stdout.write(_USAGE)
            return
        if word == "--raise":
            settings["refused"] = "raise"
        elif word == "--misses":
            misses = True
        elif word == "--quiet":
            quiet = True
        elif word in ("--only", "--shadow", "-m") and given:
            value = given.pop(0)
            if word == "-m":
                module = value
                break
            if word == "--only":
                settings["only"] = value.split(",")
            elif value.isdecimal():
                shadow = int(value)
            else:
                _refuse(f"--shadow takes a number of calls, got {value!r}")
        else:
            known = word in ("--only", "--shadow", "-m")
            _refuse(f"{word} needs a value" if known else f"there is no option {word}")
    if module is None and not given:
        _refuse("name a script, or -m and a module")
    if module is None and not Path(given[0]).is_file():
        _refuse(f"there is no script {given[0]}")
    try:
        report = accelerate(**settings).shadow(shadow)  # type: ignore[arg-type]
    except ValueError as problem:
        _refuse(str(problem).removeprefix("accelerate: ").removesuffix("."))
    os.environ[VARIABLE] = json.dumps(settings)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_SITE, os.environ.get("PYTHONPATH", "")]))
    try:
        with report.misses() if misses else nullcontext():
            _run(module, given)
    finally:
        if not quiet:
            sys.stderr.write(f"{report}\n")


def _run(module: str | None, given: list[str]) -> None:
    if module is not None:
        sys.argv = [module, *given]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = given
        sys.path[0] = str(Path(given[0]).resolve().parent)
        runpy.run_path(given[0], run_name="__main__")


def start() -> Acceleration:
    """In a process that an accelerated script has started, once torch is there."""
    return accelerate(**json.loads(os.environ[VARIABLE]))


def _refuse(problem: str) -> NoReturn:
    sys.stderr.write(f"losskit accelerate: {problem}. See python -m losskit accelerate --help\n")
    raise SystemExit(2)
