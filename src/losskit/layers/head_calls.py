"""A call of a loss with features and the weights of a last layer: what it says, and what it makes of scores.

Arguments are checked as the loss checks them, beside scores that nobody has made: tensors of their shape that take no
memory. So what does not fit is told in the words of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losskit.errors import error
from losskit.helpers import place_top_k, soft_cap
from losskit.kernels import dispatch, fused, gpu
from losskit.kernels.choice import PLAIN, from_kernel, why_eager
from losskit.kernels.ranks import Part
from losskit.kernels.torch_internals import observed
from losskit.plan import Arguments
from losskit.policy import state
from losskit.reduction import both
from losskit.validation import check_floating, check_tensor, outside_classes


class Head(NamedTuple):
    """Features (N, D), and the weights (C, D) and bias (C,) of a last layer."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None

    def scores(self) -> Tensor:
        return F.linear(*self)

    def scores_in(self, memory: Tensor) -> Tensor:
        """The scores, without a gradient, in memory for as many rows or more."""
        found = memory[: len(self.input)]
        if self.bias is None:
            torch.mm(self.input, self.weight.t(), out=found)
        else:
            torch.addmm(self.bias, self.input, self.weight.t(), out=found)
        return found

    def memory(self, rows: int) -> Tensor:
        """For the scores of some rows."""
        return self.input.new_empty(rows, len(self.weight))

    def to(self, dtype: torch.dtype) -> Head:
        return Head(*(x if x is None else x.to(dtype) for x in self))  # type: ignore[arg-type]

    def detach(self) -> Head:
        return Head(*(x if x is None else x.detach() for x in self))  # type: ignore[arg-type]


class Teacher(NamedTuple):
    """A last layer whose scores are the target, and the cap of these scores."""

    head: Head
    cap: float | None

    @property
    def told(self) -> Tensor:
        """What has the dtype of the scores."""
        return self.head.input

    def rows(self, begin: int, end: int) -> Teacher:
        return Teacher(self.head._replace(input=self.head.input[begin:end]), self.cap)

    def to(self, dtype: torch.dtype) -> Teacher:
        """Under autocast."""
        return Teacher(self.head.to(dtype), self.cap)

    def tensors(self) -> list[Tensor]:
        return [x for x in self.head if x is not None]

    def memory(self, rows: int) -> Tensor:
        return self.head.memory(rows)

    def scores(self, memory: Tensor | None) -> Tensor:
        return soft_cap(self.head.scores() if memory is None else self.head.scores_in(memory), self.cap)


class TopK(NamedTuple):
    """The scores (N, K) of a teacher's best classes, and which of how many classes these are."""

    told: Tensor
    indices: Tensor
    classes: int

    def rows(self, begin: int, end: int) -> TopK:
        return TopK(self.told[begin:end], self.indices[begin:end], self.classes)

    def to(self, dtype: torch.dtype) -> TopK:
        """Under autocast nothing changes: there is no matrix product."""
        return self

    def tensors(self) -> list[Tensor]:
        return [self.told, self.indices]

    def memory(self, rows: int) -> Tensor:
        return self.told.new_empty(rows, self.classes)

    def scores(self, memory: Tensor | None) -> Tensor:
        rows = len(self.told)
        return place_top_k(self.told, self.indices, self.memory(rows) if memory is None else memory[:rows])


class Apart(NamedTuple):
    """A teacher's scores (..., C) whose rows no view has in one dimension, such as x[:, :-1]: a chunk's are copied."""

    told: Tensor
    begin: int
    end: int

    def rows(self, begin: int, end: int) -> Apart:
        return Apart(self.told, self.begin + begin, self.begin + end)

    def to(self, dtype: torch.dtype) -> Apart:
        """Under autocast nothing changes: there is no matrix product."""
        return self

    def tensors(self) -> list[Tensor]:
        return [self.told]

    def memory(self, rows: int) -> Tensor:
        return self.told.new_empty(rows, self.told.shape[-1])

    def scores(self, memory: Tensor | None) -> Tensor:
        places = torch.arange(self.begin, self.end, device=self.told.device)
        found = self.memory(len(places)) if memory is None else memory[: len(places)]
        return found.copy_(self.told[torch.unravel_index(places, self.told.shape[:-1])])


@dataclass(frozen=True)
class Term:
    """A loss of the scores: its plan, the tensors of its parameters, the weight of the classes."""

    plan: Any  # a plan of class scores
    slots: list[Tensor]
    weight: Tensor | None
    targets: bool = True  # whether it takes the operands of the call

    def operands(self, scores: Tensor, given: Sequence[Any]) -> list[Any]:
        """What it takes after the scores."""
        return list(given) if self.targets else [self.plan.loss._no_target(scores)]


