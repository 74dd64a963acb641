"""The losses of torch and losskit with an eye on them.

1. torch.nn's losses call torch.nn.functional, so its functions are enough. losskit's losses have a `forward` each.
2. Under torch.compile a watched function is the function: a counter would compile again with every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
import torch.nn.functional as F

from losskit import functional, layers
from losskit.acceleration.replaced import Function, Replaced, in_place_of
from losskit.loss import registered


def watch_all(replaced: Replaced, run: Callable[[str, Function, Any, Any, bool], Any]) -> None:
    """Have `run` call every loss: with its name, the function, its arguments, and whether it is torch's."""
    of_names: dict[int, Function] = {}
    for owner, name, label in _places():
        theirs = vars(owner)[name]
        ours = _watched(label, theirs, run, owner is F)
        replaced.replace(owner, name, ours)
        if not isinstance(owner, type):
            of_names[id(theirs)] = ours
    replaced.rebind(of_names)


def _losses_of_torch() -> list[str]:
    """Names of functions that torch shares with losskit."""
    return sorted(name for name in registered if isinstance(getattr(F, name, None), FunctionType)) + [
        name for name in ("triplet_margin_with_distance_loss",) if name not in registered
    ]


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

    own: Function = in_place_of(theirs, watched)
    return own
