"""The parameters of a loss: what an annotation means, which values it may have, and what was meant by wrong ones."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, Literal

import torch
from torch import Tensor

from losskit.declaration import Param
from losskit.dtypes import INTEGERS
from losskit.errors import error

_KINDS = {"float": "float", "int": "int", "bool": "bool", "str": "choice", "Tensor": "tensor"}
_PYTHON_TYPES: dict[str, Any] = {"float": float, "int": int, "bool": bool, "tensor": Tensor}


def kind_of(annotation: Any) -> dict[str, Any] | None:
    """The kind of parameter that an annotation means, and whether a number may be a tensor, and it may be None."""
    text = text_of(annotation).replace("torch.", "").replace("Optional[Tensor]", "Tensor | None")
    first, *more = text.split(" | ")
    allowed = {"Tensor": [["None"]], "float": [["Tensor"], ["Tensor", "None"]], "int": [["None"]]}
    several = more in allowed.get(first, [])
    if first not in _KINDS or (more and not several):
        return None
    return {"kind": _KINDS[first], "tensor": "Tensor" in more, "none": "None" in more}


def python_type(p: Param) -> Any:
    """The annotation of a parameter, as an object."""
    if p.kind == "choice":
        return Literal[p.choices]
    own = _PYTHON_TYPES[p.kind]
    own = own | Tensor if p.tensor else own
    return own | None if p.none else own


def text_of(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def validate(loss: str, param: Param, value: Any, of: Any = None) -> Any:
    """A parameter's value as its kind, or the error that says what is allowed; of: the loss, where there is one."""
    hint = "" if of is None else number_hint(of, value, param.name)

    def wrong(expected: str, hint: str = hint) -> Exception:
        return error("parameter_type", loss=loss, argument=param.name, expected=expected, got=told(value), hint=hint)

    if param.kind == "bool":
        if isinstance(value, bool):
            return value
        raise wrong("True or False")
    if param.none and value is None:
        return value
    if param.kind == "choice":
        if value in param.choices:
            return value
        raise wrong(", ".join(map(repr, param.choices)), _close(value, param.choices))
    if param.kind == "tensor":
        if isinstance(value, Tensor):
            return value
        raise wrong("a tensor or None" if param.none else "a tensor", _as_tensor(param.name, value))
    if param.tensor and isinstance(value, Tensor) and (value.is_floating_point() or value.dtype in INTEGERS):
        return value
    number: Any = value
    if isinstance(value, Tensor) and torch.compiler.is_compiling():
        return value
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex() and value.dtype != torch.bool:
        if value.requires_grad:
            raise wrong("a number", f" It has no gradient here: pass {param.name}.item().")
        number = value.item()
    whole = param.kind == "int"
    right = isinstance(number, Integral) if whole else isinstance(number, Real)  # NumPy's scalars are, too
    if isinstance(number, bool) or not right:
        kinds = f"{'an integer' if whole else 'a number'}{' or a tensor of numbers' if param.tensor else ''}"
        hint = _as_tensor(param.name, value) if param.tensor else hint
        raise wrong(kinds, _number(param.name, value) or hint)
    number = int(number) if whole else float(number)
    if not param.domain.includes(number):
        raise error("parameter", loss=loss, argument=param.name, expected=param.domain.description, got=told(value))
    return number


def _close(value: Any, words: Sequence[str]) -> str:
    """The word that was meant by a similar one."""
    close = difflib.get_close_matches(value, words, n=1) if isinstance(value, str) else []
    return f" Did you mean {close[0]!r}?" if close else ""


def _as_tensor(name: str, value: Any) -> str:
    array = callable(getattr(type(value), "__array__", None)) or isinstance(value, list | tuple)
    return f" Use torch.as_tensor({name})." if array else ""


def _number(name: str, value: Any) -> str:
    """How an array or a string becomes a number."""
    if isinstance(value, str):
        return f" Use float({name})." if _NUMBER.fullmatch(value) else ""
    one = getattr(value, "size", None) == 1 and callable(getattr(value, "item", None))
    return f" Use {name}.item()." if one else ""


_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def number_hint(loss: Any, value: Any, own: str = "reduction") -> str:
    """The parameter that was meant by a number in the place of one that is none: the first that is a number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return ""
    numbers = [name for name in loss.arguments.split() if name in loss.params and loss.params[name].kind == "float"]
    meant = next((name for name in numbers if name != own), None)
    if meant is None or (own in loss.params and loss.params[own].kind in ("float", "int")):
        return ""
    return f" Did you mean {meant}={value}?"


def told(value: Any) -> str:
    return f"tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
