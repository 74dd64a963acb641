"""A call of an ordered loss of the errors of pixels: the plans of the Lovász losses, one of signs and one of classes.

A set of pixels is an image or the whole batch; the errors of a set are sorted, and each weighs what it adds to the
Jaccard loss of the set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.errors import error
from losskit.families import ordered_scans as scans
from losskit.families.ordered_plan import OrderedPlan, first_class
from losskit.kernels import eager
from losskit.plan import Arguments, Dims, Found
from losskit.reduction import both
from losskit.validation import outside_classes, shape_hint


class SignsPlan(OrderedPlan):
    """Scores of pixels that are in the set or not: the error is 1 less the score, with the sign of the label."""

    def _settle(self, loss: Any, parameters: dict[str, Any]) -> None:
        self.whole = not parameters["per_image"]

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        return () if self.whole or operands[0].ndim == 1 else operands[0].shape[:1]

    def _flat(self, x: Tensor) -> Tensor:
        """The pixels of each set along the last dimension."""
        return x.reshape(-1) if self.whole or x.ndim == 1 else x.flatten(1) if x.ndim > 1 else x

    def _spoilt(self, input: Tensor, shape: Sequence[int]) -> Tensor:
        return self._flat(input.to(self.wide(input))).sum(-1)

    def many(self, operands: Sequence[Tensor]) -> Tensor:
        counts = self._counts(operands, None)
        if counts is None:
            some = operands[0][:1].numel() > 0
            return torch.full(tuple(self.unreduced_shape(operands)), int(some), device=operands[0].device)
        return self._flat(counts).any(-1).to(torch.int64)

    def rows(self, operands: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        input, target = (self._flat(x) for x in operands[:2])
        counts = self._counts(operands, mask)
        counts = None if counts is None else self._flat(counts)
        labels = target != 0
        x = input.to(self.wide(input))
        x = eager.nan_where(x, both(target.isnan(), counts)) if target.is_floating_point() else x
        if counts is not None:
            x = torch.where(counts, x, 0.0)
        right = torch.where(labels, x, -x)  # the score, with the sign of the label; the errors are in its order
        order = scans.order_of(right.detach(), False, counts)
        kept = None if counts is None else counts.gather(-1, order)
        steps = scans.jaccard_steps(labels.gather(-1, order), kept, x.dtype)
        by_name = {"error": 1.0 - right.gather(-1, order), "step": steps.detach()}
        losses = eager.apply(self.differentiable, [by_name[name] for name in self.formula_operands])
        return losses.sum(-1) if kept is None else torch.where(kept, losses, 0.0).sum(-1)

    def outside(self, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
        if checks == "off":
            return None
        return self._flat(self._labels_outside(operands, operands[1], mask)).any(-1)

    def spread(self, upstream: Tensor, ndim: int) -> Tensor:
        return upstream.reshape(*upstream.shape, *[1] * (ndim - upstream.ndim))

    @property
    def formula_operands(self) -> list[str]:
        return [] if self.formula is None else self.formula.operands


class PixelsPlan(SignsPlan):
    """Scores of classes of pixels: errors are how far probabilities are from 1 or 0, as the label says."""

    class_dim = 1

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        super().__init__(loss, reduction, parameters)
        if reduction == "none":  # the losses of all classes go through one softmax: a pixel has as many gradients
            self.gradients = 0

    def _settle(self, loss: Any, parameters: dict[str, Any]) -> None:
        super()._settle(loss, parameters)
        self.present, self.ignored = parameters["classes"] == "present", parameters["ignore_index"]

    def _matched(self, input: Tensor, others: Sequence[Tensor]) -> list[Tensor]:
        target = others[0]
        if input.ndim < 2:
            raise self._wrong("input", "of shape (N, C, ...)", f"shape {tuple(input.shape)}")
        if input.shape[1] == 0:
            raise error("no_classes", loss=self.name, got=tuple(input.shape))
        rows = (*input.shape[:1], *input.shape[2:])
        if target.dtype not in dtypes.INTEGERS or target.shape != rows:
            hint = (
                shape_hint("target", target.shape, rows) if target.dtype in dtypes.INTEGERS else " Use target.long()."
            )
            hint = " Use target.argmax(1)." if target.shape == input.shape else hint
            raise error(
                "class_indices", loss=self.name, rows=rows, input=tuple(input.shape), dtype=target.dtype,
                got=tuple(target.shape), hint=hint,
            )  # fmt: skip
        return [target]

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        return operands[0].shape[1:2] if self.whole else operands[0].shape[:2]

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        first: Dims = (None,) if self.whole else (0,)
        return [first + (None,) * (x.ndim - 1) for x in tensors if isinstance(x, Tensor)]

    def _sets(self, x: Tensor) -> Tensor:
        """What each pixel has, one set after another."""
        return x.reshape(1, -1) if self.whole else x.flatten(1)

    def _labels(self, operands: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """For each set and pixel, whether it counts, and its class, -1 for one that does not."""
        target = self._sets(operands[1].to(torch.int64))
        kept = target != self.ignored
        return kept, torch.where(kept, target, -1)

    def many(self, operands: Sequence[Tensor]) -> Tensor:
        kept, labels = self._labels(operands)
        classes = torch.arange(operands[0].shape[1], device=labels.device)
        found = (labels.unsqueeze(1) == classes.unsqueeze(1)).any(-1) if self.present else kept.any(-1, keepdim=True)
        found = found.expand(found.shape[0], operands[0].shape[1]).to(torch.int64)
        return found[0] if self.whole else found

    def rows(self, operands: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        input = operands[0]
        kept, labels = self._labels(operands)
        sets, classes = labels.shape[0], input.shape[1]
        if mask is not None:  # pixels of sets of which no class counts are never read
            some = mask.expand(tuple(self.unreduced_shape(operands)))
            kept = kept & (some.any(-1).reshape(-1, 1))
        x = input.to(self.wide(input)).transpose(0, 1) if self.whole else input.to(self.wide(input))
        x = x.reshape(1, classes, -1) if self.whole else x.flatten(2)
        x = torch.where(kept.unsqueeze(1), x, 0.0)
        there = labels.unsqueeze(1) == torch.arange(classes, device=x.device).unsqueeze(1)
        p = x.softmax(1)
        # Of a class that is there, what misses to 1 is the sum of the others, which keeps its digits.
        missing = torch.where(there, 0.0, p).sum(1, keepdim=True)
        errors = torch.where(there, missing, p)
        counts = kept.unsqueeze(1).expand(sets, classes, x.shape[-1])
        order = scans.order_of(errors.detach(), True, counts)
        counts = counts.gather(-1, order)
        steps = scans.jaccard_steps(there.gather(-1, order), counts, x.dtype)
        by_name = {"error": errors.gather(-1, order), "step": steps.detach()}
        losses = eager.apply(self.differentiable, [by_name[name] for name in self.formula_operands])
        found = torch.where(counts, losses, 0.0).sum(-1)
        return found[0] if self.whole else found

    def outside(self, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
        """An index that is no class is bad in every mode: of all classes of its set."""
        wrong = self._sets(self._wrong_classes(operands)).any(-1, keepdim=True)
        wrong = wrong.expand(wrong.shape[0], operands[0].shape[1])
        wrong = wrong[0] if self.whole else wrong
        return both(wrong, mask)

    def _wrong_classes(self, operands: Sequence[Tensor]) -> Tensor:
        input, target = operands
        return outside_classes(target, input.shape[1], self.ignored)

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        wrong = self._wrong_classes(operands)
        if mask is not None and not self.whole:
            some = mask.expand(tuple(self.unreduced_shape(operands))).any(1)
            wrong = wrong & some.reshape(-1, *[1] * (wrong.ndim - 1))
        return first_class(operands[1], wrong)

    def _spoilt(self, input: Tensor, shape: Sequence[int]) -> Tensor:
        x = input.to(self.wide(input))
        return x.transpose(0, 1).flatten(1).sum(-1) if self.whole else x.flatten(2).sum(-1)

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        kept = arguments.operands[1].to(torch.int64) != self.ignored
        return [kept.unsqueeze(1), None]
