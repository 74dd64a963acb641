"""The losses of torch and losskit with an eye on them: functions and methods replaced, until they are taken back.

1. torch.nn's losses call torch.nn.functional, so its functions are enough. losskit's losses have a `forward` each.
2. Names that modules bound when they were imported are found by the identity of the function, as `losskit.accelerate`
   does.
3. Under torch.compile a replaced function is the function: a counter would compile again with every call.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F

from losskit import functional, layers
from losskit.loss import registered

Function = Callable[..., Any]
_TORCHS = ("torch", "losskit")  # modules whose names stay as they are


def _losses_of_torch() -> list[str]:
    """Names of functions that torch shares with losskit."""
    return sorted(name for name in registered if isinstance(getattr(F, name, None), FunctionType)) + [
        name for name in ("triplet_margin_with_distance_loss",) if name not in registered
    ]


class Replaced:
    """Functions that were replaced, and what stood there."""

    def __init__(self) -> None:
        self._bound: list[tuple[Any, str, Any, Any]] = []

    def replace(self, run: Callable[[str, Function, Any, Any, bool], Any]) -> None:
        """Have `run` call every loss: with its name, the function, its arguments, and whether it is torch's."""
        of_names: dict[int, Function] = {}
        for owner, name, label in _places():
            theirs = vars(owner)[name]
            ours = _watched(label, theirs, run, owner is F)
            self._bound.append((owner, name, theirs, ours))
            setattr(owner, name, ours)
            if not isinstance(owner, type):
                of_names[id(theirs)] = ours
        for module in list(sys.modules.values()):
            own = str(getattr(module, "__name__", "torch"))
            if own.partition(".")[0] in _TORCHS and not own.startswith("torch.distributions"):
                continue
            for name, value in list(getattr(module, "__dict__", {}).items()):
                found = of_names.get(id(value)) if isinstance(value, FunctionType) else None
                if found is not None:
                    self._bound.append((module, name, value, found))
                    setattr(module, name, found)

    def undo(self) -> None:
        """Put back what stood there; what somebody else has replaced since stays."""
        for owner, name, before, now in reversed(self._bound):
            if vars(owner).get(name) is now:
                setattr(owner, name, before)
        self._bound.clear()


def _places() -> Iterator[tuple[Any, str, str]]:
    """Owners and names of functions, and what the loss is called."""
    for name in _losses_of_torch():
        yield F, name, name
    for name, x in list(vars(functional).items()):
        if isinstance(x, FunctionType) and (name in registered or name == "linear_cross_entropy"):
            yield functional, name, name
    for name, cls in registered.items():
        if "forward" in vars(cls):
            yield cls, "forward", name
    yield layers.LinearLoss, "forward", "linear"
    yield layers.LinearCrossEntropyLoss, "forward", "linear_cross_entropy"


def _watched(name: str, theirs: Function, run: Callable[..., Any], of_torch: bool) -> Function:
    compiling, wanted = torch.compiler.is_compiling, torch.is_grad_enabled

    def watched(*args: Any, **kwargs: Any) -> Any:
        if compiling() or not wanted():
            return theirs(*args, **kwargs)
        return run(name, theirs, args, kwargs, of_torch)

    # With the globals of the function: torch.jit.script compiles its source, and looks for names there.
    own = FunctionType(watched.__code__, theirs.__globals__, theirs.__name__, None, watched.__closure__)
    return functools.wraps(theirs)(own)
