"""A call of a class-scores loss that changes the scores of its rows, or weighs classes, before the loss is taken.

1. `target_score` is a formula of one number, the score of the row's own class. It is compiled as a kernel of its own,
   which the kernel of the CPU calls for the rows of a block, where plain cross entropy needs no other; `scaled_by`
   multiplies the scores. A call with two formulas changes its scores first, like all those of note 3.
2. That is done in float64: a cosine times 64 is rounded once more, and its exponential shows it. Of floats it would
   cost 30 ULP. The kernel is as fast with doubles as with floats.
3. Everywhere else the changed scores are a tensor, which the kernel or the formula of the loss without hooks takes: in
   float64, of halves in float32, for the memory.
4. `factor` multiplies the loss of a class and never counts in the denominator of the mean, as a class weight does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.calculus import Differentiable
from losskit.domains import shortest, slack_of
from losskit.errors import error
from losskit.families.class_scores_plan import ClassScoresPlan
from losskit.families.class_scores_statistics import within
from losskit.kernels import eager, gpu, search, wire
from losskit.kernels.ranks import Part
from losskit.kernels.torch_internals import exporting, observed
from losskit.kernels.wire import ClassScoresViolation as Violation
from losskit.plan import Arguments, Dims, Kernel
from losskit.policy import state
from losskit.reduction import denominator
from losskit.traced import Formula, hook
from losskit.validation import broadcasts, check_per_class, check_tensor, unravel


class MarginsOfScoresPlan(ClassScoresPlan):
    """A class-scores loss with `target_score`, `scaled_by` or `factor`; `inner` is the same loss of what they make."""

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        super().__init__(loss, reduction, parameters)
        self.inner = ClassScoresPlan(loss, reduction, parameters)
        weights = [parameters[x] for x in loss._hooks().get("factor", ())]  # of a tensor, whether it is there
        weighed = any(x is not None and x is not False for x in weights)
        there = {"own": loss.own is not None, "factor": weighed, "shift": loss.shift is not None}
        self.names = [*loss._call_operands(), *(name for name, is_there in there.items() if is_there)]
        self.scale = parameters.get(loss.scaled_by, 1.0)  # a number, if it is no operand
        self.changes = loss.target_score is not None or bool(loss.scaled_by)
        self.recorded = not (self.changes or weighed)
        by_row = loss.scaled_by in self.names
        self.gradients = 0b111 if by_row else 0b11
        # The CPU's kernel changes scores itself, by the one formula that a call of it may have.
        self._of_kernel = self.changes and self.formula is None and not (there["shift"] or self.log_probabilities)
        self.direct = self.recorded or (self._of_kernel and not weighed)
        if self._of_kernel:
            self.code |= wire.OPTIONS.pack(family=wire.CLASS_SCORES.family.pack(changed=True))
            own_score: Formula = loss._terms()["target_score"]
            self.formula = own_score
            self.numbers = wire.CLASS_SCORES.given(
                own_score.kernel_values(parameters).values(), smoothing=self.smoothing,
                ignore_index=float(self.ignored), multiple=math.nan if by_row else float(self.scale),
            )  # fmt: skip
        self.margin: Differentiable | None = None
        if loss.target_score is not None:
            self.margin = hook(loss, loss.target_score, ["score", "own"] if loss.own else ["score"], parameters)

    def validated(
        self, operands: Sequence[Any], weight: Any, sample_weight: Any, mask: Any, normalizer: Any
    ) -> Arguments:
        named = dict(zip(self.names, operands, strict=False))
        more = [named[name] for name in ("own", "factor") if name in named]
        given = [named["input"], named["target"], *([named["shift"]] if "shift" in named else [])]
        found = super().validated(given, weight, sample_weight, mask, normalizer)
        input, target, *shift = found.operands
        rows = self.unreduced_shape(found.operands)
        if self.margin is not None and target.is_floating_point():
            raise error("class_indices", loss=self.name, rows=tuple(rows), input=tuple(input.shape),
                        dtype=target.dtype, got=tuple(target.shape), hint="")  # fmt: skip
        classes = input.shape[min(1, input.ndim - 1)]
        for name in ("own", "factor"):
            if name in named:
                check_per_class(self, self.told(name), named[name], input, classes)
        scale = self._of_rows(named)
        for x in scale:
            check_tensor(self.name, self.loss.scaled_by, x, "input", input)
            if not broadcasts(x.shape, rows):
                raise error("not_one_per_row", loss=self.name, argument=self.loss.scaled_by, expected=tuple(rows),
                            got=tuple(x.shape), hint="")  # fmt: skip
        return found._replace(operands=[input, target, *scale, *more, *shift])

    def _of_rows(self, named: dict[str, Any]) -> list[Any]:
        """The operand that multiplies the scores, one for each row, if there is one."""
        return [named[self.loss.scaled_by]] if self.loss.scaled_by in named else []

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        input, target, *others = tensors
        found = super().dims_of_rows([input, target], arguments)
        for name, x in zip([*self.names[2:], ""], others, strict=False):
            of_rows = name == self.loss.scaled_by and isinstance(x, Tensor)
            found.append(tuple(range(x.ndim)) if of_rows else (None,))
        return found

    def fused(self, kernel: Kernel, arguments: Arguments, result: torch.dtype | None = None) -> Tensor | None:
        input, target, *_ = arguments.operands
        if self._of_kernel and input.is_cpu and not (gpu.takes(input) or target.is_floating_point()):
            loss = kernel(self, self._for_kernel(arguments), result)
            if loss is not None:
                return loss
        return self.inner.fused(kernel, self._completed(arguments, state.checks, fast=True), result)

    def eager(self, arguments: Arguments, checks: str, part: Part | None = None) -> Tensor:
        return self.inner.eager(self._completed(arguments, checks, fast=False, part=part), checks, part)

    def _for_kernel(self, arguments: Arguments) -> Arguments:
        """With a number for each row where an operand multiplies the scores, and without a factor."""
        named = dict(zip(self.names, arguments.operands, strict=True))
        rows = self.unreduced_shape(arguments.operands)
        of_rows = [x if x.shape == rows else x.expand(rows) for x in self._of_rows(named)]
        own = [named["own"]] if "own" in named else []
        changed = self._with_factor(arguments, named.get("factor"))
        return changed._replace(operands=[named["input"], named["target"], *of_rows, *own])

    def _kept(self, x: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """The operand that multiplies the scores, checked where a row counts, and harmless elsewhere."""
        x = torch.where(self.kept(target, mask), x, self.loss.operands[self.loss.scaled_by].domain.typical)
        checked: Tensor = self.loss._in_domain(self.loss.scaled_by, x)
        return checked

    def _made(self, score: Tensor, own: Tensor | None, index: Tensor) -> tuple[Tensor, Tensor]:
        """What is in the place of the own class's score, and its slope."""
        if self.margin is None:
            return score, torch.ones_like(score)
        taken = [score, *([] if own is None else [own.detach().to(score.dtype)[index]])]
        slope = self.margin.gradients()[0](*taken)
        return self.margin(*taken), slope if isinstance(slope, Tensor) else torch.full_like(score, slope)

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        if operand != Violation.MULTIPLE_OF_ROW:
            return super().sighted(shape, operand, place, value)
        sizes = [shape[d] for d in shape[len(shape) // 2 + 1 :]]
        return self._outside(self.loss.scaled_by, f"{value:.7g}", unravel(place, sizes))

    def _told(self, violation: int, index: tuple[int, ...], value: float) -> Exception:
        if violation != Violation.OWN_SCORE:
            return super()._told(violation, index, value)
        return self._outside("input", shortest(value), index)

    def _outside(self, name: str, got: str, index: tuple[int, ...]) -> Exception:
        operand = self.loss.operands[name]
        hint = f" {operand.hint}" if operand.hint else ""
        return error("domain", loss=self.name, argument=name, expected=operand.domain.description, got=got,
                     index=index, hint=hint)  # fmt: skip

    def spread(self, upstream: Tensor, ndim: int) -> Tensor:
        return super().spread(upstream, ndim) if ndim > upstream.ndim else upstream

    def _completed(self, arguments: Arguments, checks: str, fast: bool, part: Part | None = None) -> Arguments:
        """The arguments of the loss without hooks."""
        named = dict(zip(self.names, arguments.operands, strict=False))
        self.inner.key = self.key
        input, target = named["input"], named["target"]
        told = arguments.result or dtypes.result_dtype([input, target])
        if self.changes:
            own, scale = named.get("own"), self.scale
            for x in self._of_rows(named):
                scale = self._kept(x, target, arguments.mask)
            fast = fast and not (target.is_floating_point() or (own is not None and own.requires_grad))
            given = input, target, scale, own, checks, arguments.mask
            input = _Changed.apply(self, *given) if fast else self.changed(*given, part)
        if self.changes and arguments.weight is not None:  # the kernel takes no halves beside wider scores
            arguments = arguments._replace(weight=arguments.weight.to(input.dtype))
        arguments = self._with_factor(arguments, named.get("factor"))
        shift = [named["shift"]] if "shift" in named else []
        return arguments._replace(operands=[input, target, *shift], result=told)

    def _with_factor(self, arguments: Arguments, factor: Tensor | None) -> Arguments:
        """The factor as part of the weight, and the mean's denominator without it."""
        if factor is None:
            return arguments
        input, weight = arguments.operands[0], arguments.weight
        normalizer = arguments.normalizer
        if self.reduction == "mean" and normalizer is None:
            weights, kept = self.counted(arguments)
            rows, like = self.unreduced_shape(arguments.operands), input.new_empty((), dtype=_double(input))
            of_right = weights[0] if weights else None
            normalizer = denominator(rows, like, weight=of_right, sample_weight=arguments.sample_weight, mask=kept)
        return arguments._replace(weight=factor if weight is None else weight * factor, normalizer=normalizer)

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        return super().counted(arguments._replace(operands=arguments.operands[:2]))

    # -- the scores -----------------------------------------------------------------------------------------

    def picked(
        self, input: Tensor, target: Tensor, checks: str, mask: Tensor | None, part: Part | None = None
    ) -> tuple[int, Tensor, Tensor]:
        """The dimension of the classes, the index of each row's own one, and its score, checked."""
        dim = min(1, input.ndim - 1)
        index = within(target, input.shape[dim] if part is None else part.total).unsqueeze(dim)
        kept = self.kept(target, mask).unsqueeze(dim)
        domain = self.loss.operands["input"].domain
        if part is None:
            score = input.gather(dim, index)
        else:
            score = part.pick(input.movedim(dim, -1), index.movedim(dim, -1)).movedim(-1, dim)
        score = torch.where(kept, score, domain.typical)  # 0 times a slope of NaN would be NaN
        if checks == "off" or domain.everything:
            return dim, index, score
        bad = domain.outside(score.detach(), slack_of(input.dtype)) & kept
        hidden = torch.compiler.is_compiling() or observed() or not input.is_cpu
        if checks == "nan" or hidden:
            return dim, index, torch.where(bad, float("nan"), score)
        place = search.first(lambda x: x, [bad])
        if place is not None:
            at = (*place[:dim], int(index[place]), *place[dim + 1 :])
            raise self._outside("input", shortest(score[place].item()), at)
        return dim, index, score

    def changed(
        self, input: Tensor, target: Tensor, scale: Any, own: Tensor | None, checks: str, mask: Tensor | None,
        part: Part | None = None,
    ) -> Tensor:  # fmt: skip
        """The scores that the loss takes, in torch operations that can be differentiated to any order."""
        wide, narrow = _double(input), _of_scores(input)
        scores, dim = input.to(narrow), min(1, input.ndim - 1)
        if self.margin is not None:
            dim, index, score = self.picked(input, target, checks, mask, part)
            taken = [score.to(wide), *([] if own is None else [own.to(wide)[index]])]
            made = eager.apply(self.margin, taken).to(narrow)
            scores = scores.scatter(dim, index, made) if part is None else part.placed(scores, dim, index, made)
        if part is not None and isinstance(scale, Tensor):
            scale = part.ranks.copy(scale)
        return scores * (scale.to(narrow).unsqueeze(dim) if isinstance(scale, Tensor) else scale)


def _double(input: Tensor) -> torch.dtype:
    """The dtype of what is computed for a row. Graphs for other software keep to floats: it may know no others."""
    single = input.device.type == "mps" or exporting()
    return dtypes.compute_dtype([input]) if single else torch.float64


def _of_scores(input: Tensor) -> torch.dtype:
    """The dtype of changed scores."""
    return torch.float32 if input.dtype in dtypes.HALVES else _double(input)


class _Changed(torch.autograd.Function):
    """`changed` in two passes over the scores, one forward and one backward."""

    @staticmethod
    def forward(
        ctx: Any, plan: MarginsOfScoresPlan, input: Tensor, target: Tensor, scale: Any, own: Tensor | None, checks: str,
        mask: Tensor | None,
    ) -> Tensor:  # fmt: skip
        dim, index, score = plan.picked(input, target, checks, mask)
        wide, narrow = _double(input), _of_scores(input)
        made, slope = plan._made(score.to(wide), own, index)
        factor = scale.to(wide).unsqueeze(dim) if isinstance(scale, Tensor) else scale
        scores = input.to(narrow, copy=True).mul_(factor)
        scores.scatter_(dim, index, (made * factor).to(narrow))
        ctx.save_for_backward(input, target, scale if isinstance(scale, Tensor) else None, own, mask)
        ctx.kept = plan, scale, dim, index, slope, made
        return scores

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        input, target, rows, own, mask = ctx.saved_tensors
        plan, scale, dim, index, slope, made = ctx.kept
        if torch.is_grad_enabled():
            wanted = [x for x in (input, rows) if x is not None and x.requires_grad]
            with torch.enable_grad():
                again = plan.changed(input, target, scale if rows is None else rows, own, "off", mask)
                found = iter(torch.autograd.grad(again, wanted, upstream, create_graph=True))
            of_input = next(found) if input.requires_grad else None
            of_scale = next(found) if rows is not None and rows.requires_grad else None
            return None, of_input, None, of_scale, None, None, None
        of_scale = None
        if rows is not None and ctx.needs_input_grad[3]:
            own_part = upstream.gather(dim, index) * (made - input.gather(dim, index).to(made.dtype))
            of_scale = ((upstream * input).sum(dim, keepdim=True, dtype=made.dtype) + own_part).squeeze(dim)
            of_scale = of_scale.sum_to_size(rows.shape).to(rows.dtype)
        gradient = upstream  # the kernel has made it for this function alone
        own_part = (gradient.gather(dim, index) * slope).to(gradient.dtype)
        gradient.scatter_(dim, index, own_part)
        gradient = gradient.mul_(rows.to(made.dtype).unsqueeze(dim) if rows is not None else scale)
        return None, gradient.to(input.dtype), None, of_scale, None, None, None
