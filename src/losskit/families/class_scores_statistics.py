"""The statistics of rows of class scores in torch operations, with their digits and their gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from losskit.calculus import Differentiable
from losskit.graph import Trace
from losskit.kernels import eager
from losskit.kernels.ranks import Part


def itself(x: Any) -> Any:
    return x


def within(target: Tensor, classes: int) -> Tensor:
    """Class indices, with 0 in place of an index that is no class."""
    target = target.long()  # torch compares no unsigned integers but bytes
    return torch.where((target >= 0) & (target < classes), target, 0)


def pick(x: Tensor, index: Tensor, part: Part | None) -> Tensor:
    """The entries of the classes (last dimension) in `index`."""
    return x.gather(-1, index) if part is None else part.pick(x, index)


def row_statistics(
    scores: Tensor, shift: Tensor | None, part: Part | None, mean: bool
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The statistics of rows (last dimension): log-probabilities, log-sum-exp, mean log-probability.

    shift: is added to the scores' distances to the largest sum: added to a score, it would lose digits.
    part: this rank's classes; log-probabilities are of these classes, the other statistics of all.
    mean: whether the mean log-probability is wanted.
    """
    sums = scores if shift is None else scores + shift
    places = torch.arange(scores.shape[-1], device=scores.device)
    if part is None:
        pivot, copy = sums.argmax(-1, keepdim=True), itself
    else:
        pivot, copy, places = part.largest(sums.detach()), part.ranks.copy, places + part.start
    largest = pick(sums, pivot, part)
    score = copy(largest if shift is None else pick(scores, pivot, part))
    distance = scores - score
    # Without this correction, the rounding of a distance of 80 costs 40 ULP of its exponential.
    error = rounded_off(scores, score, distance)
    if shift is not None:
        at_pivot = copy(pick(shift.expand_as(scores), pivot, part))
        farther, steps = distance, shift - at_pivot
        distance = farther + steps
        error = error + rounded_off(farther, -steps, distance) + rounded_off(shift, at_pivot, steps)
    distance, e = _exponentials(scores, sums, copy(largest), distance, error.detach(), places == pivot)
    others = torch.where(places == pivot, 0.0, e)
    rest = torch.log1p(others.sum(-1, keepdim=True) if part is None else part.total_of(others))
    log_probabilities = distance - copy(rest)
    if not mean:
        return log_probabilities, largest + rest, rest
    total = log_probabilities.sum(-1, keepdim=True) if part is None else part.total_of(log_probabilities)
    return log_probabilities, largest + rest, total / (scores.shape[-1] if part is None else part.total)


def _exponentials(
    scores: Tensor, sums: Tensor, largest: Tensor, distance: Tensor, error: Tensor, is_pivot: Tensor
) -> tuple[Tensor, Tensor]:
    """The distances to the largest score, also in the limit of infinite ones, and their exponentials."""
    # The limit: infinite scores share the probability. Its gradient flows as through a finite distance.
    ends = torch.where(sums == largest, 0.0, float("-inf")).to(distance.dtype)
    distance = torch.where(largest == float("inf"), eager.apply(_LIMIT, [distance, ends]), distance)
    # The pivot's own distance is a constant: its gradient of 1 would swallow the gradient of the others' small sum.
    distance = torch.where(is_pivot, 0.0, distance)
    nothing = largest == float("-inf")
    distance = torch.where(nothing, eager.nan_where(scores, nothing), distance)
    e = torch.exp(distance)
    return distance, e + e * torch.where(error.isfinite(), error, 0.0)


def _of_two(declare: Callable[..., Any]) -> Differentiable:
    """A function of two numbers with declared gradients, which are not its derivatives."""
    trace = Trace()
    value, *gradients = declare(trace.variable("x"), trace.variable("y"), trace.constant(0.0), trace.constant(1.0))
    made = Differentiable(value, ["x", "y"], {}, gradients)
    made.prepare({})
    return made


_LIMIT = _of_two(lambda x, y, zero, one: (y * one, one, zero))  # the second, with the gradient of the first
OF_GRADIENT = _of_two(lambda x, y, zero, one: (x * one, y * one, zero))  # the first, its gradient times the second
OF_VALUE = _of_two(lambda x, y, zero, one: (x * y, one, x * one))  # the product, with the gradient of the first


def finite(weight: Tensor, endless: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights with 1 in place of infinite ones; and the infinite ones (else 1), times `endless`, if given."""
    infinite = weight.isinf()
    apart = torch.where(infinite, weight, 1.0)
    return torch.where(infinite, 1.0, weight), apart if endless is None else apart * endless


def rounded_off(a: Tensor, b: Tensor, difference: Tensor) -> Tensor:
    """The rounding error of `difference` = a - b (Knuth's two-sum)."""
    taken = a - difference
    return (a - (difference + taken)) + (taken - b)
