"""Features times weights: a loss of class scores on the last layer of a model, without ever storing the scores.

1. Rows are taken in chunks. The scores of a chunk are made, the loss's own kernel turns them into their gradient, and
   two matrix products make of it the gradients by features and weights. The next chunk uses the same memory. So the
   forward pass, in which the scores exist, makes the gradients, and backward hands them over.
2. Where the upstream gradient must go in first, backward makes the scores again: with reduction 'none', for float16
   (its gradients divided by a large N would underflow before a loss scaler multiplies them), for a second backward.
3. Gradients by the weights are added up over the chunks in float32 at least.
4. What a chunk cannot do runs on all scores at once, as the last layer and the loss would: derivatives of derivatives,
   torch.func, torch.compile, DTensors, gradients by anything else than features, weights and bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from losskit import dtypes
from losskit.errors import LossError, error
from losskit.helpers import soft_cap
from losskit.kernels import dispatch, fused, gpu, sharded
from losskit.kernels.choice import PLAIN, from_kernel, why_eager
from losskit.kernels.torch_internals import batched, observed
from losskit.policy import state
from losskit.reduction import denominator
from losskit.validation import check_floating, check_tensor

_CHUNK = 1 << 25  # bytes of the scores of a chunk; products of fewer rows are slower
_CHUNK_ON_GPU = 1 << 29
_BLOCK = 1 << 22  # bytes of a product that is added to the gradient by the weights; it should stay in cache


class Head(NamedTuple):
    """Features (N, D), and the weights (C, D) and bias (C,) of a last layer."""

    input: Tensor
    weight: Tensor
    bias: Tensor | None

    def scores(self) -> Tensor:
        return F.linear(*self)


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

    @property
    def reduction(self) -> str:
        return str(self.terms[0].plan.reduction)

    def rows(self, begin: int, end: int) -> Call:
        """The call of some of the rows."""
        sample_weight, mask = (None if x is None else x[begin:end] for x in (self.sample_weight, self.mask))
        return replace(
            self, operands=[x[begin:end] for x in self.operands], sample_weight=sample_weight, mask=mask
        )  # fmt: skip

    def of(self, scores: Tensor, result: torch.dtype | None = None) -> Tensor:
        """The loss of these scores."""
        scores = soft_cap(scores.unflatten(-1, self.shape) if len(self.shape) > 1 else scores, self.cap)
        losses = [self._term(term, scores, result) for term in self.terms]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum(0)

    def over(self, scores: Tensor, result: torch.dtype | None) -> tuple[Tensor, Tensor] | None:
        """The loss of a chunk's scores and its gradient, written over them; None where the kernel cannot do that."""
        term, *more = self.terms
        if more or self.cap is not None or len(self.shape) > 1 or not term.plan.direct:
            return None
        operands = [scores, *term.operands(scores, self.operands), *term.slots]
        args = term.plan.validated(operands, term.weight, self.sample_weight, self.mask, self.normalizer)
        if why_eager(term.plan, args) is not None:
            return None
        return (gpu if gpu.takes(scores) else fused).overwriting(term.plan, args, result)

    def _term(self, term: Term, scores: Tensor, result: torch.dtype | None) -> Tensor:
        operands = [scores, *term.operands(scores, self.operands), *term.slots]
        extras = self.sample_weight, self.mask, self.normalizer
        if result is None:
            return dispatch.run(term.plan, operands, term.weight, *extras)
        args = term.plan.validated(operands, term.weight, *extras)._replace(result=result)
        loss = term.plan.fused(from_kernel, args) if why_eager(term.plan, args) is None else None
        return term.plan.eager(args, state.checks) if loss is None else loss


def run(call: Call, head: Head) -> Tensor:
    """The loss of a call on a last layer."""
    kind = head.input.device.type
    if torch.is_autocast_enabled(kind):
        narrow = torch.get_autocast_dtype(kind)
        bias = None if head.bias is None else head.bias.to(narrow)
        head = Head(head.input.to(narrow), head.weight.to(narrow), bias)
    whole = why_whole(call, head) is not None
    if call.reduction == "mean" and (not whole or len(call.terms) > 1):
        call = replace(call, normalizer=_denominator(call, len(head.input), head.input.device))
    if whole:
        return call.of(head.scores())
    loss: Tensor = _Chunked.apply(call, *head)
    return loss


