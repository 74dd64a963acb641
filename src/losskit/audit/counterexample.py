"""The smallest input that still shows a finding, as a line of code to paste."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.audit.operands import put
from losskit.audit.subject import Subject

LONG = 48  # numbers of a tensor that are written out


def smallest(subject: Subject, operands: Sequence[Any], shown: Callable[[list[Any]], bool]) -> list[Any]:
    """Fewer rows and columns and simpler numbers, as long as the finding is still shown."""

    def still(candidate: list[Any]) -> bool:
        try:
            return shown(candidate)
        except Exception:  # whatever a loss raises for other operands
            return False

    best = list(operands)
    rows = subject.rows and int(best[subject.predictions[0]].shape[subject.axes[subject.predictions[0]] or 0])
    for wanted in [[i] for i in range(min(rows, 8))] + [[0, i] for i in range(1, min(rows, 5))]:
        if len(wanted) >= rows:
            break
        candidate = subject.take(best, wanted)
        if still(candidate):
            best = candidate
            break
    # Operands with indices are not cut: an index may then be too large, and some losses read memory that is not theirs.
    indices = any(isinstance(x, Tensor) and not x.is_floating_point() for x in best)
    for offset in range(1, 1 if indices else best[subject.predictions[0]].ndim):
        size = best[subject.predictions[0]].shape[-offset]
        for kept in (1, 2, size // 2):
            if not 0 < kept < size:
                continue
            candidate = [_first(x, offset, size, kept) for x in best]
            if still(candidate):
                best = candidate
                break
    for digits in (0, 1, 2):
        candidate = [_rounded(x, digits) for x in best]
        if still(candidate):
            return candidate
    for place, x in enumerate(best):  # one operand at a time
        for digits in (0, 1, 2):
            candidate = put(best, place, _rounded(x, digits))
            if still(candidate):
                best = candidate
                break
    return best


def _first(x: Any, offset: int, size: int, kept: int) -> Any:
    """The first entries of a dimension, counted from the last, if it has that size."""
    own = isinstance(x, Tensor) and x.ndim >= offset and x.shape[-offset] == size
    return x.narrow(-offset, 0, kept).clone() if own else x


def _rounded(x: Any, digits: int) -> Any:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    return (x.double() * 10**digits).round().div(10**digits).to(x.dtype)


def call_of(subject: Subject, operands: Sequence[Any], text: str = "") -> str:
    """The call as code."""
    args = [f"{key}={written(x)}" if key else written(x) for x, key in zip(operands, subject.keys, strict=True)]
    return f"{text or subject.text}({', '.join(args)})"


def written(x: Any) -> str:
    """An operand as code; a long one by its shape."""
    if not isinstance(x, Tensor):
        return repr(x)
    dtype = "" if x.dtype in (torch.float32, torch.int64, torch.bool) else f", dtype={x.dtype}"
    x = x.detach()
    if not x.numel():
        return f"torch.empty({tuple(x.shape)}{dtype if x.dtype != torch.int64 else ', dtype=torch.int64'})"
    flat = x.reshape(-1)
    if x.numel() > 1 and bool((flat == flat[0]).all()):
        return f"torch.full({tuple(x.shape)}, {number(flat[0])}{dtype})"
    if x.numel() > LONG:
        return f"torch.randn({tuple(x.shape)}{dtype})" if x.is_floating_point() else f"<{tuple(x.shape)} {x.dtype}>"
    return f"torch.tensor({_nested(x)}{dtype})"


def _nested(x: Tensor) -> str:
    return f"[{', '.join(_nested(part) for part in x)}]" if x.ndim else number(x)


def number(x: Any) -> str:
    """The fewest digits that give this number in its dtype."""
    if isinstance(x, Tensor):
        if not x.is_floating_point():
            return str(x.item())
        value, dtype = float(x), x.dtype
    else:
        value, dtype = float(x), torch.float64
    if value != value or value in (float("inf"), -float("inf")):
        return f'float("{value}")'
    for digits in range(1, 18):
        text = f"{value:.{digits}g}"
        if float(torch.tensor(float(text), dtype=torch.float64).to(dtype)) == value:
            break
    return text if any(c in text for c in ".en") else f"{text}.0"


def short(x: float) -> str:
    """A number for a sentence."""
    return f"{x:.4g}"
