"""Validation of a call's arguments: one sentence for each mistake, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from losskit.dtypes import HALVES
from losskit.errors import error
from losskit.plan import Plan


def check_tensor(loss: str, name: str, x: Any, first_name: str, first: Any) -> None:
    """Refuse what is not a dense, real tensor on the device of the first operand."""
    if not isinstance(x, Tensor):
        raise error("not_a_tensor", loss=loss, argument=name, got=type(x).__name__, hint=_tensor_hint(name, x))
    if x.layout != torch.strided:
        raise error("not_strided", loss=loss, argument=name, got=str(x.layout))
    if x.is_complex():
        raise error("complex", loss=loss, argument=name, got=x.dtype)
    if x.device != first.device and x.ndim > 0:
        raise error("device", loss=loss, argument=name, got=x.device, first=first_name, expected=first.device)


def _tensor_hint(name: str, x: Any) -> str:
    """How what is no tensor becomes one: an array, a number, a list, or what a model returned."""
    if isinstance(x, list | tuple | dict) and x:
        key = next(iter(x)) if isinstance(x, dict) else 0
        if isinstance(x[key], Tensor):
            return f" Did you mean {name}[{key!r}]?" if len(x) == 1 or isinstance(x, tuple | dict) else (
                f" Use torch.stack({name})."
            )  # fmt: skip
    if isinstance(x, list | tuple | Real) or callable(getattr(type(x), "__array__", None)):
        return f" Use torch.as_tensor({name})."
    return ""


def check_floating(loss: str, name: str, x: Tensor, target: Any = None, scores: str = "") -> None:
    """Refuse integers where a gradient may be wanted; `scores`: what a floating `target` would be if it were x."""
    if not x.is_floating_point():
        swapped = scores and isinstance(target, Tensor) and target.is_floating_point()
        hint = swapped_hint(name, scores) if swapped else f" Use {name}.float()."
        raise error("not_floating", loss=loss, argument=name, got=x.dtype, hint=hint)


def swapped_hint(name: str, scores: str = "scores") -> str:
    """The way out where operands seem to have changed places."""
    return f" {name.capitalize()} looks like labels and target like {scores}: are the two swapped?"


def check_per_class(plan: Plan, name: str, x: Any, input: Tensor, classes: int) -> None:
    """Refuse what is not a vector with an entry for each class."""
    check_tensor(plan.name, name, x, plan.names[0], input)
    if x.shape != (classes,):
        raise error("per_class", loss=plan.name, argument=name, classes=classes, got=tuple(x.shape))


def class_weight(plan: Plan, weight: Tensor | None, input: Tensor, classes: int) -> Tensor | None:
    """Class weights, integers made floating; refused where they are less precise than the input."""
    if weight is None:
        return None
    check_per_class(plan, "weight", weight, input, classes)
    if weight.dtype in HALVES and input.dtype not in HALVES:
        raise error("weight_dtype", loss=plan.name, got=weight.dtype, expected=input.dtype)
    return weight if weight.is_floating_point() else weight.to(input.dtype)


def check_extras(
    plan: Plan,
    first: Tensor,
    loss_shape: Sequence[int],
    weight: Any,
    weight_shape: Sequence[int],
    sample_weight: Any,
    mask: Any,
    normalizer: Any,
) -> Tensor | float | None:
    """Refuse weights and masks that do not broadcast, and normalizers that are no numbers; gives the normalizer."""
    extras = {
        "weight": (weight, weight_shape), "sample_weight": (sample_weight, loss_shape), "mask": (mask, loss_shape)
    }  # fmt: skip
    for name, (x, shape) in extras.items():
        if x is None:
            continue
        check_tensor(plan.name, name, x, plan.names[0], first)
        check_stretches(plan.name, name, x, shape)
    if mask is not None and mask.dtype != torch.bool:
        raise error("mask_dtype", loss=plan.name, got=mask.dtype)
    return None if normalizer is None else _check_normalizer(plan.name, normalizer)


def _check_normalizer(loss: str, normalizer: Any) -> Tensor | float:
    if isinstance(normalizer, Tensor):
        if normalizer.numel() == 1 and not normalizer.is_complex():
            return normalizer
        raise error("normalizer", loss=loss, got=f"a tensor of shape {tuple(normalizer.shape)}")
    if isinstance(normalizer, torch.SymInt | torch.SymFloat):
        return normalizer  # type: ignore[return-value]  # a number, in graphs
    if isinstance(normalizer, int | float) and not isinstance(normalizer, bool) and normalizer >= 0:
        return normalizer
    if isinstance(normalizer, Real) and not isinstance(normalizer, bool) and float(normalizer) >= 0:
        return float(normalizer)  # NumPy's scalars are Real
    raise error("normalizer", loss=loss, got=repr(normalizer))


def check_stretches(loss: str, name: str, x: Tensor, shape: Sequence[int]) -> None:
    """Refuse a tensor that does not broadcast to a shape."""
    if not broadcasts(x.shape, shape):
        hint = shape_hint(name, x.shape, shape)
        raise error("not_broadcastable", loss=loss, argument=name, got=tuple(x.shape), expected=tuple(shape), hint=hint)


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether a tensor of one shape stretches to another."""
    if len(shape) > len(to):
        return False
    return all(own == 1 or own == full for own, full in zip(reversed(shape), reversed(to), strict=False))


