"""Kernels of losses of two views: correlations and covariances of features, and gradients (`csrc/views.cpp`).

A view is a matrix (N, D) of features. The kernels form its standardised columns a few rows at a time, where torch's
operations write matrices of them; and their products take half the time of MKL's on AMD's processors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.kernels.choice import helps

_WIDEST = 512  # columns: the square of more has no place in a thread's cache


def _has_kernel(x: Tensor) -> bool:
    """Whether kernels take a view; where there are few rows, products of these cost less than those of columns."""
    n, d = x.shape[-2:]
    return d < 2 * n and d <= _WIDEST and helps(x)


def _called(op: str, first: Tensor, second: Tensor, *numbers: float) -> tuple[Tensor, dict[str, Tensor]] | None:
    if not _has_kernel(first):
        return None
    given = [x.detach().contiguous().view(-1, *first.shape[-2:]) for x in (first, second)]
    loss, gradients = first.new_empty(first.shape[:-2]), [torch.empty_like(x) for x in given]
    getattr(torch.ops.losskit, op).default(*given, *numbers, loss, *gradients)
    by_first, by_second = (x.view(first.shape) for x in gradients)
    return loss, {"input1": by_first, "input2": by_second}


def correlations(first: Tensor, second: Tensor, weight: float, eps: float) -> Any:
    """How far correlations (..., D, D) are from the identity, and the gradients; None where torch does it.

    weight: of the entries off the diagonal. eps: added to each variance.
    """
    return _called("correlations", first, second, weight, eps)


def covariances(
    first: Tensor, second: Tensor, invariance: float, variance: float, covariance: float, eps: float
) -> Any:
    """The distance of two views, hinges on their deviations and their squared covariances; None where torch does it."""
    return _called("covariances", first, second, invariance, variance, covariance, eps)


def parts(first: Tensor, *_: Any) -> str:
    """What kernels do of it, in words; "" if torch does."""
    return "moments, products of features and the gradients in a fused CPU kernel" if _has_kernel(first) else ""
