"""A call of the class scores family: its arguments validated, the loss in torch operations, bad values named.

What a formula of the family speaks of is said in `class_scores.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.calculus import Differentiable
from losskit.domains import log_probability, probability, shortest, slack_of
from losskit.errors import error
from losskit.families.class_scores_statistics import OF_GRADIENT, OF_VALUE, finite, itself, pick, row_statistics, within
from losskit.formula import times
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.ranks import Part
from losskit.kernels.wire import ClassScoresViolation as Violation
from losskit.plan import Arguments, Dims, Found, Plan
from losskit.reduction import both, counting, reduce_eagerly
from losskit.spaces import like_softmax
from losskit.traced import Formula
from losskit.validation import (
    check_extras,
    check_floating,
    check_per_class,
    check_tensor,
    class_weight,
    no_class,
    outside_classes,
    swapped_hint,
    unravel,
)

STATISTICS = wire.names(wire.ClassScoresStatistic)
_ONE_CLASS = " There is one class: for yes or no use binary_cross_entropy_with_logits, or two channels."


class ClassScoresPlan(Plan):
    """A loss of class scores with its parameters fixed."""

    op = "class_scores"
    gradients = 3
    telling = 2

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.smoothing = parameters.get("label_smoothing", 0.0)
        self.ignored = parameters.get("ignore_index", -100)
        as_it_is = plain(formula)
        family = wire.CLASS_SCORES.family.pack(
            plain=as_it_is, log_probabilities=loss.log_probabilities, statistics=formula.operands
        )
        names = ["input", "target", *(["shift"] if loss.shift is not None else [])]
        given = wire.CLASS_SCORES.given(
            map(float, numbers.values()), smoothing=self.smoothing, ignore_index=float(self.ignored), multiple=1.0
        )
        super().__init__(loss, reduction, fused.pack(reduction, family=family), names, given)
        self.formula = None if as_it_is else formula
        self.refused_by_torch = frozenset({Violation.CLASS_INDEX}) if loss._of_torch() else None
        self.log_probabilities = loss.log_probabilities
        self.statistics = formula.operands
        # A term of the loss: the formula times the share of its class. A share of 0 silences an infinite term.
        share = formula.trace.variable("share_")  # an underscore that no argument may have
        gradients = [formula.value, *(formula.trace.lift(times(share, g)) for g in formula.guarded)]
        root = formula.trace.lift(times(share, formula.value))
        self.term = Differentiable(root, ["share_", *formula.operands], numbers, gradients)
        formula.prepare(self.term)

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        operands = [x for i, x in enumerate(operands) if i < 2 or x is not None]  # a shift may be None
        input, target, *shift = operands
        for name, x in zip(self.names, operands, strict=False):
            check_tensor(self.name, name, x, "input", input)
        check_floating(self.name, "input", input, target, "scores")
        if input.ndim == 0:
            raise error("no_class_dimension", loss=self.name, argument="input")
        rows, classes = input.shape[:1] + input.shape[2:], input.shape[min(1, input.ndim - 1)]
        rows = rows if input.ndim > 1 else torch.Size()
        if classes == 0:
            raise error("no_classes", loss=self.name, got=tuple(input.shape))
        self._check_target(input, target, rows)
        weight = class_weight(self, weight, input, classes)
        for x in shift:
            check_per_class(self, self.told("shift"), x, input, classes)
        normalizer = check_extras(self, input, rows, None, (), sample_weight, mask, normalizer)
        return Arguments([input, target, *shift], weight, sample_weight, mask, normalizer)

    def told(self, hook: str) -> str:
        """The parameter that is meant where what a hook makes of it is wrong."""
        names = self.loss._hooks()[hook]
        return next((x for x in names if self.loss.params[x].kind == "tensor"), hook)

    def _check_target(self, input: Tensor, target: Tensor, rows: Sequence[int]) -> None:
        expected = tuple(rows)
        if target.is_floating_point():
            if self.log_probabilities or target.shape != input.shape:
                hint = ""
                if tuple(target.shape[:1] + target.shape[2:]) == tuple(input.shape) and target.ndim > 1:
                    hint = swapped_hint("input")
                elif tuple(target.shape) == expected:
                    one = input.shape[min(1, input.ndim - 1)] == 1
                    hint = _ONE_CLASS if one else " Use target.long() for class indices."
                kind = "class_indices" if self.log_probabilities else "class_probabilities"
                raise error(kind, loss=self.name, rows=expected, input=tuple(input.shape), dtype=target.dtype,
                            got=tuple(target.shape), hint=hint)  # fmt: skip
            if self.ignored >= 0:
                raise error("ignored_probabilities", loss=self.name, got=self.ignored)
        elif tuple(target.shape) != expected:
            hint = ""
            if target.shape == input.shape:
                hint = " Use target.argmax(1) or, for probabilities, target.float()."
            elif input.ndim > 2 and target.shape == input.shape[:-1]:
                hint = " The classes are dimension 1: did you mean input.movedim(-1, 1)?"
            elif target.shape == (*expected[:1], 1, *expected[1:]):
                hint = " Did you mean target.squeeze(1)?"
            raise error("class_indices", loss=self.name, rows=expected, input=tuple(input.shape), dtype=target.dtype,
                        got=tuple(target.shape), hint=hint)  # fmt: skip

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        input, target, *others = tensors
        of_input: Dims = (0, None, *range(1, input.ndim - 1)) if input.ndim > 1 else (None,)
        of_target: Dims = of_input if target.is_floating_point() else tuple(range(target.ndim))
        return [of_input, of_target, *((None,) for _ in others)]

    def class_dimension(self, ndim: int) -> int:
        return min(1, ndim - 1)

    def kept(self, target: Tensor, mask: Tensor | None) -> Tensor:
        """The rows of class indices that count."""
        kept = target.long() != self.ignored  # a target of bytes would take -100 for 156
        return both(mask, kept)

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        (_, target, *_), weight, _, mask, *_ = arguments
        if target.is_floating_point():
            return [], mask
        return [] if weight is None else [weight[within(target, len(weight))]], self.kept(target, mask)

    def eager_part(self, arguments: Arguments, checks: str, part: Part) -> Tensor:
        return self.eager(arguments, checks, part)

    def eager(self, arguments: Arguments, checks: str, part: Part | None = None) -> Tensor:
        (input, target, *shift), weight, sample_weight, mask, normalizer, told = arguments
        wide = dtypes.compute_dtype([input, target])
        if shift and input.device.type != "mps":  # as the kernel
            wide = torch.float64
        dtype = told or dtypes.result_dtype([input, target])
        soft = target.is_floating_point()
        target = target if soft else target.long()
        scores = input.to(wide).movedim(min(1, input.ndim - 1), -1)
        bad = self._bad(input, target, mask, checks, part)
        classes = scores.shape[-1] if part is None else part.total
        own = itself if part is None else part.own
        each = torch.ones(classes, dtype=wide, device=scores.device) if weight is None else weight.to(wide)
        if not soft:
            right = within(target, classes)
            of_right = each[right]
        kept, normalizer = counting(
            self.reduction, scores.shape[:-1], scores, weight=None if weight is None or soft else of_right,
            sample_weight=sample_weight, mask=mask if soft else self.kept(target, mask), normalizer=normalizer,
        )  # fmt: skip
        if kept is not None:
            scores = torch.where(kept.unsqueeze(-1), scores, 0.0)  # a NaN behind the mask must not reach the gradient
        # An infinite weight multiplies the gradient of its row at the end: within the row it would be inf - inf.
        endless: Tensor | None = None
        if weight is not None and not soft and not self.smoothing:
            of_right, endless = finite(of_right, endless)
        if sample_weight is not None:
            sample_weight, endless = finite(sample_weight.to(wide), endless)
        if endless is not None:
            scores = eager.apply(OF_GRADIENT, torch.broadcast_tensors(scores, endless.unsqueeze(-1)))
        added = own(shift[0].to(wide)) if shift else None
        even = self.smoothing / classes
        if soft:
            shares = target.to(wide).movedim(min(1, target.ndim - 1), -1)
            shares = (shares if kept is None else torch.where(kept.unsqueeze(-1), shares, 0.0)) * (1.0 - self.smoothing)
            values = self._sum_of_terms((shares + even) * own(each), self._statistics(scores, added, part), part)
        else:
            statistics = self._statistics(scores, added, part)
            first = pick(statistics[0], right.unsqueeze(-1), part)
            picked = [first if x is statistics[0] else x for x in statistics]
            values = self._terms((of_right * (1.0 - self.smoothing)).unsqueeze(-1), picked).squeeze(-1)
            if self.smoothing:
                values = values + self._sum_of_terms(even * own(each), statistics, part)
        if endless is not None:
            values = eager.apply(OF_VALUE, torch.broadcast_tensors(values, endless))
        loss = reduce_eagerly(
            eager.nan_where(values, bad), self.reduction, weight=None, weight_in_mean=False,
            sample_weight=sample_weight, mask=mask if soft else self.kept(target, mask), normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def _terms(self, shares: Tensor, statistics: Sequence[Tensor]) -> Tensor:
        """The formula of each class, times its share."""
        known = dict(zip(STATISTICS, statistics, strict=True))
        taken = torch.broadcast_tensors(shares, *(known[name] for name in self.statistics))
        return eager.apply(self.term, taken)

    def _statistics(self, scores: Tensor, shift: Tensor | None, part: Part | None) -> tuple[Tensor, Tensor, Tensor]:
        if self.log_probabilities:
            return (scores if shift is None else scores + shift,) * 3
        return row_statistics(scores, shift, part, "mean_log_probability" in self.statistics)

    def _sum_of_terms(self, shares: Tensor, statistics: Sequence[Tensor], part: Part | None) -> Tensor:
        """The sum over the classes of the formula times a class's share."""
        if part is None:
            return self._terms(shares, statistics).sum(-1)
        of_class, *of_row = statistics
        of_row = of_row if self.log_probabilities else [part.ranks.copy(x) for x in of_row]
        return part.total_of(self._terms(shares, [of_class, *of_row])).squeeze(-1)

    def _bad(self, input: Tensor, target: Tensor, mask: Tensor | None, checks: str, part: Part | None) -> Tensor | None:
        """Rows whose target, or its log-probability, is outside its domain."""
        dim = min(1, input.ndim - 1)
        classes = input.shape[dim] if part is None else part.total
        if target.is_floating_point():
            if checks == "off":
                return None
            bad = probability.outside(target.detach(), slack_of(target.dtype)).any(dim)
        else:
            bad, picked = outside_classes(target, classes, self.ignored), None
            if checks == "off":
                checks = "nan"  # such a row has no loss, whatever is checked
            elif self.log_probabilities:
                right = torch.where(bad | (target == self.ignored), 0, target).unsqueeze(-1)
                picked = pick(input.detach().movedim(dim, -1), right, part)
                bad = bad | (log_probability.outside(picked.squeeze(-1)) & (target != self.ignored))
            if part is not None:  # errors describe the whole input; every class stands for the right one's score
                told = torch.zeros((), dtype=input.dtype).expand(bad.shape).unsqueeze(-1) if picked is None else picked
                input = told.expand(*bad.shape, classes).movedim(-1, dim)
        bad = both(bad, mask)
        if part is None:
            return eager.apply_checks(self, bad, [input, target], mask, checks)
        bad = part.agreed(lambda: eager.apply_checks(self, bad, [input, target], mask, checks))
        return bad if bad is None else part.ranks.reduced(bad.to(torch.uint8), "MAX") > 0

    def spread(self, upstream: Tensor, ndim: int) -> Tensor:
        return upstream.unsqueeze(min(1, upstream.ndim))

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        shape = operands[0].shape
        return shape[:1] + shape[2:] if len(shape) > 1 else ()

    def spaces(self, operands: Sequence[Tensor], mask: Tensor | None) -> list[Exception]:
        input = operands[0].detach()
        dim = min(1, input.ndim - 1)
        if self.log_probabilities:
            return []
        if input.shape[dim] == 1:
            return [error("one_class", loss=self.name)]
        return [error("probabilities", loss=self.name)] if like_softmax(input, dim) else []

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        input, target, *shift = arguments.operands
        rows = self.unreduced_shape(arguments.operands)
        counts = arguments.mask if target.is_floating_point() else self.kept(target, arguments.mask)
        of_input = None if counts is None else counts.expand(rows).unsqueeze(min(1, input.ndim - 1))
        return [of_input, of_input if target.is_floating_point() else None, *[None for _ in shift]]

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        input, target = operands[0].detach(), operands[1].detach()
        dim = min(1, input.ndim - 1)
        classes, rows = input.shape[dim], input.movedim(dim, -1)
        counts = torch.ones((), dtype=torch.bool) if mask is None else mask
        counts = counts.expand(rows.shape[:-1])
        if target.is_floating_point():
            counts = counts.unsqueeze(dim).expand(input.shape)
            index = search.first(lambda q, kept: probability.outside(q, slack_of(q.dtype)) & kept, [target, counts])
            assert index is not None
            of_row = (*index[:dim], *index[dim + 1 :], index[dim])
            return Violation.PROBABILITY, search.place(of_row, rows.shape), target[index].item()
        index = search.first(lambda y, kept: outside_classes(y, classes, self.ignored) & kept, [target, counts])
        if index is not None:
            return Violation.CLASS_INDEX, search.place(index, target.shape), int(target[index])

        def too_large(y: Tensor, kept: Tensor, scores: Tensor) -> Tensor:
            kept = self.kept(y, kept)
            picked = scores.gather(-1, torch.where(kept, y.long(), 0).unsqueeze(-1)).squeeze(-1)
            return log_probability.outside(picked) & kept

        index = search.first(too_large, [target, counts, rows])
        assert index is not None
        index = (*index, int(target[index]))
        return Violation.LOG_PROBABILITY, search.place(index, rows.shape), rows[index].item()

    def shapes(self, operands: Sequence[Tensor]) -> tuple[int, ...]:
        ndim = operands[0].ndim
        return (*operands[0].shape, *(dim for dim in range(ndim) if dim != min(1, ndim - 1)))

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        # `shape` is the input's shape, then the order in which the kernel walked its dimensions other than classes.
        # In the flat index, classes come last.
        shape, order = shape[: len(shape) // 2 + 1], shape[len(shape) // 2 + 1 :]
        dim = min(1, len(shape) - 1)
        classes = shape[dim]
        sizes = [shape[d] for d in order]
        row, label = (place, 0) if operand == Violation.CLASS_INDEX else divmod(place, classes)
        places = dict(zip(order, unravel(row, sizes), strict=True))
        of_row = tuple(places[d] for d in sorted(order))
        if operand == Violation.CLASS_INDEX:
            return no_class(self.name, of_row, int(value), classes, skips="rows", one_class=_ONE_CLASS)
        return self._told(operand, (*of_row[:dim], label, *of_row[dim:]), value)

    def _told(self, violation: int, index: tuple[int, ...], value: float) -> Exception:
        """The error for a bad value of the scores, or of a target of their shape."""
        tell = self._no_log_probability if violation == Violation.LOG_PROBABILITY else self._no_probability
        return tell(index, value)

    def _no_probability(self, index: tuple[int, ...], value: float) -> Exception:
        return error("domain", loss=self.name, argument="target", expected=probability.description,
                     got=shortest(value), index=index, hint="")  # fmt: skip

    def _no_log_probability(self, index: tuple[int, ...], value: float) -> Exception:
        return error("domain", loss=self.name, argument="input", expected=log_probability.description,
                     got=shortest(value), index=index, hint=" Pass log_softmax(scores, dim=1).")  # fmt: skip


def plain(formula: Formula) -> bool:
    """Whether a loss is plain cross entropy, which the kernel knows."""
    return formula.value is -formula.trace.variable("log_probability")
