"""A call of the lists family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `lists.py`. The eager formula compares all items of a list with each
other, K x K numbers a list; the kernels keep none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.domains import nonnegative, shortest
from losskit.errors import error
from losskit.graph import topological
from losskit.kernels import eager, fused, search, wire
from losskit.plan import Arguments, Dims, Found, Plan
from losskit.reduction import both, counting, reduce_eagerly
from losskit.traced import Formula
from losskit.validation import check_extras, check_floating, check_tensor, unlike, unravel


class ListsPlan(Plan):
    """A loss of the pairs of lists with its parameters fixed."""

    op = "lists"
    gradients = 1
    telling = 1
    constants = 0b110  # the relevance and the mask choose and weigh pairs

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.k = parameters.get("k")
        self.averaged = loss.pairs == "mean"
        used = {node.value for node in topological([formula.value, *formula.guarded]) if node.op == "variable"}
        self.spoken = [name if name in used else "difference" for name in formula.operands]  # of no use, but there
        family = wire.LISTS.family.pack(statistics=self.spoken, averaged=self.averaged)
        given = wire.LISTS.given(map(float, numbers.values()), k=float(self.k or 0))
        names = loss._call_operands()
        names = [name for name in names if parameters.get(name, True)]  # an optional one that is not there is False
        super().__init__(loss, reduction, fused.pack(reduction, family=family), names, given)
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
        input, target, *items = operands
        for name, x in zip(self.names, operands, strict=True):
            check_tensor(self.name, name, x, "input", input)
        check_floating(self.name, "input", input, target, "scores")
        check_lists(self.name, input, target, items, mask)
        normalizer = check_extras(self, input, input.shape[:-1], None, (), sample_weight, mask, normalizer)
        return Arguments([input, target, *items], None, sample_weight, mask, normalizer)

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        of_items: Dims = (0, None)[-arguments.operands[0].ndim :]
        return [*(of_items for _ in tensors[:-1]), ()]

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        (_, _, *items), mask = arguments.operands, arguments.mask
        of_rows = None if mask is None else mask.unsqueeze(-1) if mask.ndim else mask
        counts = both(items[0] if items else None, of_rows)
        return [counts, counts, *(None for _ in items)]

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        _, target, *items = arguments.operands
        kept = has_pair(target, items[0] if items else None)
        return [], both(kept, arguments.mask)

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        operands, _, sample_weight, mask, normalizer, _ = arguments
        input, target, *items = operands
        dtype, wide = dtypes.result_dtype([input]), dtypes.compute_dtype([input])
        bad = self._bad(operands, mask, checks)
        kept = has_pair(target, items[0] if items else None)
        if bad is not None:
            kept = kept | bad
        mask = both(kept, mask)
        counts, normalizer = counting(
            self.reduction, input.shape[:-1], input.to(wide), sample_weight=sample_weight, mask=mask,
            normalizer=normalizer,
        )  # fmt: skip
        assert counts is not None
        there = counts.unsqueeze(-1).expand(input.shape)
        there = there & items[0] if items else there
        # A NaN behind a mask must not reach the gradient as 0 * NaN.
        scores = torch.where(there, input.to(wide), 0.0)
        values = self._values(scores, _relevance(target, there), there)
        wrong = (scores.isnan() | (target.isnan() & there)).any(-1)  # NaN in gives NaN out
        wrong = wrong if bad is None else wrong | bad
        values = torch.where(wrong, eager.nan_where(scores, wrong.unsqueeze(-1)).sum(-1), values)
        loss = reduce_eagerly(
            values, self.reduction, weight=None, weight_in_mean=False, sample_weight=sample_weight, mask=mask,
            normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def _values(self, scores: Tensor, relevance: Tensor, there: Tensor) -> Tensor:
        """The loss of each list."""
        if scores.shape[-1] == 0:
            return scores.sum(-1)
        pairs = (relevance.unsqueeze(-1) > relevance.unsqueeze(-2)) & there.unsqueeze(-1) & there.unsqueeze(-2)
        ranks = ranked(scores.detach(), there)
        if self.k is not None:
            top = ranks <= self.k
            pairs = pairs & top.unsqueeze(-1) & top.unsqueeze(-2)
        known = self._statistics(scores, relevance, ranks, there)
        # Where there is no pair, neither inf - inf nor the formula may reach value or gradient.
        taken = [torch.where(pairs, known[name].to(scores.dtype), 1.0) for name in self.spoken]
        losses = eager.apply(self.differentiable, taken)
        total = torch.where(pairs, losses, 0.0).sum((-2, -1))
        if not self.averaged:
            return total
        return total / pairs.to(scores.dtype).sum((-2, -1)).clamp(min=1.0)

    def _statistics(self, scores: Tensor, relevance: Tensor, ranks: Tensor, there: Tensor) -> dict[str, Tensor]:
        """What the formula speaks of, by name: of item i and item j in row i and column j."""
        wanted = self.spoken
        found = {"difference": scores.unsqueeze(-1) - scores.unsqueeze(-2)}
        found["relevance_difference"] = relevance.unsqueeze(-1) - relevance.unsqueeze(-2)
        wide = ranks.to(relevance.dtype)
        found["rank"], found["other_rank"] = wide.unsqueeze(-1).expand_as(found["difference"]), wide.unsqueeze(-2)
        if "gain_difference" in wanted:
            gains = _gains(relevance, there, self.k)
            found["gain_difference"] = gains.unsqueeze(-1) - gains.unsqueeze(-2)
        if "discount_difference" in wanted:
            each = _discount(wide)
            found["discount_difference"] = (each.unsqueeze(-1) - each.unsqueeze(-2)).abs()
        if "distance_discount" in wanted:
            distance = (wide.unsqueeze(-1) - wide.unsqueeze(-2)).abs().clamp(min=1.0)
            found["distance_discount"] = _discount(distance) - _discount(distance + 1.0)
        return found

    def _bad(self, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
        """The lists with a relevance outside its domain."""
        if checks == "off":
            return None
        _, target, *items = operands
        outside = nonnegative.outside(target.detach())
        bad = (outside & items[0] if items else outside).any(-1)
        return eager.apply_checks(self, both(bad, mask), operands, mask, checks)

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        _, target, *items = operands
        counts = torch.ones((), dtype=torch.bool) if mask is None else mask.unsqueeze(-1) if mask.ndim else mask
        counts = counts & items[0] if items else counts
        index = search.first(lambda x, kept: nonnegative.outside(x) & kept, [target.detach(), counts.expand_as(target)])
        assert index is not None
        return 2, search.place(index, target.shape), target[index].item()

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        """shape: the input's."""
        declared = self.loss.operands["target"]
        return error(
            "domain", loss=self.name, argument="target", expected=declared.domain.description, got=shortest(value),
            index=unravel(place, shape), hint=f" {declared.hint}",
        )  # fmt: skip