def why_whole(call: Call, head: Head) -> str | None:
    """Why all scores are made at once; None if they are made in chunks."""
    others = [*call.operands, *(x for term in call.terms for x in (*term.slots, term.weight) if x is not None)]
    others += [x for x in (call.sample_weight, call.mask, call.normalizer) if isinstance(x, Tensor)]
    if torch.compiler.is_compiling():
        return "torch.compile traces the scores"
    given = [x for x in head if x is not None]
    if sharded.involved(*given, *others) or any(type(x) not in PLAIN for x in (*given, *others)):
        return "an argument is a tensor subclass"
    if observed():
        return "torch.func, forward-mode AD, a dispatch mode or torch.jit.trace is active"
    if torch.is_grad_enabled() and any(x.requires_grad for x in others):
        return "a gradient by something else than features, weights and bias is wanted"
    if not len(head.input):
        return "there are no rows"
    return None


def _denominator(call: Call, rows: int, device: torch.device) -> Tensor | float:
    """What a mean over all rows divides by."""
    term = call.terms[0]
    if call.normalizer is not None:
        return call.normalizer
    classes, *more = call.shape
    scores = torch.zeros((), dtype=torch.float64, device=device)
    scores = scores.expand(rows, classes, *more)
    operands = [scores, *term.operands(scores, call.operands), *term.slots]
    args = term.plan.validated(operands, None, call.sample_weight, call.mask, None)
    weights, kept = term.plan.counted(args._replace(weight=term.weight))
    weight, like = weights[0] if weights else None, scores.new_empty(())
    return denominator((rows, *more), like, weight=weight, sample_weight=call.sample_weight, mask=kept)


# ---------------------------------------------------------------------------------------------------------
# Chunks


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *head: Tensor | None) -> Tensor:
        ctx.save_for_backward(*head)
        ctx.call, wanted = call, ctx.needs_input_grad[1:]
        late = call.reduction == "none" or head[0].dtype == torch.float16  # type: ignore[union-attr]
        work = _Work(call, Head(*head))  # type: ignore[arg-type]
        loss = work.losses([want and not late for want in wanted])
        ctx.gradients = None if late else work.gradients()
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        head, wanted = Head(*ctx.saved_tensors), ctx.needs_input_grad[1:]
        gradients, ctx.gradients = ctx.gradients, None
        if torch.is_grad_enabled() or batched(upstream):
            gradients = _differentiable(ctx.call, head, wanted, upstream)
        elif gradients is None:
            work = _Work(ctx.call, head)
            work.losses(wanted, upstream)
            gradients = work.gradients()
        elif gpu.takes(head.input):
            for x in gradients:
                if x is not None:
                    gpu.scale(x, upstream)
        elif _unseen(head.input) or upstream.item() != 1.0:
            gradients = [x if x is None else x.mul_(upstream) for x in gradients]
        return None, *gradients


def _differentiable(call: Call, head: Head, wanted: Sequence[bool], upstream: Tensor) -> list[Tensor | None]:
    """The gradients as functions of features, weights and upstream gradient."""
    inputs = [x for x, want in zip(head, wanted, strict=True) if want and x is not None]
    with torch.enable_grad():
        loss = call.of(head.scores())
        found = iter(torch.autograd.grad(loss, inputs, upstream.to(loss.dtype), create_graph=True))
    return [next(found) if want else None for want in wanted]


