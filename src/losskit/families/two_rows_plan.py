"""A call of the two-rows family: its arguments validated, the loss in torch operations.

What a formula of the family speaks of is said in `two_rows.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.errors import error
from losskit.families.class_scores_statistics import rounded_off
from losskit.kernels import eager, fused, wire
from losskit.plan import Arguments, Dims, Plan
from losskit.reduction import counting, reduce_eagerly
from losskit.spaces import like_softmax
from losskit.traced import Formula
from losskit.validation import check_extras, check_floating, check_tensor, unlike

_LABELS = " The target is the teacher's scores; for class indices use cross_entropy."


class TwoRowsPlan(Plan):
    """A loss of two rows of scores with its parameters fixed."""

    op = "two_rows"
    gradients = 1
    constants = 2
    ignores = False

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.temperature = float(parameters.get("temperature", 1.0))
        self.factor = self.temperature * self.temperature if loss.scaled else 1.0
        family = wire.TWO_ROWS.family.pack(statistics=formula.operands)
        given = wire.TWO_ROWS.given(map(float, numbers.values()), temperature=self.temperature, factor=self.factor)
        super().__init__(loss, reduction, fused.pack(reduction, family=family), loss._call_operands(), given)
        self.formula: Formula = formula
        self.differentiable = formula.differentiable(numbers)

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        input, target = operands
        check_tensor(self.name, "input", input, "input", input)
        check_floating(self.name, "input", input, target, "scores")
        check_tensor(self.name, "target", target, "input", input)
        if not target.is_floating_point():
            raise error("not_floating", loss=self.name, argument="target", got=target.dtype, hint=_LABELS)
        if input.ndim == 0:
            raise error("no_class_dimension", loss=self.name, argument="input")
        if input.shape[-1] == 0:
            raise error("no_classes", loss=self.name, got=tuple(input.shape))
        if target.shape != input.shape:
            raise unlike(self.name, "target", target.shape, "input", input.shape)
        target = target.detach() if target.requires_grad else target
        normalizer = check_extras(self, input, input.shape[:-1], None, (), sample_weight, mask, normalizer)
        return Arguments([input, target], None, sample_weight, mask, normalizer)

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        dims: Dims = (*range(arguments.operands[0].ndim - 1), None)
        return [dims, dims, ()]

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        operands, _, sample_weight, mask, normalizer, _ = arguments
        dtype, wide = dtypes.result_dtype(operands), dtypes.compute_dtype(operands)
        student, teacher = operands[0].to(wide), operands[1].detach().to(wide)  # the teacher is a constant
        mask, normalizer = counting(
            self.reduction, student.shape[:-1], student, sample_weight=sample_weight, mask=mask, normalizer=normalizer
        )
        if mask is not None:  # a NaN behind the mask must not reach the gradient as 0 * NaN
            of_rows = mask.unsqueeze(-1) if mask.ndim else mask
            student, teacher = (torch.where(of_rows, x, 0.0) for x in (student, teacher))
        statistics = row_statistics(student, teacher, self.temperature)
        terms = eager.apply(self.differentiable, [statistics[name] for name in self.formula.operands])
        loss = reduce_eagerly(
            terms.sum(-1) * self.factor, self.reduction, weight=None, weight_in_mean=False,
            sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def spaces(self, operands: Sequence[Tensor], mask: Tensor | None) -> list[Exception]:
        if operands[0].shape[-1] == 1:
            return [error("one_class", loss=self.name)]
        rows = zip(self.names, operands, strict=True)
        return [error("softmaxed", loss=self.name, argument=name) for name, x in rows if like_softmax(x.detach(), -1)]


def row_statistics(student: Tensor, teacher: Tensor, temperature: float) -> dict[str, Tensor]:
    """What formulas speak of, for two rows of scores (last dimension).

    Sums of exponentials leave their largest one out, which is 1: its gradient would swallow that of the others' small
    sum, and log1p of the others keeps the digits of an almost certain row.
    """
    z, u = _in_the_limit(student), _in_the_limit(teacher)
    top, largest = z.argmax(-1, keepdim=True), u.argmax(-1, keepdim=True)
    places = torch.arange(z.shape[-1], device=z.device)
    x, p, others = _softmax(z, z.gather(-1, top), places == top, temperature)
    most = u.gather(-1, largest)
    _, q, others_of_teacher = _softmax(u, most, places == largest, temperature)
    # Differences of scores, each row's from that of the student's largest class: there the difference is 0.
    base = u.gather(-1, top)
    base = torch.where(base > float("-inf"), base, most)
    y = u - base
    difference = x - y
    error = rounded_off(z, z.gather(-1, top), x) - rounded_off(u, base, y) + rounded_off(x, y, difference)
    difference = difference + torch.where(error.isfinite(), error, 0.0).detach()
    neither = (x == float("-inf")) & (y == float("-inf"))  # a class that both rows leave out
    difference = torch.where(neither, 0.0, difference) / temperature
    near = (difference.detach().abs() < 1.0).all(-1, keepdim=True)
    small = torch.where(near, difference, 0.0)
    by_near = torch.log1p((q * torch.expm1(small)).sum(-1, keepdim=True))
    by_far = torch.log1p(others) - (torch.log1p(others_of_teacher) + (most - base) / temperature)
    return {"teacher": q, "student": p, "log_ratio": difference - torch.where(near, by_near, by_far)}


def _in_the_limit(scores: Tensor) -> Tensor:
    """Rows with infinite scores as what they tend to: the infinite ones share the probability. They do not learn."""
    endless = scores == float("inf")
    zeros = torch.zeros_like(scores)
    limit = torch.where(endless, zeros, torch.where(scores == scores, zeros - float("inf"), scores))
    return torch.where(endless.any(-1, keepdim=True), limit, scores)


def _softmax(
    scores: Tensor, largest: Tensor, is_largest: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The distances of scores to the largest one, their softmax, and the sum of the others' exponentials."""
    distance = scores - largest
    # Where nothing is finite, NaN stays.
    distance = torch.where(is_largest & (distance == distance), 0.0, distance)
    e = torch.exp(distance / temperature)
    others = torch.where(is_largest & (e == e), 0.0, e).sum(-1, keepdim=True)
    return distance, e / (1.0 + others), others
