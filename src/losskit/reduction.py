"""From the losses of elements to one number: none, mean, sum; weights, masks, denominators, the rule for nothing.

This is the eager form of what the fused loop does in `csrc/pointwise.cpp`; both follow the same rules:

1. The mean divides by what counts: the elements, without the masked ones; with `sample_weight` (and with
   `weight`, for the losses where torch says so) by the sum of the weights. `normalizer` replaces this
   denominator, so that micro-batches and ranks compose to the mean of the whole.
2. Masked elements are exact zeros and their gradients too, whatever stands in them.
3. The sum over nothing is 0. The mean over nothing is NaN, or 0 under `losskit.empty("zero")`; its gradient is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from losskit.errors import error
from losskit.policy import state

Reduction = Literal["none", "mean", "sum"]
REDUCTIONS = ("none", "mean", "sum")


def check_reduction(loss: str, reduction: object, allowed: tuple[str, ...] = REDUCTIONS, hint: str = "") -> str:
    """The reduction, if the loss has it."""
    if isinstance(reduction, str) and reduction in allowed:
        return reduction
    raise error("reduction", loss=loss, expected=", ".join(map(repr, allowed)), got=short(reduction), hint=hint)


def short(value: object) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)


@overload
def both(one: Tensor, other: Tensor | None) -> Tensor: ...
@overload
def both(one: Tensor | None, other: Tensor) -> Tensor: ...
@overload
def both(one: Tensor | None, other: Tensor | None) -> Tensor | None: ...
def both(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    """What two masks let count; None lets everything."""
    if one is None or other is None:
        return other if one is None else one
    return one & other


def counting(
    reduction: str,
    shape: Sequence[int],
    like: Tensor,
    *,
    weight: Tensor | None = None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | float | None,
) -> tuple[Tensor | None, Tensor | None]:
    """The mask and the denominator of a mean of losses of this shape; None: nothing is masked, all count alike.

    If the denominator is 0, every element is masked before operands are read. Replacing the divisor afterwards would
    not do: 0 times the gradient of an infinite loss is NaN. weight: given only if it counts in the denominator.
    """
    weights = [w for w in (weight, sample_weight) if w is not None]
    if reduction != "mean" or (normalizer is None and mask is None and not weights):
        return mask, None
    if normalizer is not None:
        denominator = torch.as_tensor(normalizer, dtype=like.dtype, device=like.device).reshape(())
    else:
        counts = torch.ones(tuple(shape), dtype=like.dtype, device=like.device)
        for w in weights:
            counts = counts * w.to(like.dtype)
        denominator = counts.sum() if mask is None else torch.where(mask, counts, 0.0).sum()
    something = denominator != 0
    return both(mask, something), denominator


def denominator(
    shape: Sequence[int], like: Tensor, *, weight: Tensor | None, sample_weight: Tensor | None, mask: Tensor | None
) -> Tensor:
    """What a mean of losses of this shape divides by, in the dtype of `like`."""
    _, found = counting(
        "mean", shape, like, weight=weight, sample_weight=sample_weight, mask=mask, normalizer=None
    )  # fmt: skip
    return like.new_full((), math.prod(shape)) if found is None else found


def mean_of_rows(values: Tensor, reduction: str) -> Tensor:
    """The mean of each row; over no elements it follows the rule for nothing, and their sum is 0."""
    nothing = 0.0 if reduction == "sum" else _of_nothing()
    return values.mean(-1) if values.shape[-1] else values.sum(-1) + nothing


def _of_nothing() -> float:
    return 0.0 if state.empty == "zero" else float("nan")


def reduce_eagerly(
    values: Tensor,
    reduction: str,
    *,
    weight: Tensor | None,
    weight_in_mean: bool,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | float | None,
) -> Tensor:
    """Weigh, mask and reduce element losses. The dtype of `values` is kept; sums run in it."""
    counted = weight if weight_in_mean else None
    mask, denominator = counting(
        reduction, values.shape, values, weight=counted, sample_weight=sample_weight, mask=mask, normalizer=normalizer
    )
    if mask is not None:
        values = torch.where(mask, values, torch.zeros_like(values))
    for factor in (weight, sample_weight):
        if factor is not None:
            weighed = values * factor.to(values.dtype)
            values = weighed if mask is None else torch.where(mask, weighed, torch.zeros_like(weighed))
    if reduction == "none":
        return values
    total = values.sum()
    if reduction == "sum":
        return total
    if denominator is None:
        count = values.numel()  # may be a symbol of a graph; `mean` would make it a constant
        return total / count if count else total + _of_nothing()
    # A zero denominator must not divide: the gradient of x / 0 is NaN, that of nothing is 0.
    nothing = denominator == 0
    mean = total / torch.where(nothing, torch.ones_like(denominator), denominator)
    return torch.where(nothing, torch.full_like(mean, _of_nothing()), mean)
