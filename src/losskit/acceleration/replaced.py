"""Functions of torch and losskit with others in their places, until they are taken back."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from types import FunctionType, ModuleType
from typing import Any

Function = Callable[..., Any]
_TORCHS = ("torch", "losskit")  # modules whose names stay; torch.distributions calls losses like other programs


def in_place_of(theirs: Function, run: Any) -> Any:
    """A function with the name and signature of another, which is called in its place."""
    # With the globals of the other: torch.jit.script compiles its source, and looks for names there.
    own = FunctionType(run.__code__, theirs.__globals__, theirs.__name__, None, run.__closure__)
    return functools.wraps(theirs)(own)


class Replaced:
    """What stands in the place of what."""

    def __init__(self) -> None:
        self._bound: list[tuple[Any, str, Any, Any]] = []  # owner, name, what stood there, what stands there

    def replace(self, owner: Any, name: str, ours: Any) -> None:
        """Put something under a name of a module or class."""
        self._bound.append((owner, name, vars(owner)[name], ours))
        setattr(owner, name, ours)

    def rebind(self, ours: Mapping[int, Function]) -> None:
        """Replace functions, given by their identity, wherever a loaded module has bound them, under any name."""
        for module in list(sys.modules.values()):
            self._rebind(module, ours)

    def _rebind(self, module: ModuleType, ours: Mapping[int, Function]) -> None:
        own = str(getattr(module, "__name__", "torch"))
        if own.partition(".")[0] in _TORCHS and not own.startswith("torch.distributions"):
            return
        for name, value in list(getattr(module, "__dict__", {}).items()):
            found = ours.get(id(value)) if isinstance(value, FunctionType) else None
            if found is not None:
                self.replace(module, name, found)

    def undo(self) -> list[str]:
        """Put back what stood there. What somebody else has replaced since stays: the names of that."""
        left = []
        for owner, name, before, now in reversed(self._bound):
            if vars(owner).get(name) is now:
                setattr(owner, name, before)
            else:
                left.append(f"{getattr(owner, '__name__', owner)}.{name}")
        self._bound.clear()
        return left