@dataclass(frozen=True)
class Call:
    """A call without features and weights: the losses that are added, and tensors with an entry for each row."""

    terms: list[Term]
    cap: float | None
    shape: tuple[int, ...]  # of the scores of a row
    operands: list[Tensor]
    sample_weight: Tensor | None
    mask: Tensor | None
    normalizer: Tensor | float | None
    part: Part | None = None  # this rank's classes, where ranks share them
    widest: int = 0  # the most classes that a rank has
    told: torch.dtype | None = None  # the dtype of a reduced loss
    teacher: Teacher | TopK | Apart | None = None  # what makes the first operand

    @property
    def reduction(self) -> str:
        return str(self.terms[0].plan.reduction)

    def rows(self, begin: int, end: int) -> Call:
        """The call of some of the rows."""
        sample_weight, mask = (None if x is None else x[begin:end] for x in (self.sample_weight, self.mask))
        teacher = None if self.teacher is None else self.teacher.rows(begin, end)
        operands = [x[begin:end] for x in self.operands]
        return replace(self, operands=operands, sample_weight=sample_weight, mask=mask, teacher=teacher)

    def taught(self, memory: Tensor | None = None) -> Call:
        """With the teacher's scores as an operand, in memory that is there for them."""
        if self.teacher is None:
            return self
        return replace(self, operands=[self.teacher.scores(memory), *self.operands], teacher=None)

    def told_by(self, input: Tensor) -> list[Tensor]:
        """The tensors that tell the dtype of the loss."""
        return [input, *([self.teacher.told] if self.teacher is not None else self.operands[:1])]

    def of(self, scores: Tensor, result: torch.dtype | None = None) -> Tensor:
        """The loss of these scores."""
        if self.teacher is not None:
            return self.taught().of(scores, result)
        scores = soft_cap(scores.unflatten(-1, self.shape) if len(self.shape) > 1 else scores, self.cap)
        losses = [self._term(term, scores, result) for term in self.terms]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)

    def over(self, scores: Tensor, result: torch.dtype | None) -> tuple[Tensor, Tensor] | None:
        """The loss of a chunk's scores and its gradient, written over them; None where the kernel cannot do that."""
        term, *more = self.terms
        if self.part is not None or more or self.cap is not None or len(self.shape) > 1 or not term.plan.direct:
            return None
        operands = [scores, *term.operands(scores, self.operands), *term.slots]
        args = term.plan.validated(operands, term.weight, self.sample_weight, self.mask, self.normalizer)
        if why_eager(term.plan, args) is not None:
            return None
        return (gpu if gpu.takes(scores) else fused).overwriting(term.plan, args, result)

    def of_nobody(self, term: Term, rows: int, like: Tensor, weight: Tensor | None) -> Arguments:
        """The validated arguments of a term, beside scores that nobody has made."""
        classes, *more = self.shape
        scores = like.new_zeros(()).expand(rows, classes if self.part is None else self.part.total, *more)
        made = [] if self.teacher is None else [self.teacher.told.new_zeros(()).expand(scores.shape)]
        operands = term.operands(scores, [*made, *self.operands])
        if self.part is not None and operands[0].is_floating_point():
            operands[0] = operands[0].new_zeros(()).expand(scores.shape)
        extras = self.sample_weight, self.mask, self.normalizer
        found: Arguments = term.plan.validated([scores, *operands, *term.slots], weight, *extras)
        return found

    def _term(self, term: Term, scores: Tensor, result: torch.dtype | None) -> Tensor:
        if self.part is not None:
            args = self.of_nobody(term, len(scores), scores, term.weight)
            target = term.operands(scores, self.operands)[0]
            args = args._replace(operands=[scores, target, *args.operands[2:]], result=result)
            loss: Tensor = term.plan.eager_part(args, self.part.agreed.checks, self.part)
            return loss
        operands = [scores, *term.operands(scores, self.operands), *term.slots]
        extras = self.sample_weight, self.mask, self.normalizer
        if result is None:
            return dispatch.run(term.plan, operands, term.weight, *extras)
        args = term.plan.validated(operands, term.weight, *extras)._replace(result=result)
        found = term.plan.fused(from_kernel, args) if why_eager(term.plan, args) is None else None
        return term.plan.eager(args, term.plan.checks(state.checks)) if found is None else found


