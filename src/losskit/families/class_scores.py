"""The class-scores family: a row of scores, one for each class, and the class that is right, or how likely each is.

1. A formula speaks of statistics of the row: `log_probability`, the log-softmax of the class in question;
   `log_sum_exp`; `mean_log_probability`, over the classes. Cross entropy is `-log_probability`; focal, poly-1 and
   generalised cross entropy are other functions of it. The kernel computes the statistics, evaluates the formula on
   arrays of them, and turns its derivatives into the gradient by the scores; none of them needs a kernel of its own.
2. A class index counts the formula of that class. Probabilities count it class by class, each with its share.
   Label smoothing takes `label_smoothing` from these shares and spreads it evenly over all classes.
3. The loss of an almost certain row must keep its digits down to the smallest numbers: where torch rounds it to 0, the
   network stops learning from the row. So the class with the largest score is the pivot of all sums, and
   log-probabilities come from the distances to it and log1p of the sum over the other classes.
4. Class weights multiply the terms of their class. As in torch the mean divides by the sum of the weights of the right
   classes for indices, and by the number of rows for probabilities.
5. Where ranks share the classes (`part`), the eager formula runs on the rank's own classes. Ranks exchange only single
   numbers per row: the largest score, the sum of exponentials, the terms of the right class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from losskit import curves, dtypes
from losskit.calculus import Differentiable
from losskit.declaration import param
from losskit.display import LOSS, Mathematics, Statistic, Writer, Written, gradient_by, symbol, uses
from losskit.domains import Interval, log_probability, probability, real, shortest, slack_of
from losskit.draw import Draw
from losskit.errors import error
from losskit.families.base import Family
from losskit.formula import log, softplus, times
from losskit.graph import Expr, Trace
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.ranks import Part
from losskit.kernels.torch_internals import transforms_active
from losskit.kernels.wire import ClassScoresViolation as Violation
from losskit.plan import Arguments, Dims, Plan
from losskit.policy import state
from losskit.reduction import Reduction, counting, reduce_eagerly
from losskit.spaces import like_softmax
from losskit.traced import Formula
from losskit.validation import (
    check_extras,
    check_floating,
    check_per_class,
    check_tensor,
    class_weight,
    swapped_hint,
    unravel,
)
from losskit_guide.card import Curve, Equation, Given

STATISTICS = wire.names(wire.ClassScoresStatistic)
_ONE_CLASS = " There is one class: for yes or no use binary_cross_entropy_with_logits, or two channels."


class ClassScoresPlan(Plan):
    """A loss of class scores with its parameters fixed."""

    op = "class_scores"
    gradients = 3

    def __init__(self, loss: type[ClassScoresLoss], reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.smoothing = parameters.get("label_smoothing", 0.0)
        self.ignored = parameters["ignore_index"]
        plain = _plain(formula)
        family = wire.CLASS_SCORES.family.pack(
            plain=plain, log_probabilities=loss.log_probabilities, statistics=formula.operands
        )
        names = ["input", "target", *(["shift"] if loss.shift is not None else [])]
        given = wire.CLASS_SCORES.given(
            map(float, numbers.values()), smoothing=self.smoothing, ignore_index=float(self.ignored)
        )
        super().__init__(loss, reduction, fused.pack(reduction, family=family), names, given)
        self.formula = None if plain else formula
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
        input, target, *shift = operands
        for name, x in zip(self.names, operands, strict=True):
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
            check_per_class(self, "shift", x, input, classes)
        normalizer = check_extras(self, input, rows, None, (), sample_weight, mask, normalizer)
        return Arguments([input, target, *shift], weight, sample_weight, mask, normalizer)

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

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        (_, target, *_), weight, _, mask, *_ = arguments
        if target.is_floating_point():
            return [], mask
        target = target.long()
        kept = target != self.ignored
        kept = kept if mask is None else mask & kept
        return [] if weight is None else [weight[_within(target, len(weight))]], kept

    def eager_part(self, arguments: Arguments, checks: str, part: Part) -> Tensor:
        return self.eager(arguments, checks, part)

    def eager(self, arguments: Arguments, checks: str, part: Part | None = None) -> Tensor:
        (input, target, *shift), weight, sample_weight, mask, normalizer, _ = arguments
        wide = dtypes.compute_dtype([input, target])
        if shift and input.device.type != "mps":  # as the kernel
            wide = torch.float64
        dtype = dtypes.result_dtype([input, target])
        soft = target.is_floating_point()
        target = target if soft else target.long()
        scores = input.to(wide).movedim(min(1, input.ndim - 1), -1)
        bad = self._bad(input, target, mask, checks, part)
        kept = mask
        if not soft:
            kept = target != self.ignored if mask is None else mask & (target != self.ignored)
        classes = scores.shape[-1] if part is None else part.total
        own = _itself if part is None else part.own
        each = torch.ones(classes, dtype=wide, device=scores.device) if weight is None else weight.to(wide)
        if not soft:
            right = _within(target, classes)
            of_right = each[right]
        kept, normalizer = counting(
            self.reduction, scores.shape[:-1], scores, weight=None if weight is None or soft else of_right,
            sample_weight=sample_weight, mask=kept, normalizer=normalizer,
        )  # fmt: skip
        if kept is not None:
            scores = torch.where(kept.unsqueeze(-1), scores, 0.0)  # a NaN behind the mask must not reach the gradient
        # An infinite weight multiplies the gradient of its row at the end: within the row it would be inf - inf.
        endless: Tensor | None = None
        if weight is not None and not soft and not self.smoothing:
            of_right, endless = _finite(of_right, endless)
        if sample_weight is not None:
            sample_weight, endless = _finite(sample_weight.to(wide), endless)
        if endless is not None:
            scores = eager.apply(_OF_GRADIENT, torch.broadcast_tensors(scores, endless.unsqueeze(-1)))
        added = own(shift[0].to(wide)) if shift else None
        even = self.smoothing / classes
        if soft:
            shares = target.to(wide).movedim(min(1, target.ndim - 1), -1)
            shares = (shares if kept is None else torch.where(kept.unsqueeze(-1), shares, 0.0)) * (1.0 - self.smoothing)
            values = self._sum_of_terms((shares + even) * own(each), self._statistics(scores, added, part), part)
        else:
            statistics = self._statistics(scores, added, part)
            first = _pick(statistics[0], right.unsqueeze(-1), part)
            picked = [first if x is statistics[0] else x for x in statistics]
            values = self._terms((of_right * (1.0 - self.smoothing)).unsqueeze(-1), picked).squeeze(-1)
            if self.smoothing:
                values = values + self._sum_of_terms(even * own(each), statistics, part)
        if endless is not None:
            values = eager.apply(_OF_VALUE, torch.broadcast_tensors(values, endless))
        loss = reduce_eagerly(
            eager.nan_where(values, bad), self.reduction, weight=None, weight_in_mean=False,
            sample_weight=sample_weight, mask=kept, normalizer=normalizer,
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
        return _statistics(scores, shift, part, "mean_log_probability" in self.statistics)

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
            bad, picked = self._no_classes(target, classes), None
            if checks == "off":
                checks = "nan"  # such a row has no loss, whatever is checked
            elif self.log_probabilities:
                right = torch.where(bad | (target == self.ignored), 0, target).unsqueeze(-1)
                picked = _pick(input.detach().movedim(dim, -1), right, part)
                bad = bad | (log_probability.outside(picked.squeeze(-1)) & (target != self.ignored))
            if part is not None:  # errors describe the whole input; every class stands for the right one's score
                told = torch.zeros((), dtype=input.dtype).expand(bad.shape).unsqueeze(-1) if picked is None else picked
                input = told.expand(*bad.shape, classes).movedim(-1, dim)
        bad = bad if mask is None else bad & mask
        if part is None:
            return eager.apply_checks(self, bad, [input, target], mask, checks)
        bad = part.agreed(lambda: eager.apply_checks(self, bad, [input, target], mask, checks))
        return bad if bad is None else part.ranks.reduced(bad.to(torch.uint8), "MAX") > 0

    def spread(self, upstream: Tensor) -> Tensor:
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
        if target.is_floating_point():
            counts = arguments.mask
        else:
            counts = target != self.ignored if arguments.mask is None else (target != self.ignored) & arguments.mask
        of_input = None if counts is None else counts.expand(rows).unsqueeze(min(1, input.ndim - 1))
        return [of_input, of_input if target.is_floating_point() else None, *[None for _ in shift]]

    def refuse(self, operands: Sequence[Tensor], mask: Tensor | None) -> NoReturn:
        input, target = operands[:2]
        input, target = input.detach(), target.detach()
        dim = min(1, input.ndim - 1)
        classes = input.shape[dim]
        rows = input.movedim(dim, -1)
        counts = torch.ones((), dtype=torch.bool) if mask is None else mask
        counts = counts.expand(rows.shape[:-1])
        if target.is_floating_point():
            counts = counts.unsqueeze(dim).expand(input.shape)
            index = search.first(lambda q, kept: probability.outside(q, slack_of(q.dtype)) & kept, [target, counts])
            assert index is not None, "the kernel reported a violation that the eager check does not see"
            raise self._no_probability(index, target[index].item())
        index = search.first(lambda y, kept: self._no_classes(y.long(), classes) & kept, [target, counts])
        if index is not None:
            raise self._no_class(index, int(target[index]), classes)

        def too_large(y: Tensor, kept: Tensor, scores: Tensor) -> Tensor:
            kept = kept & (y.long() != self.ignored)
            picked = scores.gather(-1, torch.where(kept, y.long(), 0).unsqueeze(-1)).squeeze(-1)
            return log_probability.outside(picked) & kept

        index = search.first(too_large, [target, counts, rows])
        assert index is not None, "the kernel reported a violation that the eager check does not see"
        value = rows[index][int(target[index])].item()
        raise self._no_log_probability((*index[:dim], int(target[index]), *index[dim:]), value)

    def _no_classes(self, target: Tensor, classes: int) -> Tensor:
        """Where an index is neither a class nor `ignore_index`."""
        return ((target < 0) | (target >= classes)) & (target != self.ignored)

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
            return self._no_class(of_row, int(value), classes)
        tell = self._no_log_probability if operand == Violation.LOG_PROBABILITY else self._no_probability
        return tell((*of_row[:dim], label, *of_row[dim:]), value)

    def _no_class(self, index: tuple[int, ...], value: int, classes: int) -> Exception:
        hint = f" Pass ignore_index={value} to skip such rows." if value < 0 or value == 255 else ""
        hint = " Class indices start at 0." if value == classes else hint
        hint = _ONE_CLASS if value >= classes == 1 else hint
        return error("class_index", loss=self.name, classes=classes, got=value, index=index, hint=hint)

    def _no_probability(self, index: tuple[int, ...], value: float) -> Exception:
        return error("domain", loss=self.name, argument="target", expected=probability.description,
                     got=shortest(value), index=index, hint="")  # fmt: skip

    def _no_log_probability(self, index: tuple[int, ...], value: float) -> Exception:
        return error("domain", loss=self.name, argument="input", expected=log_probability.description,
                     got=shortest(value), index=index, hint=" Pass log_softmax(scores, dim=1).")  # fmt: skip


def _itself(x: Tensor) -> Tensor:
    return x


def _within(target: Tensor, classes: int) -> Tensor:
    """Class indices, with 0 in place of an index that is no class."""
    return torch.where((target >= 0) & (target < classes), target, 0).long()


def _pick(x: Tensor, index: Tensor, part: Part | None) -> Tensor:
    """The entries of the classes (last dimension) in `index`."""
    return x.gather(-1, index) if part is None else part.pick(x, index)


def _plain(formula: Formula) -> bool:
    """Whether a loss is plain cross entropy, which the kernel knows."""
    return formula.value is -formula.trace.variable("log_probability")


def _statistics(
    scores: Tensor, shift: Tensor | None, part: Part | None, mean: bool
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The statistics of rows (last dimension): log-probabilities, log-sum-exp, mean log-probability.

    shift: is added to the scores' distances to the largest sum: added to a score, it would lose digits.
    part: this rank's classes; log-probabilities are of these classes, the other statistics of all.
    mean: whether the mean log-probability is wanted.
    """
    sums = scores if shift is None else scores + shift
    places = torch.arange(scores.shape[-1], device=scores.device)
    if part is None:
        pivot, copy = sums.argmax(-1, keepdim=True), _itself
    else:
        pivot, copy, places = part.largest(sums.detach()), part.ranks.copy, places + part.start
    largest = _pick(sums, pivot, part)
    score = copy(largest if shift is None else _pick(scores, pivot, part))
    distance = scores - score
    # Without this correction, the rounding of a distance of 80 costs 40 ULP of its exponential.
    error = _rounded_off(scores, score, distance)
    if shift is not None:
        at_pivot = copy(_pick(shift.expand_as(scores), pivot, part))
        farther, steps = distance, shift - at_pivot
        distance = farther + steps
        error = error + _rounded_off(farther, -steps, distance) + _rounded_off(shift, at_pivot, steps)
    distance, e = _exponentials(scores, sums, copy(largest), distance, error.detach(), places == pivot)
    others = torch.where(places == pivot, 0.0, e)
    rest = torch.log1p(others.sum(-1, keepdim=True) if part is None else part.total_of(others))
    log_probabilities = distance - copy(rest)
    if not mean:
        return log_probabilities, largest + rest, rest
    total = log_probabilities.sum(-1, keepdim=True) if part is None else part.total_of(log_probabilities)
    return log_probabilities, largest + rest, total / (scores.shape[-1] if part is None else part.total)


