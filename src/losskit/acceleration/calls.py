"""One call of a function of torch that losskit has replaced: losskit computes it, or leaves it to torch.

1. torch computes what it must see itself: inside torch.jit.trace, under a TorchFunctionMode, and for tensors that
   define what functions do with them (DTensors, an fx Proxy, a host's own subclass).
2. What losskit refuses it refuses before it has computed anything. With refused="torch" torch's function then computes,
   or raises, exactly as before.
3. Under torch.compile nothing is counted: a counter is a number that changes, and each new one would compile again.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack, handle_torch_function, has_torch_function
from torch.utils._device import DeviceContext

from losskit.acceleration.misses import Misses
from losskit.acceleration.replaced import Function, in_place_of
from losskit.acceleration.sites import Site, Sites
from losskit.errors import LossError
from losskit.kernels.choice import PLAIN
from losskit.kernels.dispatch import eagerly
from losskit.kernels.torch_internals import function_modes, tracing_state, untraced


class Calls:
    """How replaced functions are called, and who computed."""

    def __init__(self, refused: str) -> None:
        self.refused, self.sites = refused, Sites()
        self.shadowed = 0  # calls of each site that both libraries compute

    def replaced(self, name: str, theirs: Function, ours: Function) -> Function:
        """The function in the place of torch's, with its name and signature."""
        run, compiling, refusal = self.run, torch.compiler.is_compiling, () if self.refused == "raise" else LossError

        def replacement(*args: Any, **kwargs: Any) -> Any:
            if not compiling():
                return run(name, theirs, ours, args, kwargs)
            try:
                return ours(*args, **kwargs)
            except refusal:
                return theirs(*args, **kwargs)

        own = in_place_of(theirs, replacement)
        own.losskit_accelerates = True
        return own

    @untraced
    def run(self, name: str, theirs: Function, ours: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The loss, by losskit where it can, else by torch."""
        site, reason = self.sites.of_caller(name), _left_to_torch(args, kwargs)
        if reason is None:
            if site.compared < self.shadowed:
                self._compare(site, theirs, ours, args, kwargs)
            eagerly.reason = None
            try:
                result = ours(*args, **kwargs)
            except LossError as problem:
                if self.refused == "raise":
                    raise
                reason = str(problem)
            else:
                self._count(site.eager, eagerly.reason, site)
                return result
        self._count(site.torch, reason, site)
        every = (*args, *kwargs.values())
        if has_torch_function(every):  # torch's function would name itself, and find the replacement under its name
            return handle_torch_function(theirs, every, *args, **kwargs)
        return theirs(*args, **kwargs)  # not in `except`: torch's own error is the only one

    @untraced
    def _count(self, by: Counter[str], reason: str | None, site: Site) -> None:
        with self.sites.lock:
            site.calls += 1
            if reason is not None:
                by[reason] += 1

    @untraced
    def _compare(self, site: Site, theirs: Function, ours: Function, args: Any, kwargs: Any) -> None:
        """Both libraries on copies; what one of them refuses is not compared."""
        try:
            value, gradients = _of_copies(theirs, args, kwargs)
            own, own_gradients = _of_copies(ours, args, kwargs)
        except (RuntimeError, ValueError, TypeError, NotImplementedError, IndexError):
            return
        with self.sites.lock:
            site.compared += 1
            site.value = max(site.value, _apart(own, value))
            site.gradient = max([site.gradient, *map(_apart, own_gradients, gradients)])


@untraced
def _left_to_torch(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Why torch's function must be called; None if losskit's can be."""
    if tracing_state() is not None:
        return "torch.jit.trace records torch's operators"
    for x in (*args, *kwargs.values()):
        kind = type(x)
        if kind in _ORDINARY:
            continue
        defines = getattr(kind, "__torch_function__", None)
        if (defines is not None or isinstance(x, Tensor)) and getattr(defines, "__module__", "") not in _KEEP_TYPES:
            return f"{kind.__name__} defines what functions do with it"
    if function_modes() and any(type(mode) not in _UNSEEN for mode in _get_current_function_mode_stack()):
        return "a TorchFunctionMode is active"
    return None


_KEEP_TYPES = {"fastai.torch_core"}  # whose tensors do with functions nothing but give results their type
_UNSEEN = {DeviceContext, Misses}  # modes that losskit's functions do not get in the way of
_ORDINARY = PLAIN | {type(None), bool, int, float, str}


def _of_copies(function: Function, args: Any, kwargs: Any) -> tuple[Tensor, list[Tensor]]:
    """The loss of copies, and the gradient of its sum by each that wants one."""
    copies = [_copy(x) for x in args]
    named = {name: _copy(x) for name, x in kwargs.items()}
    with torch.enable_grad():
        loss = function(*copies, **named)
    wanted = [x for x in (*copies, *named.values()) if isinstance(x, Tensor) and x.requires_grad]
    found = torch.autograd.grad(loss.sum(), wanted, allow_unused=True, materialize_grads=True) if wanted else []
    return loss.detach(), list(found)


def _copy(x: Any) -> Any:
    return x.detach().clone().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to torch's largest number."""
    ours, theirs = ours.double(), theirs.double()
    if ours.shape != theirs.shape:
        return float("inf")
    same = (ours == theirs) | (ours.isnan() & theirs.isnan())
    if bool(same.all()):
        return 0.0
    known = theirs[theirs.isfinite()].abs()
    largest = float(known.max()) if known.numel() else 1.0
    return float(torch.where(same, 0.0, (ours - theirs).abs()).max()) / max(largest, 1e-300)
