"""A loss and its example by name, for the command: "my_module:MyLoss", "file.py:my_loss", or operands as code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch

from losskit.errors import error


def loss_of(text: str) -> Any:
    """The object of a module or a file, found from the present folder."""
    place, _, name = text.rpartition(":")
    module = _module(place, text)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = ", ".join(x for x in vars(module) if not x.startswith("_") and callable(getattr(module, x)))
            raise error("parameter", loss="audit", argument="loss", expected=f"a name in {place}", got=repr(name),
                        hint=f" There are {known or 'none'}.")  # fmt: skip
        found = getattr(found, part)
    return found


def example_of(text: str) -> list[Any]:
    """The operands of an example: code with torch in it, or the name of a tuple or of a function that returns one."""
    if not text:
        return []
    place = text.partition(":")[0]
    if ":" in text and "(" not in place and "[" not in place:
        found = loss_of(text)
        found = found() if callable(found) else found
    else:
        torch.manual_seed(0)
        try:
            found = eval(text, {"torch": torch})  # the user's own line, as a script's would be
        except Exception as problem:  # whatever the user's line raises
            raise error("parameter", loss="audit", argument="example", expected="code of operands",
                        got=f"{text!r}, which raises {type(problem).__name__}: {problem}") from None  # fmt: skip
    return list(found) if isinstance(found, tuple | list) else [found]


def _module(place: str, text: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        if not place.endswith(".py"):
            return importlib.import_module(place)
        path = Path(place).resolve()
        if not path.exists():
            raise error("parameter", loss="audit", argument="loss", expected="a file", got=place,
                        hint=" There is no such file.")  # fmt: skip
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise ImportError(place)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # where pickle looks for its classes
        spec.loader.exec_module(module)
        return module
    except ValueError:
        raise
    except Exception as problem:  # whatever an import raises
        raise error("parameter", loss="audit", argument="loss", expected="module:name or file.py:name", got=repr(text),
                    hint=f" {place} cannot be imported: {type(problem).__name__}: {problem}") from None  # fmt: skip