def _exponentials(
    scores: Tensor, sums: Tensor, largest: Tensor, distance: Tensor, error: Tensor, is_pivot: Tensor
) -> tuple[Tensor, Tensor]:
    """The distances to the largest score, also in the limit of infinite ones, and their exponentials."""
    # The limit: infinite scores share the probability. Its gradient flows as through a finite distance.
    ends = torch.where(sums == largest, 0.0, float("-inf")).to(distance.dtype)
    distance = torch.where(largest == float("inf"), eager.apply(_LIMIT, [distance, ends]), distance)
    # The pivot's own distance is a constant: its gradient of 1 would swallow the gradient of the others' small sum.
    distance = torch.where(is_pivot, 0.0, distance)
    nothing = largest == float("-inf")
    distance = torch.where(nothing, eager.nan_where(scores, nothing), distance)
    e = torch.exp(distance)
    return distance, e + e * torch.where(error.isfinite(), error, 0.0)


def _of_two(declare: Callable[..., Any]) -> Differentiable:
    """A function of two numbers with declared gradients, which are not its derivatives."""
    trace = Trace()
    value, *gradients = declare(trace.variable("x"), trace.variable("y"), trace.constant(0.0), trace.constant(1.0))
    made = Differentiable(value, ["x", "y"], {}, gradients)
    made.prepare({})
    return made


