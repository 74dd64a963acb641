"""A call of the embeddings family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `embeddings.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.domains import shortest
from losskit.errors import error
from losskit.families.shapes import together
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.sharded import trailing
from losskit.plan import Arguments, Dims, Found, Plan
from losskit.policy import state
from losskit.reduction import both, counting, reduce_eagerly
from losskit.traced import Formula
from losskit.validation import check_extras, check_floating, check_tensor, shape_hint, unlike, unravel


class EmbeddingsPlan(Plan):
    """A loss of embeddings with its parameters fixed."""

    op = "embeddings"

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.p, self.eps = parameters.get("p", 2.0), parameters.get("eps", 0.0)
        self.swap = parameters.get("swap", False)
        family = wire.EMBEDDINGS.family.pack(statistics=formula.operands, swap=self.swap)
        names = loss._call_operands()
        given = wire.EMBEDDINGS.given(map(float, numbers.values()), p=self.p, eps=self.eps)
        super().__init__(loss, reduction, fused.pack(reduction, family=family), names, given)
        self.formula: Formula = formula
        self.embeddings = len(names) - ("target" in names)
        self.differentiable = formula.differentiable(numbers)

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        first = operands[0]
        for name, x in zip(self.names, operands, strict=True):
            check_tensor(self.name, name, x, self.names[0], first)
        rows = list(operands[: self.embeddings])
        for name, x in zip(self.names, rows, strict=False):
            check_floating(self.name, name, x)
            if x.ndim == 0:
                raise error("no_features", loss=self.name, argument=name)
        shape = self._common_shape(rows)
        target = list(operands[self.embeddings :])
        for x in target:
            if x.shape != shape[:-1]:
                if self.strict(state.checks):
                    raise error(
                        "not_one_per_row", loss=self.name, argument="target", expected=tuple(shape[:-1]),
                        got=tuple(x.shape), hint=shape_hint("target", x.shape, shape[:-1]),
                    )  # fmt: skip
                stretched = together(self.name, ["the rows", "target"], [shape[:-1], x.shape])
                shape = torch.Size([*stretched, shape[-1]])
        full, result = dtypes.stretched(rows, shape)
        full += [x if x.shape == shape[:-1] else x.expand(shape[:-1]) for x in target]
        result = result and dtypes.result_dtype([*rows, *target])
        normalizer = check_extras(self, first, shape[:-1], None, (), sample_weight, mask, normalizer)
        return Arguments(full, None, sample_weight, mask, normalizer, result)

    def _common_shape(self, rows: Sequence[Tensor]) -> torch.Size:
        """The shape that the embeddings broadcast to."""
        if not self.strict(state.checks):
            return together(self.name, self.names[: len(rows)], [x.shape for x in rows])
        shape = rows[0].shape
        for name, x in zip(self.names[1:], rows[1:], strict=False):
            pairs = zip(x.shape[:-1], shape[:-1], strict=False)
            if x.ndim != len(shape) or x.shape[-1] != shape[-1] or any(m != n and 1 not in (m, n) for m, n in pairs):
                raise unlike(self.name, name, x.shape, self.names[0], shape)
            if x.shape != shape:
                shape = torch.broadcast_shapes(x.shape, shape)
        return shape

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        rows = arguments.operands[0].ndim - 1
        embeddings: list[Dims] = [(*trailing(x.ndim - 1, rows), None) for x in tensors[: self.embeddings]]
        return embeddings + [trailing(x.ndim, rows) for x in tensors[self.embeddings : -1]] + [()]

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        operands, _, sample_weight, mask, normalizer, result = arguments
        dtype, wide = result or dtypes.result_dtype(operands), dtypes.compute_dtype(operands)
        rows = [x.to(wide) for x in operands[: self.embeddings]]
        target = [x.to(wide) for x in operands[self.embeddings :]]
        bad = self._bad(operands, target, mask, checks)
        mask, normalizer = counting(
            self.reduction, rows[0].shape[:-1], rows[0], sample_weight=sample_weight, mask=mask, normalizer=normalizer
        )
        if mask is not None:  # a NaN behind the mask must not reach the gradient as 0 * NaN
            rows = [torch.where(mask.unsqueeze(-1) if mask.ndim else mask, x, 0.0) for x in rows]
            target = [torch.where(mask, x, self.formula.declared["target"].domain.typical) for x in target]
        statistics = self._statistics(rows)
        if target:
            statistics["target"] = target[0]
        values = eager.apply(self.differentiable, [statistics[name] for name in self.formula.operands])
        loss = reduce_eagerly(
            eager.nan_where(values, bad), self.reduction, weight=None, weight_in_mean=False,
            sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def _statistics(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the formula speaks of, by name."""
        wanted = self.formula.operands
        if "cosine" in wanted or "cosine_distance" in wanted:
            cosine, apart = _cosine(rows[0], rows[1])
            return {"cosine": cosine, "cosine_distance": apart}
        positive, size = _distance(rows[0], rows[1], self.p, self.eps)
        if "negative_distance" not in wanted:
            return {"distance": positive, "positive_distance": positive}
        negative, other_size = _distance(rows[0], rows[2], self.p, self.eps)
        if self.swap:
            swapped, swapped_size = _distance(rows[1], rows[2], self.p, self.eps)
            negative, other_size = torch.minimum(negative, swapped), torch.minimum(other_size, swapped_size)
        # If both overflow, only their order can be decided: the larger stays infinite, the smaller becomes 0.
        both = (
            (positive == float("inf")) & (negative == float("inf")) & (torch.maximum(size, other_size) < float("inf"))
        )
        positive = torch.where(both & (size <= other_size), 0.0, positive)
        negative = torch.where(both & (other_size <= size), 0.0, negative)
        return {"positive_distance": positive, "negative_distance": negative}

    def _bad(
        self, operands: Sequence[Tensor], target: Sequence[Tensor], mask: Tensor | None, checks: str
    ) -> Tensor | None:
        if checks == "off" or not target or self.formula.declared["target"].domain.everything:
            return None
        bad = self.formula.declared["target"].domain.outside(target[0].detach())
        return eager.apply_checks(self, both(bad, mask), operands, mask, checks)

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        target = operands[-1].detach()
        domain = self.formula.declared["target"].domain
        counts = torch.ones((), dtype=torch.bool) if mask is None else mask
        target, counts = torch.broadcast_tensors(target, counts)
        index = search.first(lambda x, kept: domain.outside(x) & kept, [target, counts])
        assert index is not None
        return 1, search.place(index, target.shape), target[index].item()

    def shapes(self, operands: Sequence[Tensor]) -> tuple[int, ...]:
        return tuple(operands[0].shape[:-1])

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        return self._outside(value, unravel(place, shape))

    def _outside(self, value: float, index: tuple[int, ...]) -> Exception:
        declared = self.formula.declared["target"]  # no other operand has a domain
        return error(
            "domain", loss=self.name, argument="target", expected=declared.domain.description, got=shortest(value),
            index=index, hint=f" {declared.hint}" if declared.hint else "",
        )  # fmt: skip


