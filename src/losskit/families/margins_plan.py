"""A call of the margins family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `margins.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.errors import error
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.torch_internals import hidden
from losskit.kernels.wire import MarginsViolation as Violation
from losskit.plan import Arguments, Dims, Found, Plan
from losskit.reduction import counting, reduce_eagerly
from losskit.validation import (
    check_extras,
    check_floating,
    check_tensor,
    class_weight,
    no_class,
    outside_classes,
    shape_hint,
    unlike,
    unravel,
)


class MarginsPlan(Plan):
    """A loss of score differences with its parameters fixed."""

    op = "margins"
    gradients = 1

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        code = fused.pack(reduction, family=wire.MARGINS.family.pack(many=loss.many))
        super().__init__(loss, reduction, code, loss._call_operands(), wire.MARGINS.given(numbers.values()))
        self.formula, self.many = formula, loss.many
        self.refused_by_torch = frozenset({Violation.CLASS_INDEX}) if loss._of_torch() else None
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
        if input.ndim > 2:
            expected, got = "of shape (N, C) or (C,)", f"shape {tuple(input.shape)}"
            raise error("parameter", loss=self.name, argument="input", expected=expected, got=got)
        if 0 in input.shape[-1:]:
            raise error("no_classes", loss=self.name, got=tuple(input.shape))
        if input.ndim == 0:  # torch's reading: a single class
            input, target = input.reshape(1), target.reshape(1) if self.many and target.ndim == 0 else target
        input, target = self._matched(input, target)
        weight = class_weight(self, weight, input, input.shape[-1])
        normalizer = check_extras(self, input, input.shape[:-1], None, (), sample_weight, mask, normalizer)
        return Arguments([input, target], weight, sample_weight, mask, normalizer)

    def _matched(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Input and target of shapes and dtypes that belong together."""
        integer = target.dtype in dtypes.INTEGERS
        if self.many:
            if not integer:
                expected = "integer class indices, ended by -1"
                raise error("parameter_type", loss=self.name, argument="target", expected=expected, got=target.dtype)
            if target.shape != input.shape:
                raise unlike(self.name, "target", target.shape, "input", input.shape)
            return input, target
        rows = input.shape[:-1]
        if integer and target.shape == rows:
            return input, target
        if integer and input.ndim == 1 and target.shape == (1,):  # as in torch, a batch of one
            return input.unsqueeze(0), target
        hint = shape_hint("target", target.shape, rows) if integer else " Use target.long()."
        if target.shape == input.shape:
            hint = " Use target.argmax(-1)."
        raise error(
            "class_indices", loss=self.name, rows=tuple(rows), input=tuple(input.shape), dtype=target.dtype,
            got=tuple(target.shape), hint=hint,
        )  # fmt: skip

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        input, target, _ = tensors
        of_input: Dims = (0, None)[-input.ndim :] if input.ndim else ()
        return [of_input, of_input if self.many else (0,)[: target.ndim], (None,)]

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        (input, target), weight, sample_weight, mask, normalizer, _ = arguments
        dtype, wide = dtypes.result_dtype([input]), dtypes.compute_dtype([input])
        scores, lists = input.to(wide), target
        if input.ndim == 1:
            scores, lists = scores.unsqueeze(0), lists.unsqueeze(0)
        if not self.many:
            lists = lists.unsqueeze(1)
        classes = scores.shape[1]
        counts = _mask_of_rows(mask, scores)
        listed = _listed(lists) if self.many else torch.ones_like(lists, dtype=torch.bool)
        wrong = listed & outside_classes(lists, classes)
        poison = self._bad(input, target, wrong.any(1), lists, counts, mask, checks)
        listed = listed & ~wrong
        mask, normalizer = counting(
            self.reduction, input.shape[:-1], scores, sample_weight=sample_weight, mask=mask, normalizer=normalizer
        )
        counts = _mask_of_rows(mask, scores)
        if counts is not None:
            # A NaN behind the mask must not reach the gradient as 0 * NaN.
            scores = torch.where(counts.unsqueeze(1), scores, torch.zeros_like(scores))
        index = torch.where(listed, lists.to(torch.int64), 0)
        taken = torch.zeros_like(scores, dtype=torch.int64).scatter_add(1, index, listed.to(torch.int64)) > 0
        longest = _longest(listed)
        index, listed = index[:, :longest], listed[:, :longest]
        pairs = listed.unsqueeze(2) & ~taken.unsqueeze(1)
        difference = scores.gather(1, index).unsqueeze(2) - scores.unsqueeze(1)
        # Where there is no pair, neither inf - inf nor the formula may reach value or gradient.
        difference = torch.where(pairs, difference, torch.zeros_like(difference))
        losses = eager.apply(self.differentiable, [difference])
        values = torch.where(pairs, losses, torch.zeros_like(losses)).sum((1, 2)) / classes
        if weight is not None:
            values = values * weight.to(wide)[index[:, 0]]
        alone = scores.isnan().any(1) & ~pairs.any(2).any(1)  # NaN in gives NaN out, without a pair too
        bad = alone if poison is None else alone | poison
        values = torch.where(bad, eager.nan_where(scores, bad.unsqueeze(1)).sum(1), values)
        if input.ndim == 1:
            values = values.squeeze(0)
        loss = reduce_eagerly(
            values, self.reduction, weight=None, weight_in_mean=False, sample_weight=sample_weight, mask=mask,
            normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def _bad(
        self, input: Tensor, target: Tensor, wrong: Tensor, lists: Tensor, counts: Tensor | None, mask: Tensor | None,
        checks: str,
    ) -> Tensor | None:  # fmt: skip
        """The rows to set to NaN, or the error. An index that is no class is bad in every mode: it has no score."""
        bad = wrong
        if self.many and checks != "off" and input.shape[-1] > 2:
            bad = bad | _looks_like_masks(lists, counts)
        if counts is not None:
            bad = bad & counts
        return bad if checks == "off" else eager.apply_checks(self, bad, [input, target], mask, checks)

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        input, target = operands
        lists = target.reshape(-1, input.shape[-1] if self.many else 1)
        counts = _mask_of_rows(mask, lists)
        step = max(1, search.BLOCK // lists.shape[1])
        for start in range(0, len(lists), step):
            block = slice(start, start + step)  # of whole rows: a list is read from its beginning
            wrong = outside_classes(lists[block], input.shape[-1])
            if self.many:
                wrong = wrong & _listed(lists[block])
            if counts is not None:
                wrong = wrong & counts[block].unsqueeze(1)
            if bool(wrong.any()):
                row, position = (int(i) for i in wrong.nonzero()[0])
                place = (start + row) * lists.shape[1] + position
                return Violation.CLASS_INDEX, place, int(lists[start + row, position])
        return Violation.MASK_GIVEN, 0, 0

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        """shape: the input's; operand: a violation."""
        classes, got = shape[-1], int(value)
        if operand == Violation.MASK_GIVEN:
            return error(
                "parameter", loss=self.name, argument="target",
                expected="the class indices of each row, ended by -1",
                got="rows of 0 and 1 alone, which is a mask: multilabel_soft_margin_loss takes one",
            )  # fmt: skip
        if not self.many:
            alone = " There is one class, and no other to be better than."
            return no_class(self.name, unravel(place, shape[:-1]), got, classes, one_class=alone)
        return error(
            "domain", loss=self.name, argument="target", expected=f"class indices in [0, {classes}), ended by -1",
            got=got, index=unravel(place, shape), hint="",
        )  # fmt: skip


def _listed(lists: Tensor) -> Tensor:
    """Where a list of targets has not ended."""
    return (lists == -1).to(torch.int64).cumsum(1) == 0  # ONNX sums no booleans


def _looks_like_masks(lists: Tensor, counts: Tensor | None) -> Tensor:
    """Whether every row that counts is made of 0 and 1 alone."""
    masks = ((lists == 0) | (lists == 1)).all(1)
    return masks.all() if counts is None else (masks | ~counts).all() & counts.any()


def _mask_of_rows(mask: Tensor | None, scores: Tensor) -> Tensor | None:
    return None if mask is None else mask.reshape(-1).expand(scores.shape[0])


def _longest(listed: Tensor) -> int:
    """How many positions of the lists have to be looked at."""
    whole = listed.shape[1]
    if whole == 1 or hidden(listed) or listed.numel() == 0:
        return whole
    return max(1, int(listed.sum(1).max()))
