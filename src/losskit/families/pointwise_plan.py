"""A call of the pointwise family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `pointwise.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from numbers import Real
from typing import Any, NoReturn

import torch
from torch import Tensor

from losskit import dtypes
from losskit.declaration import POSITION
from losskit.domains import Domain, Interval, probability, shortest, signs, slack_of
from losskit.errors import error
from losskit.families import pointwise_counts
from losskit.families.shapes import together
from losskit.kernels import eager, fused, gpu, search, wire
from losskit.kernels.sharded import trailing
from losskit.plan import Arguments, Dims, Found, Kernel, Plan
from losskit.policy import state
from losskit.reduction import both, counting, mean_of_rows, reduce_eagerly
from losskit.spaces import like_sigmoids
from losskit.traced import Formula
from losskit.validation import (  # fmt: skip
    broadcasts,
    check_extras,
    check_floating,
    check_tensor,
    same_shape,
    shape_hint,
    swapped_hint,
    unravel,
)

ROWS = {"": wire.Rows.ABSENT, "mean": wire.Rows.AVERAGED, "sum": wire.Rows.ADDED}


class PointwisePlan(Plan):
    """A pointwise loss with its parameters fixed."""

    op = "pointwise"
    ignores = False

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.batchmean = reduction == "batchmean"
        reduction = "mean" if self.batchmean else reduction
        tensors = formula.tensors
        self.position = POSITION in formula.operands
        self.parts = [len(x.components) or 1 for x in tensors.values()]
        broadcast = _bits(name in loss.params for name in tensors)
        family = wire.POINTWISE.family.pack(
            advised=_bits(x.advised(formula.switches) for x in tensors.values()),
            scores=_bits(x.kind == "logit" for x in tensors.values()),
            composed=_bits(part > 1 for part in self.parts), components=max(self.parts),
        )  # fmt: skip
        rows = ROWS[loss.rows]
        code = fused.pack(reduction, weight_in_mean=loss.weight_in_mean, rows=rows, broadcast=broadcast, family=family)
        super().__init__(loss, reduction, code, tensors, wire.POINTWISE.given(numbers.values()))
        self.formula: Formula = formula
        self.constants = _bits(not x.differentiable for x in tensors.values())
        self.differentiable = formula.differentiable(numbers)
        self.domains = formula.required
        self.settles = any(domain.settles for domain in formula.required)
        self.places = {i: x.places for i, x in enumerate(formula.declared.values()) if x.places is not None}
        self.checked = [(i, domain) for i, domain in enumerate(formula.required) if not domain.everything]
        self.rows = rows
        self.counts = formula.counts(numbers) if self.reduction == "mean" else None
        self.weight_in_mean = loss.weight_in_mean
        # Raw arguments that need work first cannot go to the kernel, nor, on a GPU, to its call of another time.
        self.direct = not (self.batchmean or (rows and self.reduction == "none"))
        self.recorded = not (self.position or self.counts or self.places)

    def elementwise(self) -> PointwisePlan:
        """The same formula, a loss for each element of a row."""
        plan = copy.copy(self)
        plan.native = plan.repeats = None  # their calls are those of the plan that was copied
        plan.rows = wire.Rows.ABSENT
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
            declared = self.formula.tensors[name]
            if not (declared.broadcast and isinstance(x, int | float | Real) and not isinstance(x, bool)):
                check_tensor(self.name, name, x, self.names[0], first)
        target = dict(zip(self.names, operands, strict=True)).get("target")
        check_floating(self.name, self.names[0], first, target, "scores" if self._labels() else "")
        for name, x, part in zip(self.names, operands, self.parts, strict=True):
            if part > 1 and (not x.ndim or x.shape[-1] != part):
                told = ", ".join(self.formula.tensors[name].components)
                raise error("components", loss=self.name, argument=name, expected=told, got=tuple(x.shape), count=part)
        if self.rows and first.ndim == 0:
            raise error("no_class_dimension", loss=self.name, argument=self.names[0])
        tensors = [
            x if isinstance(x, Tensor) else torch.full((), x, dtype=first.dtype, device=first.device) for x in operands
        ]
        shaped, result = self._match_shapes(tensors)
        shape = self.shapes(shaped)
        loss_shape = shape[:-1] if self.rows else shape
        normalizer = check_extras(self, first, loss_shape, weight, shape, sample_weight, mask, normalizer)
        if self.batchmean and normalizer is None:
            normalizer = float(shape[0]) if shape else 1.0
        return Arguments(shaped, weight, sample_weight, mask, normalizer, result)

    def _match_shapes(self, tensors: list[Tensor]) -> tuple[list[Tensor], torch.dtype | None]:
        shape = tensors[0].shape
        matched = [tensors[0]]
        for name, x in zip(self.names[1:], tensors[1:], strict=True):
            declared = self.formula.tensors[name]
            x = self._along_rows(name, x, shape)
            if not same_shape(x.shape, shape) and self.strict(state.checks):
                free = declared.broadcast and (name in self.loss.params or x.ndim in (0, len(shape)))
                if not (free and broadcasts(x.shape, shape)):
                    kind = "not_broadcastable" if declared.broadcast else "shapes"
                    raise error(
                        kind, loss=self.name, first=self.names[0], argument=name, expected=tuple(shape),
                        got=tuple(x.shape), hint=shape_hint(name, x.shape, shape),
                    )  # fmt: skip
            matched.append(x)
        if not all(same_shape(x.shape, shape) for x in matched):  # torch's function takes 20 us of its own
            shape = together(self.name, self.names, [x.shape for x in matched])
        return dtypes.stretched(matched, shape)

    def _along_rows(self, name: str, x: Tensor, shape: Sequence[int]) -> Tensor:
        """An operand of a call of this shape; what has a number for each row gets a last dimension."""
        rows = self.formula.tensors[name].per_row and x.ndim > 0 and same_shape(x.shape, shape[:-1])
        return x.unsqueeze(-1) if rows else x

    def shapes(self, operands: Sequence[Tensor]) -> tuple[int, ...]:
        """The shape of what the formula computes: without components."""
        shape = tuple(operands[0].shape)
        return shape[:-1] if self.parts[0] > 1 else shape

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        shape = self.shapes(operands)
        return shape[:-1] if self.rows else shape

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        full = arguments.operands[0].shape
        inner = self.rows or max(self.parts) > 1  # the last dimension is not one of the loss
        found = []
        for x, name in zip(tensors, [*self.names, ""], strict=True):
            ndim = x.ndim if isinstance(x, Tensor) else 0
            dims: Dims = trailing(ndim, len(full))
            if name and self.formula.tensors[name].per_row and ndim and same_shape(x.shape, full[:-1]):
                dims = tuple(range(ndim))
            found.append(tuple(None if inner and dim == len(full) - 1 else dim for dim in dims))
        return found

    def fused(self, kernel: Kernel, arguments: Arguments, result: torch.dtype | None = None) -> Tensor | None:
        if gpu.takes(arguments.operands[0]):
            arguments = self._for_gpu(self._completed(arguments, looked_up=True))
        if not self.rows:
            return kernel(self, arguments, result)
        extras = arguments.sample_weight, arguments.mask
        sample_weight, mask = (x if x is None or x.ndim == 0 else x.unsqueeze(-1) for x in extras)
        arguments = arguments._replace(sample_weight=sample_weight, mask=mask)
        if self.reduction != "none":
            return kernel(self, arguments, result)
        if arguments.operands[0].shape[-1] == 0:
            return None
        # A row's loss must be rounded once: its elements stay in the compute type.
        elements = kernel(self.elementwise(), arguments, dtypes.compute_dtype(arguments.operands))
        if elements is None:
            return None
        # torch's sum varies with the thread count in its last bits; rounding from float64 hides that.
        whole = elements.mean if self.rows == wire.Rows.AVERAGED else elements.sum
        row = whole(-1, dtype=torch.float64)
        return row.to(dtypes.autocast(arguments.result or dtypes.result_dtype(arguments.operands), row.device))

    def _completed(self, arguments: Arguments, looked_up: bool = False) -> Arguments:
        """With what the formula takes besides what the caller gives: places in the row, what the mean divides by.
        looked_up: the tensors are real, so that how many rows there are may decide how their counts are found."""
        if not (self.position or self.counts):
            return arguments
        first = arguments.operands[0]
        if self.counts and arguments.normalizer is None:
            places = self._of_places(self.shapes(arguments.operands)) if looked_up else []
            counts = pointwise_counts.of_rows(self.counts, self.formula.operands, arguments.operands, places)
            if counts is None:
                counts = self._counts(arguments)
            if arguments.sample_weight is not None:
                counts = counts * arguments.sample_weight.to(counts.dtype).unsqueeze(-1)
            if arguments.mask is not None:
                counts = torch.where(arguments.mask.unsqueeze(-1), counts, 0.0)
            arguments = arguments._replace(normalizer=counts.sum(dtype=torch.float64))
        if not self.position:
            return arguments
        place = torch.arange(first.shape[-1], device=first.device)
        return arguments._replace(operands=[*arguments.operands, place])

    def _for_gpu(self, arguments: Arguments) -> Arguments:
        """The arguments with NaN for a place that is none."""
        operands = list(arguments.operands)
        for i, domain in self._of_places(self.shapes(operands)) if state.checks != "off" else ():
            x = operands[i].detach()
            bad = domain.outside(x[..., :1] if x.stride(-1) == 0 else x)  # one for each row has been stretched
            operands[i] = torch.where(bad, float("nan"), operands[i])
        return arguments._replace(operands=operands)

    def _of_places(self, shape: Sequence[int]) -> list[tuple[int, Domain]]:
        """What operands that are places in a row may be."""
        found: list[tuple[int, Domain]] = []
        for i, beyond in self.places.items():
            last = shape[-1] - 1 + beyond
            found.append((i, Interval(f"a whole number from 0 to {last}", low=0.0, high=float(last), whole=True)))
        return found

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        if not self.counts:
            return super().counted(arguments)
        first, *others = arguments.operands  # of a rank's part, one for each row is not stretched yet
        others = [x.unsqueeze(-1) if same_shape(x.shape, first.shape[:-1]) else x for x in others]
        arguments = arguments._replace(operands=[first, *(x.expand(first.shape) for x in others)])
        return [self._counts(arguments).sum(-1, dtype=torch.float64)], arguments.mask

    def _counts(self, arguments: Arguments) -> Tensor:
        """How often each element counts."""
        assert self.counts is not None
        return pointwise_counts.of_elements(self.counts, self.formula.operands, arguments.operands)

    def _apart(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The operands of the formula: a tensor, or each of its components."""
        pairs = zip(tensors, self.parts, strict=True)
        return [x if part == 1 else x[..., i] for x, part in pairs for i in range(part)]

    def spread(self, upstream: Tensor, ndim: int) -> Tensor:
        return upstream.unsqueeze(-1) if ndim > upstream.ndim else upstream

    def of_saved(self, operands: Sequence[Tensor | None], *extras: Any) -> Arguments:
        taken = [x for x in operands if x is not None][: len(self.names)]  # on a GPU places follow
        shape = taken[0].shape
        full = [x if same_shape(x.shape, shape) else self._along_rows(name, x, shape).expand(shape)
                for name, x in zip(self.names, taken, strict=True)]  # fmt: skip
        weight, sample_weight, mask, normalizer = extras
        if self.rows:  # the kernel got these per element
            sample_weight, mask = (x if x is None or x.ndim == 0 else x.squeeze(-1) for x in (sample_weight, mask))
        return Arguments(full, weight, sample_weight, mask, normalizer)

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        given, weight, sample_weight, mask, normalizer, result = self._completed(arguments)
        dtype = result or dtypes.result_dtype(given)
        wide = dtypes.compute_dtype(given)
        operands = [*self._apart(given[: len(self.names)]), *given[len(self.names) :]]
        cast = [x.to(wide) for x in operands]
        if checks != "off":
            cast = [
                domain.settled(x, slack_of(own.dtype)) if domain.settles and own.is_floating_point() else x
                for x, own, domain in zip(cast, operands, self.domains, strict=True)
            ]
        bad = self._bad(cast, self._of_elements(mask), checks, given)
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
            added = self.rows == wire.Rows.ADDED
            values, weight = values.sum(-1) if added else mean_of_rows(values, self.reduction), None
        loss = reduce_eagerly(
            values, self.reduction, weight=weight, weight_in_mean=self.weight_in_mean, sample_weight=sample_weight,
            mask=mask, normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def _of_elements(self, mask: Tensor | None) -> Tensor | None:
        return mask.unsqueeze(-1) if mask is not None and self.rows and mask.ndim else mask

    def _bad(
        self, operands: Sequence[Tensor], mask: Tensor | None, checks: str, given: Sequence[Tensor]
    ) -> Tensor | None:
        """Where operands leave their domains, None if nothing is checked; under "raise" this raises."""
        checked = self.checked + self._of_places(operands[0].shape)
        if checks == "off" or not checked:
            return None
        outside = [domain.outside(_tested(operands, i, domain).detach()) for i, domain in checked]
        bad = outside[0]
        for more in outside[1:]:
            bad = bad | more
        return eager.apply_checks(self, both(bad, mask), given, mask, checks)

    def spaces(self, operands: Sequence[Tensor], mask: Tensor | None) -> list[Exception]:
        found = []
        for x, (name, own) in zip(operands, self.formula.tensors.items(), strict=False):
            if own.kind == "logit" and like_sigmoids(x.detach()):
                found.append(error("sigmoid", loss=self.name, argument=name))
            if own.advised(self.formula.switches):
                outside = own.domain.outside(x.detach())
                if bool(both(outside, mask).any()):
                    hint = f" {own.hint}" if own.hint else ""
                    expected = own.domain.description
                    found.append(error("outside", loss=self.name, argument=name, expected=expected, hint=hint))
        return found

    def refuse(self, operands: Sequence[Tensor], mask: Tensor | None, found: Found | None = None) -> NoReturn:
        operand, place, value = found or self.find(operands, mask)
        full = self.shapes(operands)
        given = [self._along_rows(name, x, full) for name, x in zip(self.names, operands, strict=False)]
        own: Sequence[int] = self._apart(given)[operand - 1].shape
        own = own if mask is None else torch.broadcast_shapes(own, mask.shape)
        index = unravel(place, full)[len(full) - len(own) :]
        index = tuple(i if size > 1 else 0 for i, size in zip(index, own, strict=True))
        if operand - 1 in self.places:
            index = index[:-1]  # one for each row
        raise self._refusal(operand, value, index, full, self._swapped(operands))

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        wide = dtypes.compute_dtype(operands)
        apart = self._apart([x.detach() for x in operands[: len(self.names)]])
        domains = dict(enumerate(self.domains[: len(apart)])) | dict(self._of_places(self.shapes(operands)))
        for operand, domain in ((i + 1, domain) for i, domain in domains.items()):
            x = _tested(apart, operand - 1, domain)
            taken = [x] if mask is None else list(torch.broadcast_tensors(x, mask))
            index = search.first(partial(_outside, domain, wide, slack_of(x.dtype)), taken)
            if index is not None:
                return operand, search.place(index, self.shapes(operands)), taken[0][index].item()
        raise AssertionError("there is no bad value")

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        return self._refusal(operand, value, unravel(place, shape), shape, "")

    def _refusal(
        self, operand: int, value: float, index: tuple[int, ...], shape: Sequence[int], hint: str
    ) -> Exception:
        tensors = self.formula.tensors.items()
        named = [
            (name, declared) for (name, declared), part in zip(tensors, self.parts, strict=True) for _ in range(part)
        ]
        name, declared = named[operand - 1]
        domain = dict(self._of_places(shape)).get(operand - 1, self.domains[operand - 1])
        got = f"a difference of {shortest(value)}" if domain.back else shortest(value)
        return error(
            "domain", loss=self.name, argument=name, expected=domain.description, got=got, index=index,
            hint=hint or (f" {declared.hint}" if declared.hint else ""),
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
        if self.names[1:] != ["target"] or max(self.parts) > 1:
            return ""
        input, target = (search.head(x.detach()) for x in operands[:2])
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
    return both(domain.outside(x.to(wide), slack), counts)


def _tested(operands: Sequence[Tensor], place: int, domain: Domain) -> Tensor:
    """What must be in a domain: an operand, or its difference from a component before it."""
    x = operands[place]
    return x - operands[place - domain.back] if domain.back else x


def _bits(flags: Iterable[bool]) -> int:
    return sum(1 << i for i, flag in enumerate(flags) if flag)