def check_lists(loss: str, input: Tensor, target: Tensor, items: Sequence[Tensor], mask: Any) -> None:
    """Refuse what is no lists of items with a relevance each, and a mask of items in the place of a mask of lists."""
    if input.ndim not in (1, 2):
        expected, got = "of shape (N, K) or (K,)", f"shape {tuple(input.shape)}"
        raise error("parameter", loss=loss, argument="input", expected=expected, got=got)
    for name, x in (("target", target), *(("element_mask", x) for x in items)):
        if x.shape != input.shape:
            raise unlike(loss, name, x.shape, "input", input.shape)
    for x in items:
        if x.dtype != torch.bool:
            raise error(
                "parameter_type", loss=loss, argument="element_mask", expected="boolean (True = counts)", got=x.dtype,
                hint=" Use element_mask.bool().",
            )  # fmt: skip
    if isinstance(mask, Tensor) and mask.shape == input.shape != input.shape[-1:] and input.shape[0] != 1:
        raise error(
            "not_broadcastable", loss=loss, argument="mask", got=tuple(mask.shape), expected=tuple(input.shape[:-1]),
            hint=" Lists have a mask; items have element_mask.",
        )  # fmt: skip


def has_pair(target: Tensor, items: Tensor | None) -> Tensor:
    """Which lists have items of different relevance, or a NaN that may be one."""
    if target.shape[-1] == 0:
        return target.new_zeros(target.shape[:-1], dtype=torch.bool)
    target = target.detach()
    # Compared with the first item that counts: a minimum and a maximum of integers would need their bounds.
    first = torch.zeros_like(target[..., :1], dtype=torch.int64)
    first = first if items is None else items.to(torch.int64).argmax(-1, keepdim=True)
    differs = target != target.gather(-1, first)  # NaN does from itself
    return both(differs, items).any(-1)


def ranked(scores: Tensor, there: Tensor) -> Tensor:
    """The rank of each item that counts, from 1 on: by score, and of equal scores by place."""
    one, other = scores.unsqueeze(-1), scores.unsqueeze(-2)
    place = torch.arange(scores.shape[-1], device=scores.device)
    before = (other > one) | ((other == one) & (place < place.unsqueeze(-1)))
    return (before & there.unsqueeze(-2)).to(torch.int64).sum(-1) + 1


def _relevance(target: Tensor, there: Tensor) -> Tensor:
    """In float64, where the device has it: differences of gains and discounts cancel."""
    wide = torch.float32 if target.device.type == "mps" else torch.float64
    return torch.where(there, target.detach().to(wide), 0.0)


def _discount(rank: Tensor) -> Tensor:
    return 1.0 / torch.log2(1.0 + rank)


def _gains(relevance: Tensor, there: Tensor, k: int | None) -> Tensor:
    """The gains by the largest DCG. All are times a power of two, so that 2^relevance may overflow."""
    most = relevance.amax(-1, keepdim=True)
    # 1 - 2^-relevance with all its digits, in operators that ONNX has.
    rest = torch.tanh(0.34657359027997264 * relevance) * (1.0 + torch.pow(2.0, -relevance))
    gains = torch.pow(2.0, relevance - most) * rest
    places = ranked(relevance, there)
    discounted = gains * _discount(places.to(gains.dtype))
    largest = torch.where(there if k is None else there & (places <= k), discounted, 0.0).sum(-1, keepdim=True)
    return gains / torch.where(largest > 0, largest, 1.0)