def _largest(x: Tensor) -> Tensor:
    """The divisor of each row: its largest magnitude, or 1 if that is 0 or not finite."""
    if x.shape[-1] == 0:
        return x.new_ones(*x.shape[:-1], 1)
    most = x.detach().abs().amax(-1, keepdim=True)
    return torch.where((most > 0) & (most < float("inf")), most, 1.0)


def _cosine(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine of rows, and 1 minus it."""
    x, y = x / _largest(x), y / _largest(y)
    zero = ((x * x).sum(-1) == 0) | ((y * y).sum(-1) == 0)
    x, y = (torch.where(zero.unsqueeze(-1), 1.0, z) for z in (x, y))  # replaced below, but differentiated
    x, y = (z / (z * z).sum(-1, keepdim=True).sqrt() for z in (x, y))
    cosine = (x * y).sum(-1)
    cosine = torch.where(zero, 0.0, cosine + (cosine.clamp(-1.0, 1.0) - cosine).detach())
    apart = x - y
    return cosine, torch.where(cosine > 0, 0.5 * (apart * apart).sum(-1), 1.0 - cosine)


def _distance(x: Tensor, y: Tensor, p: float, eps: float) -> tuple[Tensor, Tensor]:
    """The p-norm of x - y + eps, and where that may overflow its logarithm."""
    d = (x - y) + eps
    a = d.abs()
    endless = torch.full_like(d.detach().sum(-1), float("inf"))
    if d.shape[-1] == 0:
        return d.sum(-1), endless
    if p == 0.0:
        return torch.where(a > 0, 1.0, a).sum(-1), endless
    if p == 1.0:
        return a.sum(-1), endless
    if p == float("inf"):
        return a.amax(-1), endless
    most = _largest(d)
    t = a / most
    power = t * t if p == 2.0 else torch.where(t == 0, 0.0, torch.where(t == 0, 1.0, t) ** p)
    total = power.sum(-1)
    zero = total == 0
    total = torch.where(zero, 1.0, total)
    root = total.sqrt() if p == 2.0 else total ** (1.0 / p)
    size = most.squeeze(-1).log() + total.detach().log() / p
    finite = (total < float("inf")) & (size == size)
    return torch.where(zero, 0.0, most.squeeze(-1) * root), torch.where(finite, size, float("inf"))
