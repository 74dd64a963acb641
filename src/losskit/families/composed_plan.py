"""A call of the composed family: its arguments validated by declared shapes, `value` called, bad values named.

What a `value` of the family may be is said in `composed.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit import dtypes
from losskit.declaration import OPEN, Operand
from losskit.domains import Domain, Interval, shortest, slack_of
from losskit.errors import error
from losskit.families.composed_usual import Known, loss_of
from losskit.families.shapes import DOTS, Shape, arranged, filled, named
from losskit.kernels import eager, fused, search
from losskit.kernels.choice import PLAIN
from losskit.kernels.torch_internals import hidden, observed
from losskit.plan import Arguments, Dims, Found, Plan
from losskit.reduction import both, counting, reduce_eagerly
from losskit.validation import (
    check_extras,
    check_floating,
    check_per_class,
    check_stretches,
    check_tensor,
    shape_hint,
    unlike,
    unravel,
)

ELEMENTS = "element_mask"  # the operand that says which elements of the first one count
CLASSES = "C"  # the size that a parameter which is a tensor has


class Dimensions(NamedTuple):
    """The dimensions of a call by name: of the unreduced loss, of each operand, and their sizes."""

    unit: list[str]
    own: list[list[str]]
    sizes: dict[str, Any]

    @property
    def unit_shape(self) -> tuple[int, ...]:
        return tuple(self.sizes[name] for name in self.unit)

    def of_unit(self, i: int) -> bool:
        """Whether an operand has all dimensions of the unreduced loss, so that a unit has its own numbers there."""
        return all(name in self.own[i] for name in self.unit)


class _WithGradient(torch.autograd.Function):
    """The unreduced losses, and with them their gradients, which backward only multiplies."""

    @staticmethod
    def forward(ctx: Any, loss: Any, given: dict[str, Any], dims: dict[str, list[str]], *tensors: Tensor) -> Any:
        result, gradients = loss.value_and_grad(**given)
        ctx.loss, ctx.given, ctx.dims = loss, given, dims
        ctx.save_for_backward(*tensors, *(gradients[name] for name in dims if name != "unit"))
        if isinstance(result, tuple):
            ctx.mark_non_differentiable(result[1])
        return result

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> Any:
        unit, *names = ctx.dims
        tensors, gradients = ctx.saved_tensors[: len(names)], ctx.saved_tensors[len(names) :]
        if torch.is_grad_enabled():  # a derivative of the gradient is wanted, which `value` has
            result = ctx.loss.value(**{**ctx.given, **dict(zip(names, tensors, strict=True))})
            losses = result[0] if isinstance(result, tuple) else result
            return None, None, None, *torch.autograd.grad(losses, tensors, upstream, create_graph=True)
        spread = [arranged(upstream, ctx.dims[unit], ctx.dims[name]) if upstream.ndim else upstream for name in names]
        return None, None, None, *(x * up for x, up in zip(gradients, spread, strict=True))


class ComposedPlan(Plan):
    """A composed loss with its parameters fixed."""

    op = "composed"
    direct = False
    no_kernel = "composed: the loss is written in torch operations, and no kernel computes all of it"

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        optional = loss._optional_operands()
        names = [name for name in loss._call_operands() if name not in optional]
        names += [name for name in optional if parameters[name]]
        of_value = loss._formula_params()
        self.tensors = [p for p in loss._operand_params() if parameters[p.name] is (p.kind == "tensor" or OPEN)]
        super().__init__(loss, reduction, fused.pack(reduction), [*names, *(p.name for p in self.tensors)], [])
        self.telling = len(names)
        self.operands: dict[str, Operand] = {name: loss.operands[name] for name in names}
        self.shaped: dict[str, Shape] = {name: loss._shapes[name] for name in names}
        self.unit: Shape = loss._unit
        self.constants = sum(1 << i for i, x in enumerate(self.operands.values()) if not x.differentiable)
        given = {p.name for p in self.tensors}
        self.fixed = {p.name: None if p.kind == "tensor" else parameters[p.name] for p in of_value}
        self.fixed = {name: x for name, x in self.fixed.items() if name not in given}
        self.fixed |= dict.fromkeys(name for name in optional if name not in names)
        self.least: dict[str, int] = loss._least(parameters)
        self.known: dict[Any, Known | None] = {}  # of usual calls, by their shapes and dtypes

    # -- the usual call -----------------------------------------------------------------------------------

    def at_once(self, operands: Sequence[Any]) -> Tensor | None:
        if observed():
            return None
        key = list[Any]()
        for x in operands:
            if type(x) not in PLAIN or not x.is_cpu or x.layout is not torch.strided:
                return None
            key += (x.shape, x.dtype)
        found = tuple(key)
        try:
            known = self.known[found]
        except KeyError:
            if len(self.known) >= 64:  # shapes that change with every step must not fill the memory
                self.known.clear()
            known = self.known[found] = self._known(operands)
        return None if known is None else loss_of(self, known, operands)

    def _known(self, operands: Sequence[Tensor]) -> Known | None:
        """What is known of calls like this one; None where they take the general way. Or the error that it is wrong."""
        self.validated(operands, None, None, None, None)
        if ELEMENTS in self.operands or not all(x.numel() for x in operands):
            return None
        dims, taken, looks = self.dimensions(operands), [], []
        floating = [x for x in operands[: self.telling] if x.is_floating_point()]
        for i, (name, x) in enumerate(zip(self.names, operands, strict=True)):
            index = i < self.telling and self.operands[name].index
            wide = torch.bool if x.dtype == torch.bool else dtypes.compute_dtype(floating)
            if name in self.loss._taken:
                taken.append((name, i, torch.int64 if index else wide))
            domain = self._domain(i, dims)
            if not (domain.everything or x.dtype == torch.bool):
                if not isinstance(domain, Interval) or domain.whole or name not in self.loss._taken:
                    return None
                looks.append((name, domain))
        fixed = {name: x for name, x in self.fixed.items() if name in self.loss._taken}
        ours = 0 if self.loss.value_and_grad is None else ((1 << self.telling) - 1) & ~self.constants
        return Known(taken, fixed, looks, dims.unit, dims.own, ours, dtypes.result_dtype(floating))

    # -- validation ---------------------------------------------------------------------------------------

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
        for (name, declared), x in zip(self.operands.items(), operands, strict=False):
            self._check_dtype(name, declared, x)
        dims = self.dimensions(operands)
        for i, name in enumerate(self.operands):
            self._check_shape(name, operands[i], first, dims.own[i], dims.sizes)
        for name, least in self.least.items():
            if dims.sizes.get(name, least) < least:
                i = next(i for i, own in enumerate(dims.own) if name in own)
                expected = f"of shape {self.shaped[self.names[i]].text} with {name} at least {least}"
                raise self._wrong(self.names[i], expected, f"shape {tuple(operands[i].shape)}")
        for p, x in zip(self.tensors, operands[self.telling :], strict=True):
            if p.kind == "tensor":
                check_per_class(self, p.name, x, first, dims.sizes[CLASSES])
            else:
                check_stretches(self.name, p.name, x, first.shape)
        normalizer = check_extras(self, first, dims.unit_shape, None, (), sample_weight, mask, normalizer)
        return Arguments(list(operands), None, sample_weight, mask, normalizer)

    def _check_dtype(self, name: str, declared: Operand, x: Tensor) -> None:
        if declared.index:
            if x.dtype not in dtypes.INTEGERS:
                beyond = {0: " - 1", 1: ""}[declared.places or 0]
                expected = f"integers from 0 to {declared.index}{beyond}"
                raise self._wrong(name, expected, x.dtype, f" Use {name}.long().")
        elif declared.boolean:
            if x.dtype != torch.bool:
                raise self._wrong(name, "boolean (True = counts)", x.dtype, f" Use {name}.bool().")
        elif declared.differentiable:
            check_floating(self.name, name, x)

    def _check_shape(self, name: str, x: Tensor, first: Tensor, own: list[str], sizes: dict[str, Any]) -> None:
        expected = tuple(sizes[one] for one in own)
        if len(expected) == x.ndim and expected == tuple(x.shape):
            return
        if expected == tuple(first.shape):
            raise unlike(self.name, name, x.shape, self.names[0], expected)
        allowed = f"of shape {expected} for {self.names[0]} {tuple(first.shape)}"
        raise self._wrong(name, allowed, f"shape {tuple(x.shape)}", shape_hint(name, x.shape, expected))

    # -- dimensions ---------------------------------------------------------------------------------------

    def dimensions(self, operands: Sequence[Tensor]) -> Dimensions:
        """The dimensions of a call; or the error that the first operand has none of its shapes.

        A size is that of the first operand that has its letter.
        """
        first, shape = operands[0], self.shaped[self.names[0]]
        which = shape.fitting(first.ndim)
        if which is None:
            raise self._wrong(self.names[0], f"of shape {shape.text}", f"shape {tuple(first.shape)}")
        names = named(shape.form(which), first.ndim)
        dots = len(names) - len([name for name in shape.form(which) if name != DOTS])
        own = [filled(x.form(which), dots) for x in self.shaped.values()]
        sizes: dict[str, Any] = {}
        for named_, x in zip(own, operands, strict=False):
            for i, name in enumerate(named_[: x.ndim]):
                sizes.setdefault(name, x.shape[i])
            for name in named_[x.ndim :]:
                sizes.setdefault(name, 1)
        for p, x in zip(self.tensors, operands[self.telling :], strict=True):
            own.append([CLASSES] if p.kind == "tensor" else names[len(names) - x.ndim :])
        return Dimensions(filled(self.unit.form(which), dots), own, sizes)

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        return self.dimensions(operands).unit_shape

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        dims = self.dimensions(arguments.operands)
        return [*(tuple(dims.unit.index(x) if x in dims.unit else None for x in own) for own in dims.own), ()]

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        dims = self.dimensions(arguments.operands)
        return [self._counting(i, arguments.operands, arguments.mask, dims) for i in range(len(arguments.operands))]

    def _counting(self, i: int, operands: Sequence[Tensor], mask: Tensor | None, dims: Dimensions) -> Tensor | None:
        """Which numbers of an operand count: in units that do, and elements that do. None: all of them."""
        counts = None
        if mask is not None and dims.of_unit(i):
            counts = arranged(mask.expand(dims.unit_shape), dims.unit, dims.own[i])
        if ELEMENTS in self.operands and i < self.telling and self.names[i] != ELEMENTS:
            place = self.names.index(ELEMENTS)
            if all(name in dims.own[i] for name in dims.own[place]):
                of_elements = arranged(operands[place], dims.own[place], dims.own[i])
                counts = both(counts, of_elements)
        return counts

    # -- the loss in torch operations ---------------------------------------------------------------------

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        operands, _, sample_weight, mask, normalizer, _ = arguments
        told = [x for x in operands[: self.telling] if x.is_floating_point()]
        dtype = dtypes.result_dtype(told)
        dims = self.dimensions(operands)
        inside = [self._inside(x, self._domain(i, dims)) for i, x in enumerate(operands)]
        bad = self._bad(operands, inside, mask, checks, dims)
        counts, _ = counting(
            self.reduction, dims.unit_shape, operands[0], sample_weight=sample_weight, mask=mask, normalizer=normalizer
        )
        values, has_loss = self._values(operands, inside, counts, checks, dims)
        values = eager.nan_where(values, bad)
        mask = both(mask, has_loss)
        loss = reduce_eagerly(
            values, self.reduction, weight=None, weight_in_mean=False, sample_weight=sample_weight, mask=mask,
            normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def _values(
        self, operands: Sequence[Tensor], inside: Sequence[bool], counts: Tensor | None, checks: str, dims: Dimensions
    ) -> tuple[Tensor, Tensor | None]:
        """The loss of each unit, and which units have one (None: all). What does not count is not read."""
        wide = dtypes.compute_dtype([x for x in operands[: self.telling] if x.is_floating_point()])
        given: dict[str, Any] = dict(self.fixed)
        for i, (name, x) in enumerate(zip(self.names, operands, strict=True)):
            domain = self._domain(i, dims)
            declared = self.operands.get(name)
            if declared is not None and declared.index:
                x = x.to(torch.int64) if inside[i] else x.to(torch.int64).clamp(0, self._last(declared, dims))
            elif x.dtype != torch.bool:
                own, x = x, x.to(wide)
                if checks != "off" and domain.settles and not inside[i] and own.is_floating_point():
                    x = domain.settled(x, slack_of(own.dtype))
                here = self._counting(i, operands, counts, dims)
                if here is not None:
                    # A NaN behind a mask must not reach the gradient as 0 * NaN.
                    x = torch.where(here, x, domain.typical)
                if declared is not None and not declared.differentiable:
                    x = x.detach()
            given[name] = x
        given = {name: given[name] for name in self.loss._taken}
        wanted = [name for name, x in given.items() if isinstance(x, Tensor) and x.requires_grad]
        alone = self.loss.value_and_grad is not None and torch.is_grad_enabled()
        if alone and wanted and all(name in self.operands for name in wanted) and not hidden(given[wanted[0]]):
            by_name = dict(zip(self.names, dims.own, strict=True))
            names = {"unit": dims.unit} | {name: by_name[name] for name in wanted}
            result = _WithGradient.apply(self.loss, given, names, *(given[name] for name in wanted))
        else:
            result = self.loss.value(**given)
        return result if isinstance(result, tuple) else (result, None)

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        dims = self.dimensions(arguments.operands)
        with torch.no_grad():
            inside = [False] * len(arguments.operands)
            _, has_loss = self._values(arguments.operands, inside, arguments.mask, "off", dims)
        return [], both(arguments.mask, has_loss)

    def eagerly(self, arguments: Arguments) -> str:
        found = "" if self.loss.parts is None else self.loss.parts(*arguments.operands)
        return f"; {found}" if found else ""

    # -- refusals -----------------------------------------------------------------------------------------

    def _domain(self, i: int, dims: Dimensions) -> Domain:
        """What an operand, or a parameter that is a tensor, may be."""
        if i >= self.telling:
            return self.tensors[i - self.telling].domain
        declared = self.operands[self.names[i]]
        if declared.index:
            last = self._last(declared, dims)
            return Interval(f"from 0 to {last}", low=0.0, high=float(last), typical=0.0)
        return declared.domain

    def _last(self, declared: Operand, dims: Dimensions) -> int:
        """The largest that an index may be; a length is one more."""
        last: int = dims.sizes[declared.index] - 1 + (declared.places or 0)
        return last

    def _inside(self, x: Tensor, domain: Domain) -> bool:
        """Whether all numbers are seen to be in an interval, by one look at the smallest and the largest."""
        if domain.everything or x.dtype == torch.bool:
            return True
        if not x.is_cpu or hidden(x.detach()) or not x.numel() or not isinstance(domain, Interval) or domain.whole:
            return False
        low, high = (end.item() for end in x.detach().aminmax())
        return domain.includes(low) and domain.includes(high)

    def _outside(self, operands: Sequence[Tensor], inside: Sequence[bool], dims: Dimensions) -> list[Any]:
        """Where operands leave their domains, for those that may."""
        found = []
        for i, x in enumerate(operands):
            domain = self._domain(i, dims)
            if not inside[i] and not domain.everything and x.dtype != torch.bool:
                x = x.detach()
                wide = x.to(torch.int64) if not x.is_floating_point() else x
                found.append((i, domain.outside(wide, slack_of(x.dtype))))
        return found

    def _bad(
        self, operands: Sequence[Tensor], inside: Sequence[bool], mask: Tensor | None, checks: str, dims: Dimensions
    ) -> Tensor | None:
        """The units to set to NaN, or the error. An index of nothing is bad in every mode."""
        bad = None
        for i, outside in self._outside(operands, inside, dims):
            if checks == "off" and not (i < self.telling and self.operands[self.names[i]].index):
                continue
            here = self._counting(i, operands, mask, dims)
            outside = both(outside, here)
            # Of each unit: an operand without a dimension of the unit is that of all units along it.
            inner = [j for j, name in enumerate(dims.own[i]) if name not in dims.unit]
            outside = outside.any(inner) if inner else outside
            kept = [name for name in dims.own[i] if name in dims.unit]
            outside = arranged(outside, kept, dims.unit).expand(dims.unit_shape)
            bad = outside if bad is None else bad | outside
        if bad is None:
            return None
        bad = both(bad, mask)
        return bad if checks == "off" else eager.apply_checks(self, bad, operands, mask, checks)

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        dims = self.dimensions(operands)
        for i, outside in self._outside(operands, [False] * len(operands), dims):
            here = self._counting(i, operands, mask, dims)
            outside = both(outside, here)
            if bool(outside.any()):
                index = tuple(int(j) for j in outside.nonzero()[0])
                return i + 1, search.place(index, outside.shape), float(operands[i][index])
        raise AssertionError("nothing is bad")

    def shapes(self, operands: Sequence[Tensor]) -> tuple[int, ...]:
        """The shapes of all operands, each after its number of dimensions."""
        return tuple(size for x in operands for size in (x.ndim, *x.shape))

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        shapes, at = list[tuple[int, ...]](), 0
        while at < len(shape):
            shapes.append(shape[at + 1 : at + 1 + shape[at]])
            at += 1 + shape[at]
        name, index = self.names[operand - 1], unravel(place, shapes[operand - 1])
        dims = self.dimensions([torch.empty(own, device="meta") for own in shapes])
        domain = self._domain(operand - 1, dims)
        hint, got = "", shortest(value)
        if operand <= self.telling:
            declared = self.operands[name]
            hint = f" {declared.hint}" if declared.hint else ""
            if declared.index:
                hint = " Indices start at 0." if value == dims.sizes[declared.index] and not declared.places else ""
                got = str(int(value))
        return error("domain", loss=self.name, argument=name, expected=domain.description, got=got, index=index,
                     hint=hint)  # fmt: skip
