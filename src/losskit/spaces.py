"""Warnings about values that are allowed but hardly meant: probabilities for scores, one class, negative counts.

A warning names the line of the caller, so that Python's filters show it once per line. The fused kernel looks at a few
numbers and only reports that something is suspicious; a plan's `spaces` then looks at all of them.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor

_WITHIN = (str(Path(__file__).parent), str(Path(torch.__file__).parent), "<losskit ")


def tell(problems: Iterable[Exception]) -> None:
    """Warn at the line outside of losskit and torch that the present call came from."""
    for problem in problems:
        assert isinstance(problem, Warning)
        frame: FrameType = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_WITHIN):
            frame = frame.f_back
        warnings.warn_explicit(
            problem, type(problem), frame.f_code.co_filename, frame.f_lineno,
            frame.f_globals.get("__name__", "unknown"), frame.f_globals.setdefault("__warningregistry__", {}),
        )  # fmt: skip


def like_sigmoids(x: Tensor) -> bool:
    """Whether numbers look like the results of a sigmoid: all in [0, 1], not all at its ends.

    Scores of a small batch may all be positive by chance, and a fresh network's are all alike. So fewer than 8 numbers
    never count, and fewer than 64 must be spread out.
    """
    if x.numel() < 8:
        return False
    low, high = (float(end) for end in x.aminmax())
    if not (low >= 0.0 and high <= 1.0) or high - low < (0.25 if x.numel() < 64 else 1e-6):
        return False
    return bool(((x > 0) & (x < 1)).any())


def like_softmax(x: Tensor, dim: int) -> bool:
    """Whether every row is in [0, 1] and sums to 1, up to rounding; not if all are 0 or 1, as scores by hand are."""
    if x.numel() == 0 or not (float(x.min()) >= 0.0 and float(x.max()) <= 1.0):
        return False
    if not bool(((x > 0) & (x < 1)).any()):
        return False
    off = (x.sum(dim, dtype=torch.float64) - 1.0).abs().max()
    return float(off) <= (1e-4 if x.dtype in (torch.float32, torch.float64) else 0.02)
