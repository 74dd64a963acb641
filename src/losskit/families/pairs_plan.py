"""A call of the pairs family: its arguments validated, the loss in torch operations.

What a formula of the family speaks of is said in `pairs.py`; how blocks are computed, in `pairs_blocks.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit import dtypes
from losskit.domains import positive, shortest
from losskit.errors import error
from losskit.families import pairs_blocks
from losskit.families.pairs_measures import Similarities, distances, unit
from losskit.kernels import eager, fused, library, wire
from losskit.kernels.torch_internals import observed
from losskit.plan import Arguments, Dims, Kernel, Plan
from losskit.policy import state
from losskit.reduction import both, reduce_eagerly
from losskit.traced import Formula
from losskit.validation import check_extras, check_floating, check_tensor, shape_hint, unlike

SIDES = ("positive", "negative")
AGGREGATES = ("log_sum_exp", "sum", "mean", "max", "min")
_EMPTY = {"log_sum_exp": float("-inf"), "sum": 0.0, "mean": 0.0, "max": float("-inf"), "min": float("inf")}
_SCALES = ("temperature", "logit_scale", "logit_bias")
_FIRST = len(wire.Number)  # of the family's own numbers
_LABELS = (*dtypes.INTEGERS, torch.bool)


class Compared(NamedTuple):
    """Rows and columns of a call, as they were given: not yet of length 1, not yet without what is masked."""

    rows: Tensor  # (R, D)
    others: Tensor | None  # the columns (C, D); None where the rows are the columns
    more: Tensor | None  # further columns (K, D)
    row_labels: Tensor  # a row and a column of the same label are a positive pair
    column_labels: Tensor  # also of further columns
    mask: Tensor | None  # (R,)

    @property
    def own(self) -> bool:
        """Whether column i is row i itself, which is no pair."""
        return self.others is None


class PairsPlan(Plan):
    """A loss of pairs with its parameters fixed."""

    op = "pairs"
    direct = False  # until the kernels of the terms are known
    late = True

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.there = [name for name in loss._call_operands() if parameters.get(name, True)]
        self.opened = [p.name for p in loss._operand_params() if not isinstance(parameters[p.name], float)]
        names = [*self.there, *self.opened]
        self.formula: Formula = formula
        self.terms: dict[str, Formula] = loss._terms()
        self.pairing, self.needs = loss.pairing, loss.needs
        cosine = loss.measure == "cosine" and parameters.get("normalize", True)
        self.measure = "cosine" if cosine else "distance" if loss.measure == "distance" else "dot"
        self.symmetric = parameters.get("symmetric", loss.both_ways)
        self.scales = {name: parameters[name] for name in _SCALES if name in parameters}
        self.statistics = [name.partition("_")[::2] for name in formula.operands]
        family = wire.PAIRS.family.pack(
            pairing=wire.Pairing[self.pairing.upper()], measure=wire.Measure[self.measure.upper()],
            needs=wire.Needs[self.needs.upper()], symmetric=self.symmetric,
            more="memory" in self.there or "negatives" in self.there,
            **dict.fromkeys(self.terms, 1), **{x: names.index(x) + 1 for x in self.opened if x in _scales(self.scales)},
        )  # fmt: skip
        given = self._given(parameters, list(numbers.values()))
        super().__init__(loss, reduction, fused.pack(reduction, family=family), names, given)
        self.telling = len(self.there)
        self.differentiable = formula.differentiable(numbers)
        self.of_pairs = {side: term.differentiable(term.kernel_values(parameters)) for side, term in self.terms.items()}

    def _given(self, parameters: dict[str, Any], numbers: list[float]) -> list[float]:
        """What the kernel is told in numbers; the addresses of the terms' kernels are not known yet."""
        fixed = {name: value if isinstance(value, float) else 1.0 for name, value in self.scales.items()}
        scale, bias = _scale_and_bias(fixed)
        codes = [SIDES.index(side) * len(AGGREGATES) + AGGREGATES.index(how) for side, how in self.statistics]
        slots = dict.fromkeys(wire.PAIRS.numbers, 0.0)
        for side, term in self.terms.items():
            slots |= {f"{side}_{i}": x for i, x in enumerate(term.kernel_values(parameters).values())}
        slots |= {"scale": scale, "bias": bias, "aggregates": float(sum(x << 4 * i for i, x in enumerate(codes)))}
        return wire.PAIRS.given(numbers, **slots)

    # -- arguments ------------------------------------------------------------------------------------------

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        first, named = operands[0], dict(zip(self.names, operands, strict=True))
        for name, x in named.items():
            check_tensor(self.name, name, x, self.names[0], first)
        embeddings = [name for name in self.there if "target" not in name]
        for name in embeddings:
            check_floating(self.name, name, named[name])
        views = self.pairing == "labels" and first.ndim == 3
        if first.ndim != 2 and not views:
            expected = "of shape (N, D) or (N, V, D)" if self.pairing == "labels" else "of shape (N, D)"
            raise self._wrong(self.names[0], expected, f"shape {tuple(first.shape)}")
        for name in embeddings[1:]:
            self._check_columns(name, named[name], first)
        for name in self.there:
            if "target" in name:
                like = "memory" if name == "memory_target" else self.names[0]
                self._check_labels(name, named[name], like, named.get(like))
        if "memory" in self.there and "memory_target" not in self.there:
            raise error("arguments", loss=self.name, problem="memory needs memory_target, the labels of its rows")
        for name in self.opened:
            if named[name].numel() != 1:
                expected, got = "a number or a tensor with one element", f"shape {tuple(named[name].shape)}"
                raise self._wrong(name, expected, got)
        shape = self.unreduced_shape(operands)
        normalizer = check_extras(self, first, shape, None, (), sample_weight, mask, normalizer)
        return Arguments(list(operands), None, sample_weight, mask, normalizer)

    def _check_columns(self, name: str, x: Tensor, first: Tensor) -> None:
        """Refuse columns of another width, or of another number where there must be as many as rows."""
        more = name in ("memory", "negatives")
        equal = not more and (self.pairing == "views" or self.symmetric)
        enough = x.ndim == 2 and (more or len(x) == len(first) or (not equal and len(x) > len(first)))
        if enough and x.shape[1] == first.shape[-1]:
            return
        if equal:
            raise unlike(self.name, name, x.shape, self.names[0], first.shape)
        rows = "K" if more else f"{len(first)} or more"
        raise self._wrong(name, f"of shape ({rows}, {first.shape[-1]})", f"shape {tuple(x.shape)}")

    def _check_labels(self, name: str, x: Tensor, like: str, of: Any) -> None:
        if of is None:
            raise error("arguments", loss=self.name, problem=f"{name} needs {like}, the rows that it labels")
        if x.dtype not in _LABELS:
            raise error("parameter_type", loss=self.name, argument=name, expected="integer labels", got=x.dtype,
                        hint=f" Use {name}.long()." if not x.is_floating_point() else "")  # fmt: skip
        if x.shape != of.shape[:1]:
            raise error("not_one_per_row", loss=self.name, argument=name, expected=tuple(of.shape[:1]),
                        got=tuple(x.shape), hint=shape_hint(name, x.shape, of.shape[:1]))  # fmt: skip

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        rows = operands[0].shape[:-1]
        return (2 * rows[0],) if self.pairing == "views" else rows

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        return [(None,) * x.ndim for x in tensors[:-1]] + [()]  # every row needs all of them

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        mask = self._mask(arguments)
        if mask is None:
            return [None] * len(arguments.operands)
        found: list[Tensor | None] = []
        for name, x in zip(self.names, arguments.operands, strict=True):
            if name in self.opened or name in ("memory", "negatives", "memory_target"):
                found.append(None)
            elif self.pairing == "views":
                found.append(mask.reshape(2, -1)[len(found)].unsqueeze(1))
            elif self.pairing == "labels":
                found.append(mask.reshape(x.shape[:-1]).unsqueeze(-1) if x.is_floating_point() else None)
            else:
                more = mask.new_ones(len(x) - len(mask))
                found.append(torch.cat([mask, more]).unsqueeze(1))
        return found

    def _mask(self, arguments: Arguments) -> Tensor | None:
        """The mask of rows, one after another."""
        mask = arguments.mask
        return None if mask is None else mask.expand(tuple(self.unreduced_shape(arguments.operands))).reshape(-1)

    def compared(self, arguments: Arguments) -> Compared:
        """Who is compared with whom."""
        named = dict(zip(self.names, arguments.operands, strict=True))
        wide = dtypes.compute_dtype(arguments.operands[: len(self.there)])
        first, second = (named[name] for name in self.there[:2])
        mask = self._mask(arguments)
        if self.pairing == "labels":
            rows = first.flatten(0, -2).to(wide)
            labels = second.long().unsqueeze(1).expand(len(first), first.shape[1] if first.ndim == 3 else 1).reshape(-1)
            if "memory" not in named:
                return Compared(rows, None, None, labels, labels, mask)
            both = torch.cat([labels, named["memory_target"].long()])
            return Compared(rows, None, named["memory"].to(wide), labels, both, mask)
        places = torch.arange(len(second), device=first.device)
        if self.pairing == "diagonal":
            return Compared(first.to(wide), second.to(wide), None, places[: len(first)], places, mask)
        rows, labels = torch.cat([first.to(wide), second.to(wide)]), torch.cat([places, places])
        if "negatives" not in named:
            return Compared(rows, None, None, labels, labels, mask)
        more = named["negatives"].to(wide)
        return Compared(rows, None, more, labels, torch.cat([labels, labels.new_full((len(more),), -1)]), mask)

    def scale_and_bias(self, operands: Sequence[Tensor], wide: torch.dtype) -> tuple[Any, Any]:
        """What multiplies similarities and what is added then: numbers, or tensors with one element."""
        named: dict[str, Any] = self.scales | {
            name: x.reshape(()).to(wide) for name, x in zip(self.names, operands, strict=True) if name in self.opened
        }
        return _scale_and_bias(named)

    def _checked(self, arguments: Arguments, checks: str) -> Arguments:
        """With parameters that are tensors in their domains: an error, or NaN where one is not."""
        operands = list(arguments.operands)
        for i, name in enumerate(self.names):
            domain = self.loss.params[name].domain if name in self.opened else None
            if domain is None or domain.everything or checks == "off":
                continue
            outside = domain.outside(operands[i].detach())
            hidden = torch.compiler.is_compiling() or observed() or not operands[i].is_cpu
            if checks == "nan" or hidden:
                operands[i] = torch.where(outside, float("nan"), operands[i])
            elif bool(outside.any()):
                raise error("parameter", loss=self.name, argument=name, expected=domain.description,
                            got=shortest(operands[i].item()), hint="")  # fmt: skip
        return arguments._replace(operands=operands)

    # -- the loss -------------------------------------------------------------------------------------------

    def fused(self, kernel: Kernel, arguments: Arguments, result: torch.dtype | None = None) -> Tensor | None:
        for side, term in self.terms.items():
            self.numbers[_FIRST + wire.PAIRS.numbers.index(side)] = float(library.address(term))
        self.direct = self.usual_domains
        return kernel(self, self._checked(arguments, state.checks), result)

    @property
    def usual_domains(self) -> bool:
        """Whether the op knows what parameters that are tensors may be: scales above 0, a bias anything."""
        domains = {name: self.loss.params[name].domain for name in self.opened}
        return all(d is None or d.everything or (d == positive and x != "logit_bias") for x, d in domains.items())

    def passes(self, arguments: Arguments) -> str:
        return f"{pairs_blocks.told(self, arguments)}, one pass"

    def eagerly(self, arguments: Arguments) -> str:
        return "" if pairs_blocks.takes(arguments) else "; the whole matrix of similarities is stored"

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        arguments = self._checked(arguments, checks)
        return pairs_blocks.loss(self, arguments, None) if pairs_blocks.takes(arguments) else self.whole(arguments)

    def whole(self, arguments: Arguments) -> Tensor:
        """The loss by the whole matrix of similarities, differentiable to any order."""
        operands, _, sample_weight, _, normalizer, _ = arguments
        rows, others, more, row_labels, column_labels, of_rows = given = self.compared(arguments)
        kept = None
        if of_rows is not None:  # a NaN behind the mask must not reach the gradient as 0 * NaN
            spare = of_rows.new_ones(len(column_labels) - len(of_rows))
            kept = torch.cat([of_rows, spare])
            rows = torch.where(of_rows.unsqueeze(1), rows, 0.0)
            others = None if others is None else torch.where(kept.unsqueeze(1), others, 0.0)
        cosine = self.measure == "cosine"
        rows = unit(rows) if cosine else rows
        columns = rows if others is None else unit(others) if cosine else others
        if more is not None:
            columns = torch.cat([columns, unit(more) if cosine else more])
        scale, bias = self.scale_and_bias(operands, rows.dtype)
        with torch.autocast(rows.device.type, enabled=False):
            found = distances(rows, columns) if self.measure == "distance" else rows @ columns.mT
        similarities = found * scale + bias
        pairs = Similarities(similarities, row_labels, column_labels, 0 if given.own else None, kept)
        values, counts = self.losses(pairs)
        if self.symmetric:
            turned = Similarities(similarities.mT, column_labels, row_labels, None, kept)
            values = 0.5 * values + 0.5 * self.losses(turned)[0]
        shape = tuple(self.unreduced_shape(operands))
        counts = both(counts, of_rows).reshape(shape)
        loss = reduce_eagerly(
            values.reshape(shape), self.reduction, weight=None, weight_in_mean=False, sample_weight=sample_weight,
            mask=counts, normalizer=normalizer,
        )  # fmt: skip
        dtype = arguments.result or dtypes.result_dtype(operands[: len(self.there)])
        return loss.to(dtypes.autocast(dtype, loss.device))

    def losses(self, pairs: Similarities) -> tuple[Tensor, Tensor]:
        """The losses of rows, and which rows count."""
        sides = dict(zip(SIDES, pairs.sides(), strict=True))
        counts = sides["positive"].any(1)
        if self.needs == "both":
            counts = counts & sides["negative"].any(1)
        elif self.needs == "nothing":
            counts = torch.ones_like(counts)
        terms = {}
        for side, chosen in sides.items():
            if any(side == wanted for wanted, _ in self.statistics):
                s = torch.where(chosen, pairs.matrix, 0.0)
                terms[side] = eager.apply(self.of_pairs[side], [s]) if side in self.of_pairs else s
        statistics = [aggregate(how, terms[side], sides[side]) for side, how in self.statistics]
        known = [torch.where(counts, x, 0.0) for x in statistics]
        values = eager.apply(self.differentiable, known)
        return torch.where(counts, values, 0.0), counts


