"""A call of the pointwise family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `pointwise.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from numbers import Real
from typing import Any, NoReturn

import torch
from torch import Tensor

from losskit import dtypes
from losskit.domains import Domain, probability, shortest, signs, slack_of
from losskit.errors import error
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.sharded import trailing
from losskit.plan import Arguments, Dims, Found, Kernel, Plan
from losskit.policy import state
from losskit.reduction import counting, mean_of_rows, reduce_eagerly
from losskit.spaces import like_sigmoids
from losskit.traced import Formula
from losskit.validation import broadcasts, check_extras, check_floating, check_tensor, shape_hint, swapped_hint, unravel


class PointwisePlan(Plan):
    """A pointwise loss with its parameters fixed."""

    op = "pointwise"

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.batchmean = reduction == "batchmean"
        reduction = "mean" if self.batchmean else reduction
        broadcast = sum(1 << i for i, name in enumerate(formula.operands) if name in loss.params)
        scores = sum(1 << i for i, declared in enumerate(formula.declared.values()) if declared.kind == "logit")
        advised = sum(1 << i for i, bit in enumerate(formula.advised) if bit)
        family = wire.POINTWISE.family.pack(advised=advised, scores=scores)
        code = fused.pack(
            reduction, weight_in_mean=loss.weight_in_mean, rows=loss.rows, broadcast=broadcast, family=family
        )  # fmt: skip
        super().__init__(loss, reduction, code, formula.operands, wire.POINTWISE.given(numbers.values()))
        self.formula: Formula = formula
        self.differentiable = formula.differentiable(numbers)
        self.domains = formula.required
        self.settles = any(domain.settles for domain in formula.required)
        self.checked = [(i, domain) for i, domain in enumerate(formula.required) if not domain.everything]
        self.rows = loss.rows
        self.weight_in_mean = loss.weight_in_mean
        # Raw arguments that need work first cannot go to the kernel.
        self.direct = not (self.batchmean or (self.rows and self.reduction == "none"))

    def elementwise(self) -> PointwisePlan:
        """The same formula without the mean over rows."""
        plan = copy.copy(self)
        plan.rows = False
        return plan

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
            declared = self.formula.declared[name]
            if not (declared.broadcast and isinstance(x, int | float | Real) and not isinstance(x, bool)):
                check_tensor(self.name, name, x, self.names[0], first)
        target = dict(zip(self.names, operands, strict=True)).get("target")
        check_floating(self.name, self.names[0], first, target, "scores" if self._labels() else "")
        if self.rows and first.ndim == 0:
            raise error("no_class_dimension", loss=self.name, argument=self.names[0])
        tensors = [
            x if isinstance(x, Tensor) else torch.full((), x, dtype=first.dtype, device=first.device) for x in operands
        ]
        shaped, result = self._match_shapes(tensors)
        shape = shaped[0].shape
        loss_shape = shape[:-1] if self.rows else shape
        normalizer = check_extras(self, first, loss_shape, weight, shape, sample_weight, mask, normalizer)
        if self.batchmean and normalizer is None:
            normalizer = float(shape[0]) if shape else 1.0
        return Arguments(shaped, weight, sample_weight, mask, normalizer, result)

    def _match_shapes(self, tensors: list[Tensor]) -> tuple[list[Tensor], torch.dtype | None]:
        shape = tensors[0].shape
        matched = [tensors[0]]
        for name, x in zip(self.names[1:], tensors[1:], strict=True):
            declared = self.formula.declared[name]
            if declared.per_row and x.ndim > 0 and x.shape != shape and x.shape == shape[:-1]:
                x = x.unsqueeze(-1)
            if x.shape != shape and state.checks != "off":
                free = declared.broadcast and (name in self.loss.params or x.ndim in (0, len(shape)))
                if not (free and broadcasts(x.shape, shape)):
                    kind = "not_broadcastable" if declared.broadcast else "shapes"
                    raise error(
                        kind, loss=self.name, first=self.names[0], argument=name, expected=tuple(shape),
                        got=tuple(x.shape), hint=shape_hint(name, x.shape, shape),
                    )  # fmt: skip
            matched.append(x)
        if any(x.shape != shape for x in matched):  # torch's function takes 20 us of its own
            shape = torch.broadcast_shapes(*(x.shape for x in matched))
        return dtypes.stretched(matched, shape)

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        return operands[0].shape[:-1] if self.rows else operands[0].shape

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        full = arguments.operands[0].shape
        found = []
        for x, name in zip(tensors, [*self.names, ""], strict=True):
            ndim = x.ndim if isinstance(x, Tensor) else 0
            dims: Dims = trailing(ndim, len(full))
            if name and self.formula.declared[name].per_row and ndim and x.shape != full and x.shape == full[:-1]:
                dims = tuple(range(ndim))
            found.append(tuple(None if self.rows and dim == len(full) - 1 else dim for dim in dims))
        return found

    def fused(self, kernel: Kernel, arguments: Arguments, result: torch.dtype | None = None) -> Tensor | None:
        if not self.rows:
            return kernel(self, arguments, result)
        sample_weight, mask = _per_row(arguments.sample_weight), _per_row(arguments.mask)
        arguments = arguments._replace(sample_weight=sample_weight, mask=mask)
        if self.reduction != "none":
            return kernel(self, arguments, result)
        if arguments.operands[0].shape[-1] == 0:
            return None
        # A row's loss, the mean of its elements, must be rounded once: the elements stay in the compute type.
        elements = kernel(self.elementwise(), arguments, dtypes.compute_dtype(arguments.operands))
        if elements is None:
            return None
        # torch's sum varies with the thread count in its last bits; rounding from float64 hides that.
        mean = elements.mean(-1, dtype=torch.float64)
        return mean.to(dtypes.autocast(arguments.result or dtypes.result_dtype(arguments.operands), mean.device))

    def spread(self, upstream: Tensor) -> Tensor:
        return upstream

    def of_saved(self, operands: Sequence[Tensor | None], *extras: Any) -> Arguments:
        taken = [x for x in operands if x is not None]
        full = [x if x.shape == taken[0].shape else x.expand(taken[0].shape) for x in taken]
        weight, sample_weight, mask, normalizer = extras
        if self.rows:  # the kernel got these per element
            sample_weight, mask = (x if x is None or x.ndim == 0 else x.squeeze(-1) for x in (sample_weight, mask))
        return Arguments(full, weight, sample_weight, mask, normalizer)

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        operands, weight, sample_weight, mask, normalizer, result = arguments
        dtype = result or dtypes.result_dtype(operands)
        wide = dtypes.compute_dtype(operands)
        cast = [x.to(wide) for x in operands]
        if checks != "off":
            cast = [
                domain.settled(x, slack_of(own.dtype)) if domain.settles and own.is_floating_point() else x
                for x, own, domain in zip(cast, operands, self.domains, strict=True)
            ]
        bad = self._bad(cast, self._of_elements(mask), checks)
        shape = cast[0].shape[:-1] if self.rows else cast[0].shape
        counted = weight if self.weight_in_mean else None
        mask, normalizer = counting(
            self.reduction, shape, cast[0], weight=counted, sample_weight=sample_weight, mask=mask,
            normalizer=normalizer,
        )  # fmt: skip
        element_mask = self._of_elements(mask)
        if element_mask is not None:
            # A NaN behind the mask must not reach the gradient as 0 * NaN.
            cast = [torch.where(element_mask, x, domain.typical) for x, domain in zip(cast, self.domains, strict=True)]
        values = eager.nan_where(eager.apply(self.differentiable, cast), bad)
        if self.rows:
            if weight is not None:
                values = values * weight.to(wide)
            values, weight = mean_of_rows(values, self.reduction), None
        loss = reduce_eagerly(
            values, self.reduction, weight=weight, weight_in_mean=self.weight_in_mean, sample_weight=sample_weight,
            mask=mask, normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def _of_elements(self, mask: Tensor | None) -> Tensor | None:
        return mask.unsqueeze(-1) if mask is not None and self.rows and mask.ndim else mask

    def _bad(self, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
        """Where operands leave their domains, None if nothing is checked; under "raise" this raises."""
        if checks == "off" or not self.checked:
            return None
        outside = [domain.outside(operands[i].detach()) for i, domain in self.checked]
        bad = outside[0]
        for more in outside[1:]:
            bad = bad | more
        return eager.apply_checks(self, bad if mask is None else bad & mask, operands, mask, checks)

    def spaces(self, operands: Sequence[Tensor], mask: Tensor | None) -> list[Exception]:
        found = []
        declared = self.formula.declared.items()
        for x, (name, own), advised in zip(operands, declared, self.formula.advised, strict=True):
            if own.kind == "logit" and like_sigmoids(x.detach()):
                found.append(error("sigmoid", loss=self.name, argument=name))
            if advised:
                outside = own.domain.outside(x.detach())
                if bool((outside if mask is None else outside & mask).any()):
                    hint = f" {own.hint}" if own.hint else ""
                    expected = own.domain.description
                    found.append(error("outside", loss=self.name, argument=name, expected=expected, hint=hint))
        return found

    def refuse(self, operands: Sequence[Tensor], mask: Tensor | None, found: Found | None = None) -> NoReturn:
        operand, place, value = found or self.find(operands, mask)
        full, own = operands[0].shape, operands[operand - 1].shape
        own = own if mask is None else torch.broadcast_shapes(own, mask.shape)
        index = unravel(place, full)[len(full) - len(own) :]
        index = tuple(i if size > 1 else 0 for i, size in zip(index, own, strict=True))
        raise self._refusal(operand, value, index, self._swapped(operands))

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        wide = dtypes.compute_dtype(operands)
        for operand, (x, domain) in enumerate(zip(operands, self.domains, strict=True), 1):
            taken = [x.detach()] if mask is None else list(torch.broadcast_tensors(x.detach(), mask))
            index = search.first(partial(_outside, domain, wide, slack_of(x.dtype)), taken)
            if index is not None:
                return operand, search.place(index, operands[0].shape), taken[0][index].item()
        raise AssertionError("there is no bad value")

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        return self._refusal(operand, value, unravel(place, shape), "")

    def _refusal(self, operand: int, value: float, index: tuple[int, ...], hint: str) -> Exception:
        name = self.names[operand - 1]
        declared = self.formula.declared[name]
        return error(
            "domain", loss=self.name, argument=name, expected=declared.domain.description, got=shortest(value),
            index=index, hint=hint or (f" {declared.hint}" if declared.hint else ""),
        )  # fmt: skip

    def _outside(self, operands: Sequence[Tensor]) -> Iterator[Tensor]:
        """Where each operand leaves its domain, as the kernel compares: in the dtype that is computed in."""
        wide = dtypes.compute_dtype(operands)
        pairs = zip(operands, self.domains, strict=False)
        return (domain.outside(x.detach().to(wide), slack_of(x.dtype)) for x, domain in pairs)

    def _labels(self) -> bool:
        """Whether the target is labels."""
        declared = self.formula.declared.get("target")
        return declared is not None and declared.domain in (probability, signs)

    def _swapped(self, operands: Sequence[Tensor]) -> str:
        """The hint that input and target are swapped, if they would be right in the other order."""
        if self.names[1:] != ["target"]:
            return ""
        input, target = (search.head(x.detach()) for x in operands)
        two = bool((input != input.flatten()[0]).any())
        either = ((input == 0) | (input == 1)).all() | ((input == -1) | (input == 1)).all()
        if self._labels() and two and bool(either):
            return swapped_hint(self.names[0])
        exchanged = self._outside([target, input])
        if all(bool(x.any()) for x in self._outside([input, target])) and not any(bool(x.any()) for x in exchanged):
            return " It looks as if input and target were swapped."
        return ""


def _outside(domain: Domain, wide: torch.dtype, slack: float, x: Tensor, counts: Tensor | None = None) -> Tensor:
    """Where a block is outside a domain, compared in the dtype that the kernel compares in."""
    outside = domain.outside(x.to(wide), slack)
    return outside if counts is None else outside & counts


def _per_row(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.ndim == 0 else x.unsqueeze(-1)