def same_shape(shape: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes are equal. Lengths come first: a graph would else be bound to sizes that happen to agree."""
    return len(shape) == len(other) and shape == other


def shape_hint(name: str, got: Sequence[int], expected: Sequence[int]) -> str:
    """The call that would make the shapes fit, where one clearly would."""
    got, expected = tuple(got), tuple(expected)
    for dim in range(len(expected)):
        if expected[:dim] + expected[dim + 1 :] == got and expected[dim] == 1:
            return f" Did you mean {name}.unsqueeze({dim})?"
    for dim in range(len(got)):
        if got[:dim] + got[dim + 1 :] == expected and got[dim] == 1:
            return f" Did you mean {name}.squeeze({dim})?"
    if name in ("weight", "sample_weight", "mask") and 0 < len(got) < len(expected):
        if got == expected[: len(got)]:
            more = len(expected) - len(got)
            call = f"unsqueeze({len(got)})" if more == 1 else f"reshape{got + (1,) * more}"
            return f" Did you mean {name}.{call}, one for each row?"
        for dim in range(1, len(expected) - 1):
            if expected[:dim] + expected[dim + 1 :] == got:
                return f" Did you mean {name}.unsqueeze({dim}), the same along dimension {dim}?"
    elif name == "target":
        stretches = math.prod(got) == 1 or len(got) == len(expected)
        if got != expected and stretches and broadcasts(got, expected):
            return f" Did you mean target.expand({', '.join(map(str, expected))})?"
    else:
        for dim in range(len(expected)):
            if expected[:dim] + expected[dim + 1 :] == got:
                return f" Did you mean {name}.unsqueeze({dim}), one for each along dimension {dim}?"
    return ""


def unlike(loss: str, name: str, got: Sequence[int], first: str, expected: Sequence[int]) -> Exception:
    """The error for an operand that does not have the shape of the first one."""
    hint = shape_hint(name, got, expected)
    return error("shapes", loss=loss, first=first, argument=name, expected=tuple(expected), got=tuple(got), hint=hint)


def outside_classes(target: Tensor, classes: int, ignored: int | None = None) -> Tensor:
    """Where an index is neither a class nor `ignored`."""
    index = target.to(torch.int64)  # a target of bytes would take -100 for 156
    outside = (index < 0) | (index >= classes)
    return outside if ignored is None else outside & (index != ignored)


def no_class(
    loss: str, index: tuple[int, ...], got: int, classes: int, *, skips: str = "", one_class: str = ""
) -> Exception:
    """The error for an index that is no class.

    skips: what `ignore_index` leaves out, where the loss has it; one_class: the way out where there is one class only.
    """
    hint = f" Pass ignore_index={got} to skip such {skips}." if skips and (got < 0 or got == 255) else ""
    hint = " Class indices start at 0." if got == classes else hint
    hint = one_class if one_class and got >= classes == 1 else hint
    return error("class_index", loss=loss, classes=classes, got=got, index=index, hint=hint)


def unravel(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The index of an element whose place in the flattened tensor is known."""
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(index), tuple(shape))) if shape else ()
