"""The loss under audit: how it is called, what its operands are, and what is known of them.

The loss is never harmed: it is called with copies, a module that keeps a state is copied for each call, and random
numbers are the same in every call.
"""

from __future__ import annotations

import copy
import inspect
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from losskit.audit.operands import Kind, batch_axes, kind_of
from losskit.facts import Facts
from losskit.loss import Loss, registered

MANY = 200_000  # numbers: the largest operand that a check makes


@dataclass
class Result:
    """A value, detached, and the gradient of its sum by each prediction; None where autograd has none."""

    value: Tensor
    gradients: list[Tensor | None]

    def flat(self) -> Tensor:
        """All gradients as one row; zeros where there is none."""
        return torch.cat([g.reshape(-1) for g in self.gradients if g is not None] or [torch.zeros(0)])


@dataclass
class Subject:
    """A loss and an example of its operands.

    keys: for each operand, its keyword, or "" for one given by position. predictions: positions of what is
    differentiated. kinds: what each operand's numbers are. axes: the dimension of rows of each operand, None for one
    that all rows share; rows: how many there are, 0 for a loss without a dimension of rows.
    """

    loss: Any
    name: str
    text: str  # how a line of code makes it
    operands: list[Any]
    keys: list[str]
    names: list[str]
    predictions: list[int]
    kinds: list[Kind]
    declared: type[Loss] | None = None
    stateful: bool = False
    taken: str = ""  # how the example was found, where the user gave none

    @cached_property
    def axes(self) -> list[int | None]:
        return batch_axes(self.operands, self.predictions[0], self.kinds)

    @property
    def rows(self) -> int:
        first = self.predictions[0]
        axis = self.axes[first]
        return 0 if axis is None else int(self.operands[first].shape[axis])

    @property
    def first(self) -> Tensor:
        """The first prediction."""
        x: Tensor = self.operands[self.predictions[0]]
        return x

    @cached_property
    def facts(self) -> Facts | None:
        """What is declared."""
        found = getattr(self.declared or self.loss, "facts", None)
        return found if isinstance(found, Facts) else None

    @cached_property
    def dtype(self) -> torch.dtype:
        """What derivatives are computed in: float64, where the loss can."""
        try:
            value = self.run(self.cast(self.operands, torch.float64)).value
            return torch.float64 if value.dtype == torch.float64 else torch.float32
        except Exception:  # whatever a loss raises
            return torch.float32

    # -- Calls --------------------------------------------------------------------------------------------

    def cast(self, operands: Sequence[Any], dtype: torch.dtype) -> list[Any]:
        """The floating-point operands in another dtype."""
        return [x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x for x in operands]

    def given(self, operands: Sequence[Any]) -> Subject:
        """The same loss with other operands."""
        other = replace(self, operands=list(operands))
        other.__dict__["dtype"] = self.dtype
        return other

    def example(self) -> list[Any]:
        """The example in the dtype of derivatives."""
        return self.cast(self.operands, self.dtype)

    def instance(self, dtype: torch.dtype | None) -> Any:
        """The loss to call: a copy where a call would change it, or where its tensors have another dtype."""
        if not isinstance(self.loss, nn.Module):
            return self.loss
        own = [x for x in (*self.loss.parameters(), *self.loss.buffers()) if x.is_floating_point()]
        convert = dtype is not None and any(x.dtype != dtype for x in own)
        if not (convert or self.stateful):
            return self.loss
        made = copied(self.loss)
        return made.to(dtype) if convert else made

    def call(self, loss: Any, operands: Sequence[Any]) -> Tensor:
        """The bare call."""
        by_place = [x for x, key in zip(operands, self.keys, strict=True) if not key]
        by_name = {key: x for x, key in zip(operands, self.keys, strict=True) if key}
        result = loss(*by_place, **by_name)
        if isinstance(result, tuple):
            result = getattr(result, "loss", result[0])
        if not isinstance(result, Tensor):
            raise NoTensorError(f"the result must be a tensor, got {type(result).__name__}")
        return result

    def prepared(self, operands: Sequence[Any]) -> list[Any]:
        """Copies of operands with their layout, the predictions as leaves that want a gradient."""
        made = [
            x.detach().clone(memory_format=torch.preserve_format) if isinstance(x, Tensor) else copy.copy(x)
            for x in operands
        ]
        for place in self.predictions:
            made[place].requires_grad_()
        return made

    def value(self, operands: Sequence[Any], loss: Any = None) -> Tensor:
        """The value, without a graph."""
        made = [x.detach().clone() if isinstance(x, Tensor) else copy.copy(x) for x in operands]
        seed()
        with torch.no_grad():
            return self.call(self.instance(_dtype(made)) if loss is None else loss, made).detach()

    def run(self, operands: Sequence[Any], *, weights: Tensor | None = None, loss: Any = None) -> Result:
        """The value and the gradients of its sum, or of its sum with weights."""
        made = self.prepared(operands)
        seed()
        with torch.enable_grad():
            value = self.call(self.instance(_dtype(made)) if loss is None else loss, made)
            if not value.requires_grad:
                return Result(value.detach(), [None for _ in self.predictions])
            whole = value.sum() if weights is None else (value * weights.to(value.dtype)).sum()
            gradients = torch.autograd.grad(whole, [made[i] for i in self.predictions], allow_unused=True)
        return Result(value.detach(), [None if g is None else g.detach() for g in gradients])

    # -- Rows ---------------------------------------------------------------------------------------------

    def take(self, operands: Sequence[Any], rows: Any) -> list[Any]:
        """Some of the rows, by their numbers."""
        found = []
        for x, axis in zip(operands, self.axes, strict=True):
            if axis is not None:
                x = x.index_select(axis, torch.as_tensor(rows, dtype=torch.long, device=x.device))
            found.append(x)
        return found

    # -- Reductions ---------------------------------------------------------------------------------------

    @cached_property
    def reduction(self) -> str:
        """The reduction that it is called with; "" for a loss that has none."""
        if isinstance(self.loss, nn.Module):
            found = vars(self.loss).get("reduction", "")
            return found if isinstance(found, str) else ""
        default = _parameters(self.loss).get("reduction")
        return default.default if default is not None and isinstance(default.default, str) else ""

    def reduced(self, reduction: str) -> Subject:
        """The same loss with another reduction."""
        other: Any
        if isinstance(self.loss, nn.Module):
            other = copied(self.loss)
            other.reduction = reduction
            made = self.text.replace(f"reduction='{self.reduction}'", "").replace("(, ", "(").replace("()", "(")
            text = f"{made.rstrip(')').rstrip(', ')}{'' if made.endswith('(') else ', '}reduction={reduction!r})"
        else:
            other = _Fixed(self.loss, reduction)
            text = f"functools.partial({self.text}, reduction={reduction!r})"
        return replace(self, loss=other, text=text)

    @cached_property
    def unreduced(self) -> Subject:
        """The loss with reduction 'none' where it has one, else itself."""
        if not self.reduction or self.reduction == "none":
            return self
        try:
            found = self.reduced("none")
            found.value(self.operands)
            return found
        except Exception:  # whatever a loss raises
            return self

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The arguments of a call by name."""
        return _parameters(self.loss.forward if isinstance(self.loss, nn.Module) else self.loss)

    @cached_property
    def stopped(self) -> bool:
        """Whether the declaration says that part of the value is a constant for differentiation."""
        cls: Any = self.declared
        if cls is None:
            return False
        terms: Any = getattr(cls, "_terms", dict)().values()
        formulas = [*(getattr(cls, "_compiled_formulas", list)()), *terms]
        return bool(getattr(cls, "stopped", False)) or any(formula.stopped for formula in formulas)


class NoTensorError(TypeError):
    """The loss returns something else than a tensor."""


class _Fixed:
    """A function with its reduction fixed."""

    def __init__(self, function: Callable[..., Any], reduction: str) -> None:
        self.function, self.fixed = function, reduction

    def __call__(self, *operands: Any, **more: Any) -> Any:
        return self.function(*operands, **more, reduction=self.fixed)


def _parameters(function: Any) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return {}


def _dtype(operands: Sequence[Any]) -> torch.dtype | None:
    return next((x.dtype for x in operands if isinstance(x, Tensor) and x.is_floating_point()), None)


def copied(loss: Any) -> Any:
    """A copy of a module, which a call may change; of what cannot be copied, and of functions, itself."""
    if not isinstance(loss, nn.Module):
        return loss
    try:
        return copy.deepcopy(loss)
    except Exception:  # an open file, a lock; `pickling` tells
        return loss


def seed() -> None:
    """The same random numbers in every call. `audit` puts the states back."""
    torch.manual_seed(0)
    random.seed(0)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(0)


def subject_of(
    loss: Any, operands: Sequence[Any], keywords: dict[str, Any], *, declared: type[Loss] | None, taken: str = ""
) -> Subject:
    """The loss with its operands, and what can be known of them."""
    args = [*operands, *keywords.values()]
    keys = ["" for _ in operands] + list(keywords)
    taken_names = [
        x.name
        for x in _parameters(loss.forward if isinstance(loss, nn.Module) else loss).values()
        if x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)
    ]
    known = declared._call_operands() if declared is not None else taken_names
    known = [*known, *(f"operand {i}" for i in range(len(known), len(args)))]
    names = [key or known[i] for i, key in enumerate(keys)]
    floating = [i for i, x in enumerate(args) if isinstance(x, Tensor) and x.is_floating_point() and x.numel()]
    wanted = [i for i in floating if args[i].requires_grad]
    operand_of: dict[str, Any] = getattr(declared, "operands", {})
    if not wanted and declared is not None:
        fixed = {name for name, x in operand_of.items() if not x.differentiable} | {"target", "distance_map"}
        wanted = [i for i in floating if names[i] not in fixed]
    args = [x.detach() if isinstance(x, Tensor) else x for x in args]
    kinds = [kind_of(x, operand_of.get(name), loss) for x, name in zip(args, names, strict=True)]
    made = Subject(
        loss, _name(loss), _text(loss), args, keys, names, wanted or floating[:1], kinds, declared, taken=taken
    )
    made.stateful = _changes(made)
    return made


def _name(loss: Any) -> str:
    return str(getattr(loss, "__name__", "") or type(loss).__name__)


def _text(loss: Any) -> str:
    """How a line of code makes the loss; of a module what its `repr` says."""
    if not isinstance(loss, nn.Module):
        return _name(loss)
    told = loss.extra_repr() if isinstance(loss, Loss) or type(loss).extra_repr is not nn.Module.extra_repr else ""
    short = told if len(told) < 60 and "Tensor" not in told and "\n" not in told else ""
    reduction = vars(loss).get("reduction")
    if not short and isinstance(reduction, str) and reduction != "mean":
        short = f"reduction={reduction!r}"
    if isinstance(loss, Loss):  # what is usual goes without saying
        cls = type(loss)
        parts = [x for x in short.split(", ") if "=" in x and x.split("=")[0] in (*cls.params, "reduction")]
        usual = {f"{p.name}={p.default}" for p in cls.params.values()} | {"reduction='mean'", "reduction=mean"}
        short = ", ".join(x for x in parts if x not in usual)
    return f"{type(loss).__name__}({short})"


def _changes(subject: Subject) -> bool:
    """Whether a call changes what the module keeps."""
    if not isinstance(subject.loss, nn.Module):
        return False
    try:
        other = copied(subject.loss)
        before = fingerprint(other)
        subject.run(subject.operands, loss=other)
        subject.run(subject.operands, loss=other)
    except Exception:  # whatever a loss raises; the example is looked at later
        return False
    return fingerprint(other) != before


def fingerprint(module: nn.Module) -> list[tuple[str, str]]:
    """What a module keeps, as text."""
    found = []
    for prefix, part in module.named_modules():
        kept = {key: x for key, x in vars(part).items() if not key.startswith("_")}
        kept |= {**part._buffers, **part._parameters}
        for key, x in kept.items():
            told = f"{x.detach().reshape(-1)[:64].tolist()} {x._version}" if isinstance(x, Tensor) else repr(x)
            found.append((f"{prefix}.{key}", told))
    return sorted(found)


def declaration_of(loss: Any) -> type[Loss] | None:
    """losskit's declaration of a loss: its class, or the one with torch's name; of a user's loss None."""
    if isinstance(loss, Loss):
        return type(loss).declared
    of_torch = type(loss).__module__ == "torch.nn.modules.loss"
    if of_torch:
        return next((cls for cls in registered.values() if cls.__name__ == type(loss).__name__), None)
    name, module = getattr(loss, "__name__", ""), getattr(loss, "__module__", "") or ""
    if name in registered and (module.startswith(("torch.nn", "torch._C", "losskit")) or module == "torch"):
        return registered[name]
    return None


def line_of(problem: BaseException) -> str:
    """The first line of what was raised."""
    text = str(problem).strip() or type(problem).__name__
    return text.split("\n")[0][:160]


def off(a: Tensor, b: Tensor, room: float = 1e-6) -> bool:
    """Whether results differ by more than rounding; NaN equals NaN."""
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    return a.shape != b.shape or bool((~same & ((a - b).abs() > room * (1e-6 + b.abs()))).any())


def raises(subject: Subject, batch: Sequence[Any]) -> bool:
    """Whether the loss raises for a batch."""
    try:
        subject.run(batch)
        return False
    except Exception:  # whatever a loss raises
        return True