def flattened(
    loss: str, terms: list[Term], cap: float | None, input: Tensor, weight: Tensor, bias: Tensor | None,
    operands: Sequence[Tensor], sample_weight: Tensor | None, mask: Tensor | None, normalizer: Tensor | float | None,
    part: Part | None = None,
) -> tuple[Call, Head, tuple[int, ...]]:  # fmt: skip
    """A call with its rows in one dimension, the last layer, and the shape of the unreduced loss."""
    check_head(loss, Head(input, weight, bias), matrix=part is not None)
    classes, *more = weight.shape[:-1]
    lead = tuple(input.shape[:-1])
    rows = (*lead, *more)
    term = terms[0]
    # Scores that nobody has made: whatever does not fit is told in the words of the loss.
    every = classes if part is None else part.total
    scores = input.new_zeros(()).expand(*lead, every, *more).movedim(len(lead), min(1, len(rows)))
    target = operands[:1]
    soft = len(target) > 0 and isinstance(target[0], Tensor) and target[0].is_floating_point()
    told = target
    if soft and part is not None:
        if target[0].shape != (*lead, classes):
            raise error("head", loss=loss, argument="target", expected=(*lead, classes), got=tuple(target[0].shape),
                        first="input", input=tuple(input.shape))  # fmt: skip
        told = [target[0].new_zeros(()).expand(*lead, every)]
    given = [told[0].movedim(-1, 1)] if soft and told[0].ndim == len(lead) + 1 > 2 and not more else told
    taken = [scores, *term.operands(scores, [*given, *operands[1:]]), *term.slots]
    args = term.plan.validated(taken, term.weight, sample_weight, mask, normalizer)
    _check_classes(term.plan, scores, given, args.mask, every)
    if len(terms) > 1 and target and not soft:  # what is added knows no classes to be ignored
        mask = term.plan.kept(target[0], mask)
    flat = [_flat(x, (*lead, classes, *more), len(lead)) if soft else x.reshape(-1, *more) for x in target]
    flat += [_flat(x.expand(rows), rows, len(lead)) for x in operands[1:]]
    extras = [None if x is None else _flat(x.expand(rows), rows, len(lead)) for x in (sample_weight, mask)]
    call = Call(terms, cap, (classes, *more), flat, extras[0], extras[1], args.normalizer, part)
    width = input.shape[-1]
    head = Head(input.reshape(-1, width), weight.reshape(-1, width), None if bias is None else bias.reshape(-1))
    return call, head, rows


def check_head(
    loss: str, head: Head, names: Sequence[str] = ("input", "linear_weight", "linear_bias"), matrix: bool = False,
    classes: int | None = None,
) -> None:  # fmt: skip
    """Refuse features, weights and a bias that do not belong together; `matrix`: weights have two dimensions."""
    input, weight, bias = head
    first = names[0]
    check_tensor(loss, first, input, first, input)
    check_tensor(loss, names[1], weight, first, input)
    check_floating(loss, first, input)
    if bias is not None:
        check_tensor(loss, names[2], bias, first, input)
    if input.ndim == 0:
        raise error("no_features", loss=loss, argument=first)
    more = weight.shape[1:-1]
    misfit = weight.ndim < 2 or weight.shape[-1] != input.shape[-1] or (more and (input.ndim != 2 or matrix))
    if misfit or classes not in (None, weight.shape[0]):
        expected = f"({'C' if classes is None else classes}, {input.shape[-1]})"
        raise error("head", loss=loss, argument=names[1], expected=expected, first=first, got=tuple(weight.shape),
                    input=tuple(input.shape))  # fmt: skip
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise error("head", loss=loss, argument=names[2], expected=tuple(weight.shape[:-1]), first=first,
                    got=tuple(bias.shape), input=tuple(input.shape))  # fmt: skip
    for name, x in zip(names[1:], (weight, bias), strict=True):
        if x is not None and x.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise error("head_dtype", loss=loss, argument=name, got=x.dtype, expected=input.dtype, first=first)


def _flat(x: Tensor, shape: tuple[int, ...], lead: int) -> Tensor:
    """With one dimension in the place of the first `lead`."""
    return x.reshape(-1, *shape[lead:]) if lead != 1 else x


def _check_classes(plan: Any, scores: Tensor, operands: Sequence[Tensor], mask: Tensor | None, classes: int) -> None:
    """Refuse indices that are no classes, before rows lose their places."""
    if not operands or operands[0].is_floating_point() or state.checks in ("off", "nan") or unseen(scores):
        return
    target = operands[0]
    if torch.compiler.is_compiling() or observed() or type(target) not in PLAIN:
        return
    bad = outside_classes(target, classes, plan.ignored)
    if bool(both(bad, mask).any()):
        plan.refuse([scores, target], mask)


def unseen(x: Tensor) -> bool:
    """Whether the host would have to wait for numbers."""
    return not x.is_cpu or gpu.takes(x)