class _Work:
    """The loop over chunks, and the gradients that it fills."""

    def __init__(self, call: Call, head: Head) -> None:
        self.call, self.head = call, Head(*(x if x is None else x.detach() for x in head))  # type: ignore[arg-type]
        self.wide = torch.float64 if head.input.dtype == torch.float64 else torch.float32
        self.by_input: Tensor | None = None
        self.by_weight: Tensor | None = None
        self.by_bias: Tensor | None = None

    def gradients(self) -> list[Tensor | None]:
        """In the dtypes of what they are gradients by."""
        found = (self.by_input, self.by_weight, self.by_bias)
        return [x if x is None else x.to(self.head.input.dtype) for x in found]

    def losses(self, wanted: Sequence[bool], upstream: Tensor | None = None) -> Tensor:
        """The loss; the gradients that are wanted are added up on the way."""
        input, each = self.head.input, self.call.reduction == "none"
        result = torch.float32 if input.dtype in dtypes.HALVES and not each else None
        losses = []
        for begin, end, scores in self._chunks():
            given = upstream[begin:end] if each and upstream is not None else upstream
            loss, gradient = self._loss(begin, end, scores, result, given, any(wanted))
            losses.append(loss)
            if gradient is not None:
                self._take(gradient, begin, end, wanted)
        if each:
            return torch.cat(losses)
        total = torch.stack(losses).sum(dtype=torch.float32 if input.device.type == "mps" else torch.float64)
        told = dtypes.result_dtype([input, *self.call.operands[:1]])
        return total.to(dtypes.autocast(told, total.device))

    def _loss(
        self, begin: int, end: int, scores: Tensor, result: torch.dtype | None, upstream: Tensor | None, wanted: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The loss of a chunk, and its gradient by the scores if it is wanted."""
        call = self.call.rows(begin, end)
        try:
            found = call.over(scores, result) if wanted and upstream is None else None
            if found is not None:
                return found
            with torch.set_grad_enabled(wanted):
                loss = call.of(scores.requires_grad_(wanted), result)
        except LossError as problem:
            if not begin:
                raise
            raise type(problem)(f"{problem} Rows are counted from row {begin} on.") from None
        if not wanted:
            return loss, None
        given = None if upstream is None else upstream.to(loss.dtype)
        return loss.detach(), torch.autograd.grad(loss, scores, given)[0]

    def _chunks(self) -> Iterator[tuple[int, int, Tensor]]:
        """Begin and end of each chunk, and its scores; the memory is that of the chunk before."""
        input, weight, bias = self.head
        rows, classes = len(input), len(weight)
        bytes = _CHUNK_ON_GPU if input.is_cuda else _CHUNK
        most = max(1, min(rows, bytes // max(1, classes * input.element_size())))
        size = -(-rows // -(-rows // most))  # chunks are of about one size
        memory = input.new_empty(size, classes)
        for begin in range(0, rows, size):
            features = input[begin : begin + size]
            scores = memory[: len(features)]
            if bias is None:
                torch.mm(features, weight.t(), out=scores)
            else:
                torch.addmm(bias, features, weight.t(), out=scores)
            yield begin, begin + len(features), scores.detach()

    def _take(self, gradient: Tensor, begin: int, end: int, wanted: Sequence[bool]) -> None:
        input, weight, _ = self.head
        if wanted[0]:
            if self.by_input is None:
                self.by_input = torch.empty_like(input, memory_format=torch.contiguous_format)
            torch.mm(gradient, weight, out=self.by_input[begin:end])
        if wanted[1]:
            self._add_weights(gradient, input[begin:end])
        if wanted[2]:
            of_bias = gradient.sum(0, dtype=self.wide)
            self.by_bias = of_bias if self.by_bias is None else self.by_bias.add_(of_bias)

    def _add_weights(self, gradient: Tensor, features: Tensor) -> None:
        weight, first = self.head.weight, self.by_weight is None
        if self.by_weight is None:
            self.by_weight = weight.new_empty(weight.shape, dtype=self.wide)
        total = self.by_weight
        if weight.dtype == self.wide:
            torch.mm(gradient.t(), features, out=total) if first else total.addmm_(gradient.t(), features)
            return
        if total.is_cuda:
            torch.mm(gradient.t(), features, self.wide, out=total) if first else torch.addmm(
                total, gradient.t(), features, self.wide, out=total
            )
            return
        # A product of halves is rounded to halves: it is added in float32, some classes at a time.
        step = max(1, _BLOCK // (features.shape[1] * features.element_size()))
        for begin in range(0, len(weight), step):
            part = torch.mm(gradient[:, begin : begin + step].t(), features)
            into = total[begin : begin + step]
            into.copy_(part) if first else into.add_(part)


# ---------------------------------------------------------------------------------------------------------
# From the arguments of a call


def flattened(
    loss: str, terms: list[Term], cap: float | None, input: Tensor, weight: Tensor, bias: Tensor | None,
    operands: Sequence[Tensor], sample_weight: Tensor | None, mask: Tensor | None, normalizer: Tensor | float | None,
) -> tuple[Call, Head, tuple[int, ...]]:  # fmt: skip
    """A call with its rows in one dimension, the last layer, and the shape of the unreduced loss."""
    check_tensor(loss, "input", input, "input", input)
    check_tensor(loss, "linear_weight", weight, "input", input)
    check_floating(loss, "input", input)
    if bias is not None:
        check_tensor(loss, "linear_bias", bias, "input", input)
    if input.ndim == 0:
        raise error("no_features", loss=loss, argument="input")
    classes, *more = weight.shape[:-1] if weight.ndim > 1 else (0,)
    if weight.ndim < 2 or weight.shape[-1] != input.shape[-1] or (more and input.ndim != 2):
        raise error("head", loss=loss, argument="linear_weight", expected=f"(C, {input.shape[-1]})",
                    got=tuple(weight.shape), input=tuple(input.shape))  # fmt: skip
    if bias is not None and bias.shape != weight.shape[:-1]:
        raise error("head", loss=loss, argument="linear_bias", expected=tuple(weight.shape[:-1]),
                    got=tuple(bias.shape), input=tuple(input.shape))  # fmt: skip
    for name, x in (("linear_weight", weight), ("linear_bias", bias)):
        if x is not None and x.dtype != input.dtype and not torch.is_autocast_enabled(input.device.type):
            raise error("head_dtype", loss=loss, argument=name, got=x.dtype, expected=input.dtype)
    lead = tuple(input.shape[:-1])
    rows = (*lead, *more)
    term = terms[0]
    # Scores that nobody has made: whatever does not fit is told in the words of the loss.
    scores = input.new_zeros(()).expand(*lead, classes, *more).movedim(len(lead), min(1, len(rows)))
    target = operands[:1]
    soft = bool(target) and isinstance(target[0], Tensor) and target[0].is_floating_point()
    given = [target[0].movedim(-1, 1)] if soft and target[0].ndim == len(lead) + 1 > 2 and not more else target
    taken = [scores, *term.operands(scores, [*given, *operands[1:]]), *term.slots]
    args = term.plan.validated(taken, term.weight, sample_weight, mask, normalizer)
    _check_classes(term.plan, scores, given, args.mask, classes)
    if len(terms) > 1 and target and not soft:  # what is added knows no classes to be ignored
        mask = term.plan.kept(target[0], mask)
    flat = [_flat(x, (*lead, classes, *more), len(lead)) if soft else x.reshape(-1, *more) for x in target]
    flat += [_flat(x.expand(rows), rows, len(lead)) for x in operands[1:]]
    extras = [None if x is None else _flat(x.expand(rows), rows, len(lead)) for x in (sample_weight, mask)]
    call = Call(terms, cap, (classes, *more), flat, extras[0], extras[1], args.normalizer)
    width = input.shape[-1]
    head = Head(input.reshape(-1, width), weight.reshape(-1, width), None if bias is None else bias.reshape(-1))
    return call, head, rows


def _flat(x: Tensor, shape: tuple[int, ...], lead: int) -> Tensor:
    """With one dimension in the place of the first `lead`."""
    return x.reshape(-1, *shape[lead:]) if lead != 1 else x


def _unseen(x: Tensor) -> bool:
    """Whether the host would have to wait for numbers."""
    return not x.is_cpu or gpu.takes(x)


def _check_classes(plan: Any, scores: Tensor, operands: Sequence[Tensor], mask: Tensor | None, classes: int) -> None:
    """Refuse indices that are no classes, before rows lose their places."""
    if not operands or operands[0].is_floating_point() or state.checks != "raise" or _unseen(scores):
        return
    target = operands[0]
    if torch.compiler.is_compiling() or observed() or type(target) not in PLAIN:
        return
    bad = plan._no_classes(target.long(), classes)
    if bool((bad if mask is None else bad & mask).any()):
        plan.refuse([scores, target], mask)