_LIMIT = _of_two(lambda x, y, zero, one: (y * one, one, zero))  # the second, with the gradient of the first
_OF_GRADIENT = _of_two(lambda x, y, zero, one: (x * one, y * one, zero))  # the first, its gradient times the second
_OF_VALUE = _of_two(lambda x, y, zero, one: (x * y, one, x * one))  # the product, with the gradient of the first


def _finite(weight: Tensor, endless: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights with 1 in place of infinite ones; and the infinite ones (else 1), times `endless`, if given."""
    infinite = weight.isinf()
    apart = torch.where(infinite, weight, 1.0)
    return torch.where(infinite, 1.0, weight), apart if endless is None else apart * endless


def _rounded_off(a: Tensor, b: Tensor, difference: Tensor) -> Tensor:
    """The rounding error of `difference` = a - b (Knuth's two-sum)."""
    taken = a - difference
    return (a - (difference + taken)) + (taken - b)


def _two_classes(cls: type[ClassScoresLoss], formula: Formula) -> Callable[[Expr], dict[str, Any]]:
    """The statistics of a row of two classes whose scores are a margin and 0, and the loss under smoothing."""

    def statistics(margin: Expr) -> dict[str, Any]:
        right, wrong = -softplus(-margin), -softplus(margin)
        every = {
            "log_probability": right,
            "log_sum_exp": softplus(margin),
            "mean_log_probability": 0.5 * right + 0.5 * wrong,
        }
        if "label_smoothing" not in cls.arguments.split():
            return every
        numbers: dict[str, Any] = {name: margin.trace.variable(name) for name in formula.numbers}
        share = 0.5 * margin.trace.variable("label_smoothing")
        taken = inspect.signature(cls.value).parameters
        own = {name: x for name, x in (every | numbers | formula.switches).items() if name in taken}
        other = own | ({"log_probability": wrong} if "log_probability" in own else {})
        return {"result": times(1.0 - share, cls.value(**own)) + times(share, cls.value(**other))}

    return statistics


SPOKEN = (
    Statistic(
        "log_probability", Written(r"\log p_t", "log pₜ"), "log-probability of the target class", log_probability
    ),
    Statistic(
        "log_sum_exp",
        Written(r"\operatorname{lse}(x)", "lse(x)"),
        "logarithm of the sum of the exponentials of the scores",
    ),
    Statistic(
        "mean_log_probability", Written(r"\overline{\log p}", "mean(log p)"), "mean log-probability over the classes"
    ),
)
# How people write what the family adds to it.
_LETTERS = {
    **{statistic.name: statistic.letter for statistic in SPOKEN}, "p_": Written("p_t", "pₜ"),
    "softmax_": Written(r"\operatorname{softmax}(x)_j", "softmax(x)ⱼ"), "hot_": Written("[j = t]", "[j = t]"),
    "classes_": Written("C", "C"),
}  # fmt: skip
_WRITTEN = {
    "p_": (r"p_t = \frac{e^{x_t}}{\sum_j e^{x_j}}", "pₜ = exp(xₜ) / Σⱼ exp(xⱼ)"),
    "log_sum_exp": (r"\operatorname{lse}(x) = \log \sum_j e^{x_j}", "lse(x) = log Σⱼ exp(xⱼ)"),
    "mean_log_probability": (
        r"\overline{\log p} = \frac{1}{C} \sum_j \log \operatorname{softmax}(x)_j",
        "mean(log p) = 1/C Σⱼ log softmax(x)ⱼ",
    ),
}
_WITH = {
    "weight": (r"\ell = w_t \ell_t", "ℓ = wₜ ℓₜ"),
    "label_smoothing": (r"\ell = (1 - s) \, \ell_t + \frac{s}{C} \sum_j \ell_j", "ℓ = (1 − s) ℓₜ + s/C Σⱼ ℓⱼ"),
}
_SYMBOLS = [
    symbol("input", "score of class j in the row", Written("x_j", "xⱼ")),
    symbol("target", "class of the row", Written("t", "t")),
    symbol("[j = t]", "1 for the class of the row, 0 for the others", Written("[j = t]", "[j = t]")),
    symbol("weight", "that of the class of the row", Written("w_t", "wₜ")),
    symbol("label_smoothing", "over C classes", Written("s", "s")),
]


class ClassScoresLoss(Family, abstract=True):
    """A loss of rows of class scores; the base class of built-in and custom ones.

    A subclass declares a docstring, parameters, `facts`, `cases` and the rest as every loss does, and

    - `value`, a static method over the formula language: its arguments are statistics of the row, any of
      `log_probability`, `log_sum_exp` and `mean_log_probability`, and then the parameters;
    - optionally `shift`, a static method of parameters: a tensor with a number for each class that is added to the
      scores (logit adjustment). It is an ordinary torch function.

    The input is (N, C), (N, C, d1, ...) or (C,); the target is class indices, of the shape of the input without C, or
    probabilities of the shape of the input. Class `weight`, `ignore_index` and `label_smoothing` work for every loss
    whose `arguments` name them. Instances also take, by keyword, `sample_weight`, `mask` and `normalizer`.
    """

    reduction: Reduction = param(default="mean", doc="'none': a loss per row; 'mean': their mean; 'sum': their sum.")
    weight: Tensor | None = param(default=None, doc="Weight of each class, a tensor of shape (C,).")
    ignore_index: int = param(default=-100, domain=real, doc="Rows with this target do not count.")
    label_smoothing: float = param(
        default=0.0, domain=Interval("in [0, 1]", low=0.0, high=1.0),
        doc="Share of the target that is spread evenly over all classes.",
    )  # fmt: skip

    _statistics = SPOKEN
    _harmless = {"log_probability": -1.0, "mean_log_probability": -1.0}
    log_probabilities: ClassVar[bool] = False  # the input is log-probabilities; only that of the target is read
    shift: ClassVar[Callable[..., Tensor] | None] = None
    _plan_class = ClassScoresPlan

    _label = "class scores"

    @classmethod
    def _curve(cls) -> Curve | None:
        formulas = cls._formulas.all()
        if cls.log_probabilities:
            (spoken,) = (x for x in SPOKEN if x.name == "log_probability")
            ways = curves.as_they_are(formulas)
            return curves.of_trace(cls, spoken.name, "log_probability", (-6.0, 0.0), [], ways, spoken.meaning)
        ways = [(f.switches, f.numbers, _two_classes(cls, f)) for f in formulas]
        given = []
        if "label_smoothing" in cls.arguments.split():
            given.append(Given("label_smoothing", cls.params["label_smoothing"].doc, 0.0, 0.0, 1.0))
        label = "score of the right class less that of the other, of two classes"
        return curves.of_trace(cls, "score_margin", "logit", (-6.0, 6.0), given, ways, label)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        classes = 1 if len(shape) > 1 else 0
        scores = draw.normal(*shape)
        target = draw.integers(0, shape[classes], *shape[:classes], *shape[classes + 1 :])
        return [scores.log_softmax(classes) if cls.log_probabilities else scores, target]

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        trace, used = write.trace, write.formula.operands
        value, of_rows = write.value, [Equation("where", *_WRITTEN[name]) for name in STATISTICS[1:] if name in used]
        write.letters = dict(_LETTERS)
        probability = trace.variable("p_")
        slopes = {name: write.slope(name) for name in used}
        if cls.log_probabilities:
            write.letters["log_probability"] = Written("x_t", "xₜ")
        elif list(used) == ["log_probability"] and uses(value, "log_probability") == 1:
            write.letters["log_probability"] = Written(
                r"\log \frac{e^{x_t}}{\sum_j e^{x_j}}", "log(exp(xₜ) / Σⱼ exp(xⱼ))"
            )
        elif "log_probability" in used:  # a function of the probability
            of_rows.insert(0, Equation("where", *_WRITTEN["p_"]))
            value = write.simplified(write.replaced(value, "log_probability", log(probability)))
            slopes = {name: write.replaced(x, "log_probability", log(probability)) for name, x in slopes.items()}
        softmax, hot, share = trace.variable("softmax_"), trace.variable("hot_"), 1.0 / trace.variable("classes_")
        inner = {
            "log_probability": -hot if cls.log_probabilities else softmax - hot,
            "log_sum_exp": -softmax,
            "mean_log_probability": softmax - share,
        }  # with the sign that leaves what pushes a score down positive
        slope = write.simplified(sum(write.simplified(-x) * inner[name] for name, x in slopes.items()))
        equations = [
            write.equation("loss", LOSS, value),
            write.equation("gradient by input", gradient_by(Written("x_j", "xⱼ")), slope),
            *of_rows,
        ]
        with_arguments = cls.arguments.split()
        equations += [Equation(f"with {name}", *_WITH[name]) for name in _WITH if name in with_arguments]
        if not cls.log_probabilities:
            equations.append(Equation("with probabilities as target", r"\ell = \sum_j t_j \ell_j", "ℓ = Σⱼ tⱼ ℓⱼ"))
        known = [x for x in _SYMBOLS if x["name"] not in _WITH or x["name"] in with_arguments]
        return Mathematics(equations, known + [symbol(name, cls.params[name].doc) for name in write.formula.numbers])

    @classmethod
    def _means(cls) -> list[Equation]:
        weighted = Equation("mean with weight w", r"L = \frac{\sum_i \ell_i}{\sum_i w_{t_i}}", "L = Σᵢ ℓᵢ / Σᵢ w[tᵢ]")
        return super()._means() + ([weighted] if "weight" in cls.arguments.split() else [])

    @classmethod
    def _call_operands(cls) -> list[str]:
        return ["input", "target"]

    @classmethod
    def _unreduced(cls) -> str:
        return "a tensor of the shape of input without the classes"

    @classmethod
    def _compiled_formulas(cls) -> list[Formula]:
        return [formula for formula in cls._formulas.all() if not _plain(formula)]

    @classmethod
    def _used_elsewhere(cls) -> set[str]:
        return set() if cls.shift is None else set(inspect.signature(cls.shift).parameters)

    @classmethod
    def _slots(cls, prefix: str, class_name: str) -> list[str]:
        if cls.shift is None:
            return cls._call_operands()
        names = inspect.signature(cls.shift).parameters
        arguments = [
            f"{class_name}._in_domain({name!r}, {prefix}{name})" if cls.params[name].kind == "tensor" else prefix + name
            for name in names
        ]
        return [*cls._call_operands(), f"{class_name}.shift({', '.join(arguments)})"]

    def _slot_params(self) -> list[Tensor]:
        shift = type(self).shift
        if shift is None:
            return []
        return [shift(*(self._in_domain(name, getattr(self, name)) for name in inspect.signature(shift).parameters))]

    @classmethod
    def _in_domain(cls, name: str, x: Any) -> Any:
        """A tensor parameter of `shift`, checked like an operand: an error, or NaN where it is bad."""
        domain = cls.params[name].domain
        if state.checks == "off" or domain.everything or not isinstance(x, Tensor):
            return x
        outside = domain.outside(x.detach())
        hidden = torch.compiler.is_compiling() or transforms_active() or not x.is_cpu
        if state.checks == "nan" or hidden:
            return torch.where(outside, float("nan"), x)
        index = search.first(domain.outside, [x.detach()])
        if index is not None:
            raise error("domain", loss=cls.name, argument=name, expected=domain.description,
                        got=f"{x[index].item():.7g}", index=index, hint="")  # fmt: skip
        return x
