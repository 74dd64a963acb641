"""One call of a loss that is looked at: its tensors by name, its settings, and what its numbers are.

What a loss is called with is read from its declaration; torch's functions have the declaration of the same name. Of a
criterion that nobody knows the first tensor of floating numbers is the prediction, and the next tensor the target.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losskit.acceleration.replaced import Function
from losskit.domains import Interval, Signs
from losskit.kernels.torch_internals import hidden
from losskit.loss import Loss, registered

ROWS = 4096  # rows of a batch that are looked at; further ones are left out evenly
NUMBERS = 1 << 18  # numbers of a tensor


@dataclass
class Call:
    """A call of a loss.

    name: the function. operands: its tensors by name, without their graphs, the predictions first. settings: its other
    arguments. declared: what losskit declares under its name. live: the predictions with their graph. target_name: the
    name of the target. role: what the numbers are: "classes" (scores and indices), "shares" (scores and probabilities
    of classes), "labels" (of yes or no), "signs", "numbers", "head" (features and indices) or "other".
    """

    name: str
    operands: dict[str, Tensor]
    settings: dict[str, Any]
    declared: type[Loss] | None
    result: Any
    live: Tensor | None
    function: Function
    of_torch: bool
    target_name: str = "target"
    role: str = "other"

    @property
    def input(self) -> Tensor:
        return next(iter(self.operands.values()))

    @property
    def input_name(self) -> str:
        return next(iter(self.operands))

    @property
    def target(self) -> Tensor | None:
        return self.operands.get(self.target_name)

    @property
    def reduction(self) -> Any:
        return self.settings.get("reduction", "mean")

    @property
    def classes(self) -> int:
        """The number of classes, of class scores and heads."""
        of_rows = self.operands["linear_weight"].shape[0] if self.role == "head" else 0
        return of_rows or self.input.shape[min(1, self.input.ndim - 1)]

    def given(self, *names: str) -> bool:
        """Whether one of these arguments says something."""
        found = [self.operands.get(n, self.settings.get(n)) for n in names]
        return any(x is not None and x is not False and not (isinstance(x, int | float) and x == 0) for x in found)

    def again(self, /, **changed: Any) -> Any:
        """The loss with some arguments changed; torch's random numbers stay where they are."""
        with torch.random.fork_rng(devices=[]):
            return self.function(**(self.operands | self.settings | changed))

    def rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of class scores: rows of scores, their targets, and which rows count; of a large batch some rows, evenly."""
        x, t = _last(self.input), self.operands[self.target_name]
        t = t.reshape(-1) if self.role == "classes" else _last(t)
        step = max(1, -(-len(x) // max(1, min(ROWS, NUMBERS // max(1, x.shape[1])))))
        return x[::step], t[::step], self.counts()[::step]

    def counts(self) -> Tensor:
        """Which of all rows count, of a call whose target is class indices or probabilities."""
        t = self.operands[self.target_name]
        if self.role == "shares":
            counts = torch.ones(_last(t).shape[0], dtype=torch.bool, device=t.device)
        else:
            t, ignored = t.reshape(-1), self.settings.get("ignore_index")
            counts = (t >= 0) & (t < self.classes)
            if isinstance(ignored, int):
                counts = counts & (t != ignored)
        mask = self.operands.get("mask")
        return counts & mask.reshape(-1) if mask is not None and mask.numel() == counts.numel() else counts

    def elements(self) -> tuple[Tensor, Tensor] | None:
        """Predictions and targets of elements that count, flat; of large tensors some, evenly. None: other shapes."""
        x, t, mask = self.input, self.target, self.operands.get("mask")
        if t is None or x.numel() != t.numel() or (x.ndim and t.ndim and len(x) != len(t)):
            return None
        if mask is not None:
            if mask.shape != x.shape:
                return None
            return x[mask], t.reshape(x.shape)[mask]
        step = max(1, -(-x.numel() // NUMBERS))
        return x.reshape(-1)[::step], t.reshape(-1)[::step]


def _last(x: Tensor) -> Tensor:
    """Rows of classes, which are in dimension 1."""
    return x.movedim(1, -1).flatten(0, -2) if x.ndim > 1 else x[None]


def read(
    name: str, function: Function, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, of_torch: bool
) -> Call | None:
    """The call, or None where there is nothing to look at."""
    given = dict(_signature(function).bind(*args, **kwargs).arguments)
    own = given.pop("self", None)
    others = given.pop("operands", ())  # of a head
    given |= {"target" if not i else f"operand_{i}": x for i, x in enumerate(others)}
    tensors = {n: x for n, x in given.items() if isinstance(x, Tensor)}
    settings = {n: x for n, x in given.items() if not isinstance(x, Tensor) and x is not None}
    run, declared = function, registered.get(name)
    if isinstance(own, Loss):
        declared = type(own).declared
        settings |= {n: getattr(own, n) for n in type(own).arguments.split() if hasattr(own, n)}
        run = getattr(declared, "functional", function)
    elif own is not None:
        run = functools.partial(function, own)
    first = next((n for n, x in tensors.items() if x.is_floating_point()), None)
    if first is None:
        return None
    live = tensors[first]
    detached = {n: tensors[n].detach() for n in [first, *(n for n in tensors if n != first)]}
    if any(hidden(x) or x.layout != torch.strided for x in detached.values()):
        return None
    call = Call(name, detached, settings, declared, result, live if live.requires_grad else None, run, of_torch)
    if declared is None and "target" not in tensors:
        call.target_name = next((n for n in detached if n != first), "")
    call.role = _role(call)
    return call


@functools.lru_cache(1024)
def _signature(function: Function) -> inspect.Signature:
    return inspect.signature(function)


def _role(call: Call) -> str:
    x, t, cls = call.input, call.target, call.declared
    if t is None or (cls is not None and "input" not in call.operands):
        return "other"
    rows = (*x.shape[:1], *x.shape[2:]) if x.ndim > 1 else ()
    indices = not t.is_floating_point() and t.dtype != torch.bool
    if "linear_weight" in call.operands:
        return "head" if indices and t.shape == x.shape[:1] else "other"
    if cls is None:
        if indices and x.ndim > 1 and t.shape == rows:
            return "classes"
        return "numbers" if t.is_floating_point() else "other"
    domain = domain_of(call, "target")
    if isinstance(domain, Signs):
        return "signs"
    if isinstance(domain, Interval) and (domain.low, domain.high) == (0.0, 1.0):
        return "labels"
    if "ignore_index" in cls.arguments.split() or cls.task == "multi-class":
        if indices and t.shape == rows and x.ndim:
            return "classes"
        if t.shape == x.shape:
            return "labels" if cls.task == "segmentation" else "shares"
        return "other"
    return "numbers" if cls.task in ("regression", "likelihood") else "other"


def domain_of(call: Call, name: str) -> Interval | Signs | None:
    """The declared domain of an operand, as the call's switches have it; None: none, or one of its components."""
    operand = getattr(call.declared, "operands", {}).get(name)
    if operand is None or operand.components or (operand.unless and _switch(call, operand.unless)):
        return None
    domain: Interval | Signs = operand.domain
    return None if domain.everything else domain


def _switch(call: Call, name: str) -> bool:
    if name in call.settings:
        return bool(call.settings[name])
    declared = call.declared.params.get(name) if call.declared is not None else None
    return bool(declared.default) if declared is not None and not declared.required else False
