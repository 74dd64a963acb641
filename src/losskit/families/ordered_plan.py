"""A call of the ordered family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `ordered.py`. There are three kinds of rows, each with a plan: lists
of scores in the order of another operand, ordered classes, and (`ordered_errors.py`) the errors of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.domains import probability, shortest, slack_of
from losskit.errors import error
from losskit.families import ordered_scans as scans
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.wire import OrderedViolation as Violation
from losskit.plan import Arguments, Dims, Found, Plan
from losskit.reduction import both, counting, denominator, reduce_eagerly
from losskit.validation import (
    check_extras,
    check_floating,
    check_stretches,
    check_tensor,
    no_class,
    outside_classes,
    unlike,
    unravel,
)


class OrderedPlan(Plan):
    """A loss of ordered rows with its parameters fixed. The kinds of rows derive from it."""

    op = "ordered"
    gradients = 1
    telling = 1
    efron = whole = False
    descending = True
    ignored = -100

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.masks = parameters.get("element_mask", False)
        names = [name for name in loss._call_operands() if name != "element_mask" or self.masks]
        self._settle(loss, parameters)
        family = wire.ORDERED.family.pack(
            statistics=formula.operands, descending=self.descending, events="event" in names,
            tied=loss.at_ties == "end of tie", efron=self.efron, classes=loss.units == "classes", whole=self.whole,
            masks=self.masks, absent=parameters.get("classes") == "all",
        )  # fmt: skip
        given = wire.ORDERED.given(numbers.values(), ignore_index=float(self.ignored))
        super().__init__(loss, reduction, fused.pack(reduction, family=family), names, given)
        self.formula = formula
        self.differentiable = formula.differentiable(numbers)

    def _settle(self, loss: Any, parameters: dict[str, Any]) -> None:
        """What the parameters of the family say."""

    # -- validation ---------------------------------------------------------------------------------------

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        input, *others = operands
        check_tensor(self.name, "input", input, "input", input)
        for name, x in zip(self.names[1:], others, strict=True):
            check_tensor(self.name, name, x, "input", input)
        check_floating(self.name, "input", input, others[0], "scores")
        if input.ndim == 0:
            raise self._wrong("input", "of shape (..., K): rows along the last dimension", "a scalar")
        kept = [input, *self._matched(input, others[: len(others) - self.masks])]
        if self.masks:
            kept.append(self._element_mask(others[-1], input))
        normalizer = check_extras(
            self, input, self.unreduced_shape(kept), None, (), sample_weight, mask, normalizer
        )  # fmt: skip
        return Arguments(kept, None, sample_weight, mask, normalizer)

    def _matched(self, input: Tensor, others: Sequence[Tensor]) -> list[Tensor]:
        """The operands after the input, without a mask of elements, of shapes and dtypes that belong to it."""
        return [self._alike(name, x, input) for name, x in zip(self.names[1:], others, strict=False)]

    def _alike(self, name: str, x: Tensor, input: Tensor) -> Tensor:
        """An operand of the shape of the input."""
        if x.shape != input.shape:
            raise unlike(self.name, name, x.shape, "input", input.shape)
        return x

    def _element_mask(self, x: Tensor, input: Tensor) -> Tensor:
        if x.dtype != torch.bool:
            expected = "boolean (True = counts)"
            raise error("parameter_type", loss=self.name, argument="element_mask", expected=expected, got=x.dtype)
        check_stretches(self.name, "element_mask", x, input.shape)
        return x if x.shape == input.shape else x.expand(input.shape)  # the same tensor: a GPU repeats the call

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        shape = self.unreduced_shape(arguments.operands)
        return [tuple(d if d < len(shape) else None for d in range(x.ndim)) for x in tensors if isinstance(x, Tensor)]

    # -- the loss in torch operations ---------------------------------------------------------------------

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        operands, _, sample_weight, mask, normalizer, _ = arguments
        input, shape = operands[0], self.unreduced_shape(operands)
        dtype = dtypes.result_dtype(operands[: self.telling])
        bad = self._bad(operands, mask, checks)
        many = self.many(operands)
        like = torch.empty((), dtype=self.wide(input), device=input.device)
        there = many > 0
        mask = both(mask, there)
        if self.reduction == "mean" and normalizer is None and self.loss.units == "events":
            normalizer = denominator(shape, like, weight=many, sample_weight=sample_weight, mask=mask)
        mask, normalizer = counting(
            self.reduction, shape, like, sample_weight=sample_weight, mask=mask, normalizer=normalizer
        )
        values = self.rows(operands, mask)
        if bad is not None:
            values = torch.where(bad, eager.nan_where(self._spoilt(input, shape), bad), values)
        result = reduce_eagerly(
            values, self.reduction, weight=None, weight_in_mean=False, sample_weight=sample_weight, mask=mask,
            normalizer=normalizer,
        )  # fmt: skip
        return result.to(dtypes.autocast(dtype, result.device))

    def wide(self, input: Tensor) -> torch.dtype:
        """What rows are computed in: running sums lose the digits of float32."""
        return torch.float32 if input.device.type == "mps" else torch.float64

    def rows(self, operands: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """The unreduced losses; mask: those that count."""
        raise NotImplementedError

    def many(self, operands: Sequence[Tensor]) -> Tensor:
        """How much of each unreduced loss there is: events of a list, else 1; 0 where it cannot have a loss."""
        raise NotImplementedError

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        many, mask = self.many(arguments.operands), arguments.mask
        there = many > 0
        return [many] if self.loss.units == "events" else [], both(mask, there)

    def _spoilt(self, input: Tensor, shape: Sequence[int]) -> Tensor:
        """A number of each unreduced loss through which NaN reaches the gradient of all that belongs to it."""
        return input.to(self.wide(input)).sum(-1)

    def _bad(self, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
        """The unreduced losses to set to NaN, or the error."""
        bad = self.outside(operands, mask, checks)
        return bad if checks == "off" or bad is None else eager.apply_checks(self, bad, operands, mask, checks)

    def outside(self, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
        """Which unreduced losses that count have a bad value; with checks off, one that has no loss."""
        return None

    def _labels_outside(self, operands: Sequence[Tensor], labels: Tensor, mask: Tensor | None) -> Tensor:
        """Where a label that counts is neither 0 nor 1. NaN is let through."""
        wrong = (labels != 0) & (labels != 1) & (labels == labels)
        counts = self._counts(operands, mask)
        return both(wrong, counts)

    def _counts(self, operands: Sequence[Tensor], mask: Tensor | None) -> Tensor | None:
        """Which elements count."""
        own = operands[-1] if self.masks else None
        if mask is None:
            return own
        shape = self.unreduced_shape(operands)
        of_rows = mask.expand(shape).reshape(*shape, *[1] * (operands[0].ndim - len(shape)))
        return both(own, of_rows.expand(operands[0].shape))

    # -- refusals -----------------------------------------------------------------------------------------

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        counts = self._counts(arguments.operands, arguments.mask)
        return [counts for _ in arguments.operands]

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        """As in the base class; `shape` is that of the input, and places are those of the last operand checked."""
        name = "event" if "event" in self.names else "target"
        if operand == Violation.LABEL:
            hint = f" Use ({name} + 1) / 2." if value == -1 else ""
            return error("domain", loss=self.name, argument=name, expected="0 or 1", got=shortest(value),
                         index=unravel(place, shape), hint=hint)  # fmt: skip
        if operand == Violation.PROBABILITY:
            return error("domain", loss=self.name, argument=name, expected=probability.description,
                         got=shortest(value), index=unravel(place, shape), hint="")  # fmt: skip
        dim = self.class_dim
        index = unravel(place, (*shape[:dim], *shape[dim:][1:]))
        skips = "pixels" if self.loss.units == "classes" else ""
        return no_class(self.name, index, int(value), shape[dim], skips=skips)

    class_dim = -1

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        labels = operands[self.names.index("event" if "event" in self.names else "target")]
        wrong = self._labels_outside(operands, labels, mask)
        index = search.first(lambda x: x, [wrong])
        assert index is not None
        return Violation.LABEL, search.place(index, wrong.shape), float(labels[index])


class ListsPlan(OrderedPlan):
    """Scores in the order of another operand: of each, its share in the exponentials of those from it on."""

    def _settle(self, loss: Any, parameters: dict[str, Any]) -> None:
        self.efron = parameters.get("ties") == "efron"
        self.descending = loss.descending

    def many(self, operands: Sequence[Tensor]) -> Tensor:
        input, counts = operands[0], self._counts(operands, None)
        if "event" in self.names:
            return both(operands[2] != 0, counts).sum(-1)
        if counts is None:
            return torch.full(input.shape[:-1], int(input.shape[-1] > 1), device=input.device)
        return (counts.sum(-1) > 1).to(torch.int64)

    def rows(self, operands: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        input, key = operands[0], operands[1].detach()
        counts = self._counts(operands, mask)
        x = input.to(self.wide(input))
        unknown = key.isnan() if key.is_floating_point() else torch.zeros_like(key, dtype=torch.bool)
        events = None
        if "event" in self.names:
            unknown = unknown | operands[2].isnan()
            events = operands[2] != 0
        if counts is not None:
            x, unknown = torch.where(counts, x, 0.0), unknown & counts
        order = scans.order_of(key, self.descending, counts)
        x = eager.nan_where(x, unknown).gather(-1, order)
        counts = None if counts is None else counts.gather(-1, order)
        events = None if events is None else events.gather(-1, order)
        tied = key.gather(-1, order) if self.loss.at_ties == "end of tie" else None
        shares = scans.log_shares(x, tied, events, counts, self.efron)
        losses = eager.apply(self.differentiable, [shares])
        for kept in (counts, events):
            losses = losses if kept is None else torch.where(kept, losses, 0.0)
        alone = torch.where(x.isnan(), x, 0.0)  # NaN in gives NaN out, where an element has no loss of its own, too
        return losses.sum(-1) + alone.sum(-1)

    def outside(self, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
        if "event" not in self.names or checks == "off":
            return None
        return self._labels_outside(operands, operands[2], mask).any(-1)

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        return operands[0].shape[:-1]


class ClassesPlan(OrderedPlan):
    """Ordered classes: the running sums of their probabilities less those of the target."""

    telling = 2

    def _matched(self, input: Tensor, others: Sequence[Tensor]) -> list[Tensor]:
        target = others[0]
        if input.shape[-1] == 0:
            raise error("no_classes", loss=self.name, got=tuple(input.shape))
        rows = input.shape[:-1]
        if target.dtype in dtypes.INTEGERS and target.shape == rows:
            return [target]
        if target.is_floating_point() and target.shape == input.shape:
            return [target]
        hint = " Use target.float()." if target.shape == input.shape else ""
        hint = " Use target.long()." if target.shape == rows else hint
        raise error(
            "class_probabilities", loss=self.name, rows=tuple(rows), input=tuple(input.shape), dtype=target.dtype,
            got=tuple(target.shape), hint=hint,
        )  # fmt: skip

    def many(self, operands: Sequence[Tensor]) -> Tensor:
        return torch.ones(operands[0].shape[:-1], dtype=torch.int64, device=operands[0].device)

    def rows(self, operands: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        input, target = operands
        x = input.to(self.wide(input))
        soft = target.is_floating_point()
        t = target.to(x.dtype) if soft else target.to(torch.int64).clamp(0, input.shape[-1] - 1)
        if mask is not None:
            kept = mask.expand(input.shape[:-1])
            x = torch.where(kept.unsqueeze(-1), x, 0.0)
            t = torch.where(kept.unsqueeze(-1), t, 0.0) if soft else torch.where(kept, t, 0)
        return eager.apply(self.differentiable, [scans.cumulated(x, t)]).sum(-1)

    def outside(self, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
        input, target = operands
        if target.is_floating_point():
            if checks == "off":
                return None
            wrong = probability.outside(target.detach(), slack_of(target.dtype)).any(-1)
        else:
            wrong = outside_classes(target, input.shape[-1])
        return both(wrong, mask)

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        return operands[0].shape[:-1]

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        return Plan.counting(self, arguments)

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        input, target = operands
        rows = torch.ones((), dtype=torch.bool) if mask is None else mask
        rows = rows.expand(input.shape[:-1])
        if target.is_floating_point():
            wrong = probability.outside(target, slack_of(target.dtype)) & rows.unsqueeze(-1)
            index = search.first(lambda x: x, [wrong])
            assert index is not None
            return Violation.PROBABILITY, search.place(index, wrong.shape), float(target[index])
        return first_class(target, outside_classes(target, input.shape[-1]) & rows)


def first_class(target: Tensor, wrong: Tensor) -> Found:
    index = search.first(lambda x: x, [wrong])
    assert index is not None
    return Violation.CLASS_INDEX, search.place(index, wrong.shape), int(target[index])
