"""What the operands of a loss are: which numbers they may be, and which of their dimensions is the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from losskit.domains import Domain, Interval, log_probability, nonnegative, probability, real, signs


@dataclass(frozen=True)
class Kind:
    """What an operand's numbers are.

    of: "float", "classes" (indices), "labels" (0 and 1, or -1 and 1), "mask", "integers", or "other".
    domain: of floating-point numbers. normalized: not None: the dimension along which they are a log-softmax, or, where
    the domain is probabilities, a softmax.
    """

    of: str
    domain: Domain = real
    normalized: int | None = None
    guessed: bool = True

    @property
    def told(self) -> str:
        """In words."""
        if self.of != "float":
            return self.of
        if self.normalized is not None:
            return "log-probabilities" if self.domain is log_probability else "probabilities"
        return self.domain.description


def kind_of(x: Any, operand: Any, loss: Any) -> Kind:
    """What an operand is: as declared, else by its numbers."""
    if not isinstance(x, Tensor):
        return Kind("other")
    if x.dtype == torch.bool:
        return Kind("mask")
    if not x.is_floating_point():
        seen = set(x.reshape(-1)[:1000].tolist())
        return Kind("labels" if seen <= {-1, 1} else "classes")
    declared = getattr(operand, "domain", real)
    if operand is not None and operand.unless and getattr(loss, operand.unless, False):
        declared = real
    if operand is not None and operand.only_with and not getattr(loss, operand.only_with, True):
        declared = real
    known = isinstance(declared, Interval) and not declared.everything
    values = x.reshape(-1)
    if declared is signs or (values.numel() and bool((values.abs() == 1).all()) and not known and values.numel() > 1):
        return Kind("labels", signs, guessed=declared is not signs)
    if values.numel() > 1 and bool(((values == 0) | (values == 1)).all()):
        return Kind("labels", probability)
    along = _log_softmax(x)
    if along is not None and not known:
        return Kind("float", log_probability, along)
    if known:
        return Kind("float", declared, along, guessed=False)
    if values.numel() > 3 and bool(((values > 0) & (values < 1)).all()):
        return Kind("float", probability)
    if values.numel() > 3 and bool((values > 0).all()):
        return Kind("float", Interval("positive", low=0.0, low_open=True, typical=1.0))
    if values.numel() > 3 and bool((values >= 0).all()):
        return Kind("float", nonnegative)
    return Kind("float", real)


def _log_softmax(x: Tensor) -> int | None:
    """The dimension along which numbers are a log-softmax."""
    if x.ndim == 0 or x.numel() < 2 or not bool((x <= 1e-6).all()):
        return None
    for dim in (1, -1) if x.ndim > 1 else (0,):
        if x.shape[dim] > 1 and float(x.double().logsumexp(dim).abs().max()) < 1e-4:
            return dim % x.ndim
    return None


def batch_axes(operands: Sequence[Any], first: int, kinds: Sequence[Kind]) -> list[int | None]:
    """The dimension of rows of each operand: 0 where all have as many, 1 for a first one as of sequences (T, N, C)."""
    tensors = {i: x for i, x in enumerate(operands) if isinstance(x, Tensor)}
    x = tensors[first]
    nothing: list[int | None] = [None] * len(operands)
    if x.ndim == 0 or any(y.ndim == 0 and kinds[i].of in ("classes", "labels") for i, y in tensors.items()):
        return nothing
    of_rows = [y for i, y in tensors.items() if i != first and y.ndim > 0 and kinds[i].of != "other"]
    axis = 0
    if of_rows and not any(y.shape[0] == x.shape[0] for y in of_rows):
        if x.ndim < 2 or not all(y.shape[0] == x.shape[1] for y in of_rows):
            return nothing
        axis = 1
    rows = x.shape[axis]
    found = list(nothing)
    for i, y in tensors.items():
        own = axis if i == first else 0
        if y.ndim > own and y.shape[own] == rows:
            found[i] = own
    return found


def put(operands: Sequence[Any], place: int, x: Any) -> list[Any]:
    """The operands with another one in a place."""
    return [*operands[:place], x, *operands[place + 1 :]]


def scaled(x: Tensor, kind: Kind, factor: float) -> Tensor:
    """Numbers of another magnitude that are allowed, too."""
    if kind.normalized is not None and kind.domain is log_probability:
        return (x.double() * factor).log_softmax(kind.normalized).to(x.dtype)
    domain = kind.domain
    if isinstance(domain, Interval) and domain.low > -float("inf") and domain.high < float("inf"):
        at = (x - domain.low) / (domain.high - domain.low)
        at = at * factor if factor <= 1.0 else 1.0 - (1.0 - at) / factor
        return domain.low + (domain.high - domain.low) * at
    if isinstance(domain, Interval) and domain.low > -float("inf"):
        return domain.low + (x - domain.low) * factor
    return x * factor


def one_hot(target: Tensor, scores: Tensor) -> Tensor | None:
    """Class indices as a mask of the scores' shape; None where the two do not go together."""
    if target.is_floating_point() or target.ndim != scores.ndim - 1:
        return None
    dim = 1 if scores.ndim > 1 else 0
    if target.shape != scores.shape[:dim] + scores.shape[dim + 1 :]:
        return None
    if target.numel() and not (int(target.min()) >= 0 and int(target.max()) < scores.shape[dim]):
        return None
    return torch.zeros(scores.shape, dtype=torch.bool).scatter_(dim, target.long().unsqueeze(dim), True)