def _scales(named: dict[str, Any]) -> tuple[str, ...]:
    """The parameters that count: beside a temperature there is no scale."""
    return tuple(name for name in _SCALES if name in named and not (name == "logit_scale" and "temperature" in named))


def _scale_and_bias(named: dict[str, Any]) -> tuple[Any, Any]:
    scale = 1.0 / named["temperature"] if "temperature" in named else named.get("logit_scale", 1.0)
    return scale, named.get("logit_bias", 0.0)


def aggregate(how: str, terms: Tensor, chosen: Tensor) -> Tensor:
    """An aggregate of the chosen terms of each row."""
    if how in ("sum", "mean"):
        total = torch.where(chosen, terms, 0.0).sum(1)
        return total if how == "sum" else total / chosen.sum(1).clamp(min=1)
    there = chosen.any(1)
    if terms.shape[1] == 0:
        return terms.sum(1) + _EMPTY[how]
    low = how == "min"
    known = torch.where(chosen, terms, float("inf") if low else float("-inf"))
    if how != "log_sum_exp":
        place = known.argmin(1, keepdim=True) if low else known.argmax(1, keepdim=True)
        return torch.where(there, terms.gather(1, place).squeeze(1), _EMPTY[how])
    most = known.detach().amax(1)
    pivot = torch.where(most.isinf(), 0.0, most)
    powers = torch.where(chosen, torch.exp(torch.where(chosen, terms, 0.0) - pivot.unsqueeze(1)), 0.0).sum(1)
    # All of them may be -inf, whose sum of powers is 0.
    nothing = powers == 0
    return torch.where(nothing, float("-inf"), pivot + torch.where(nothing, 1.0, powers).log())
