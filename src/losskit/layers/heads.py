"""Features times weights: a loss of class scores on the last layer of a model, without ever storing the scores.

1. Rows are taken in chunks. The scores of a chunk are made, the loss's own kernel turns them into their gradient, and
   two matrix products make of it the gradients by features and weights. The next chunk uses the same memory. So the
   forward pass, in which the scores exist, makes the gradients, and backward hands them over.
2. Where the upstream gradient must go in first, backward makes the scores again: with reduction 'none', for float16
   (its gradients divided by a large N would underflow before a loss scaler multiplies them), for a second backward.
3. Gradients by the weights are added up over the chunks in float32 at least.
4. What a chunk cannot do runs on all scores at once, as the last layer and the loss would: derivatives of derivatives,
   torch.func, exported graphs, gradients by anything else than features, weights and bias.
5. A loss of two rows has a teacher. Where its scores come from a last layer, too, or are those of some classes, the
   scores of a chunk are made beside the student's, in memory of their own. There is no gradient by them.
6. Where ranks share the classes (`shared_heads.py`), a chunk is that of this rank's classes. The family's formula,
   which knows what other ranks have, stands in the place of the kernel. All ranks take chunks of the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.errors import LossError
from losskit.kernels import gpu, sharded
from losskit.kernels.choice import PLAIN, why_eager
from losskit.kernels.torch_internals import batched, exporting, observed, transforms_active
from losskit.layers.head_calls import Call, Head, unseen
from losskit.reduction import denominator

# Bytes of the scores of a chunk, and as many of a teacher's; products of fewer rows are slower (half: by 5 to 10 %).
_CHUNK = 1 << 25
_CHUNK_ON_GPU = 1 << 29
_BLOCK = 1 << 22  # bytes of a product that is added to the gradient by the weights; it should stay in cache


def run(call: Call, head: Head) -> Tensor:
    """The loss of a call on a last layer."""
    call, head, whole = prepared(call, head)
    if whole:
        return call.of(head.scores())
    loss: Tensor = _Chunked.apply(call, *head)
    return loss


def prepared(call: Call, head: Head) -> tuple[Call, Head, bool]:
    """Under autocast, with the denominator of all chunks; and whether all scores are made at once."""
    kind = head.input.device.type
    if torch.is_autocast_enabled(kind):
        narrow = torch.get_autocast_dtype(kind)
        head = head.to(narrow)
        if call.teacher is not None:
            call = replace(call, teacher=call.teacher.to(narrow))
    whole = why_whole(call, head) is not None
    if call.reduction == "mean" and (not whole or len(call.terms) > 1):
        call = replace(call, normalizer=denominator_of(call, len(head.input), head.input.device))
    return call, head, whole


def why_whole(call: Call, head: Head) -> str | None:
    """Why all scores are made at once; None if they are made in chunks."""
    others = [*call.operands, *(x for term in call.terms for x in (*term.slots, term.weight) if x is not None)]
    others += [x for x in (call.sample_weight, call.mask, call.normalizer) if isinstance(x, Tensor)]
    if torch.compiler.is_compiling():
        if exporting():
            return "an exported graph consists of torch's own operators"
        if transforms_active() or call.part is not None:
            return "torch.func is active, or ranks share the classes: torch.compile traces the scores"
    given = [x for x in (*head, *(call.teacher.tensors() if call.teacher else ())) if x is not None]
    if sharded.involved(*given, *others) or any(type(x) not in PLAIN for x in (*given, *others)):
        return "an argument is a tensor subclass"
    if not torch.compiler.is_compiling() and observed():
        return "torch.func, forward-mode AD, a dispatch mode or torch.jit.trace is active"
    if torch.is_grad_enabled() and any(x.requires_grad for x in others):
        return "a gradient by something else than features, weights and bias is wanted"
    if not len(head.input):
        return "there are no rows"
    return None


def why_chunks(call: Call, head: Head) -> tuple[str, str]:
    """What makes the loss of a chunk, and how large chunks are."""
    term = call.terms[0]
    args = call.of_nobody(term, len(head.input), head.input, term.weight)
    reason = why_eager(term.plan, args)
    size = rows_of_chunk(call, head)
    megabytes = size * len(head.weight) * sum(sizes_of_score(call, head)) / 1e6
    whose = "" if call.teacher is None else " of the student's and the teacher's scores"
    told = f"{size} of {len(head.input)} rows at a time, {megabytes:.0f} MB{whose}"
    if reason is not None:
        return "eager formula", f"{told}; {reason}"
    kernel = "fused GPU kernel" if gpu.takes(head.input) else "fused CPU kernel"
    over = len(call.terms) == 1 and call.cap is None and len(call.shape) == 1 and term.plan.direct
    if is_late(call, head):
        return kernel, f"{told}; they are made again in backward, and with them the gradient"
    return kernel, f"{told}; the gradient is written {'over the scores' if over else 'beside the scores'} in forward"


def rows_of_chunk(call: Call, head: Head) -> int:
    """The rows of a chunk; chunks are of about one size."""
    rows = len(head.input)
    bytes = _CHUNK_ON_GPU if head.input.is_cuda else _CHUNK
    classes, size = max(len(head.weight), call.widest), max(sizes_of_score(call, head))
    most = max(1, min(rows, bytes // max(1, classes * size)))
    return -(-rows // -(-rows // most))


def sizes_of_score(call: Call, head: Head) -> list[int]:
    """The bytes of a score of the head, and of one that is made for the teacher."""
    return [x.element_size() for x in (head.input, *([] if call.teacher is None else [call.teacher.told]))]


def denominator_of(call: Call, rows: int, device: torch.device) -> Tensor | float:
    """What a mean over all rows divides by."""
    term = call.terms[0]
    if call.normalizer is not None:
        return call.normalizer
    like = torch.zeros((), dtype=torch.float64, device=device)
    args = call.of_nobody(term, rows, like, None)
    weights, kept = term.plan.counted(args._replace(weight=term.weight))
    weight = weights[0] if weights else None
    return denominator((rows, *call.shape[1:]), like, weight=weight, sample_weight=call.sample_weight, mask=kept)


def told(call: Call, input: Tensor) -> torch.dtype:
    """The dtype of the loss."""
    return dtypes.autocast(dtypes.result_dtype(call.told_by(input)), input.device)


def is_late(call: Call, head: Head) -> bool:
    """Whether gradients are made in backward, since the upstream gradient must go in first."""
    return call.reduction == "none" or head.input.dtype == torch.float16


# ---------------------------------------------------------------------------------------------------------
# Chunks


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, *head: Tensor | None) -> Tensor:
        ctx.save_for_backward(*head)
        ctx.call, wanted = call, ctx.needs_input_grad[1:]
        work = Work(call, Head(*head))  # type: ignore[arg-type]
        late = is_late(call, work.head)
        loss = work.losses([want and not late for want in wanted])
        ctx.gradients = [] if late else list(work.gradients())
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        head, wanted = Head(*ctx.saved_tensors), ctx.needs_input_grad[1:]
        gradients = list(ctx.gradients)
        ctx.gradients.clear()  # handed over once; `kernels/fused.py` says why the list is emptied
        if torch.is_grad_enabled() or batched(upstream):
            gradients = _differentiable(ctx.call, head, wanted, upstream)
        elif not gradients:
            work = Work(ctx.call, head)
            work.losses(wanted, upstream)
            gradients = work.gradients()
        elif gpu.takes(head.input):
            for x in gradients:
                if x is not None:
                    gpu.scale(x, upstream)
        elif unseen(head.input) or upstream.item() != 1.0:
            gradients = [x if x is None else x.mul_(upstream) for x in gradients]
        return None, *gradients


def _differentiable(call: Call, head: Head, wanted: Sequence[bool], upstream: Tensor) -> list[Tensor | None]:
    """The gradients as functions of features, weights and upstream gradient."""
    inputs = [x for x, want in zip(head, wanted, strict=True) if want and x is not None]
    with torch.enable_grad():
        loss = call.of(head.scores())
        found = iter(torch.autograd.grad(loss, inputs, upstream.to(loss.dtype), create_graph=True))
    return [next(found) if want else None for want in wanted]


class Work:
    """The loop over chunks, and the gradients that it fills."""

    def __init__(self, call: Call, head: Head) -> None:
        self.call, self.head = call, head.detach()
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
        of_teacher = self._memory_of_teacher()
        for begin, end, scores in self._chunks():
            given = upstream[begin:end] if each and upstream is not None else upstream
            call = self.call.rows(begin, end).taught(of_teacher)
            loss, gradient = self._loss(call, begin, scores, result, given, any(wanted))
            losses.append(loss)
            if gradient is not None:
                self._take(gradient, begin, end, wanted)
        if each:
            return torch.cat(losses)
        total = torch.stack(losses).sum(dtype=torch.float32 if input.device.type == "mps" else torch.float64)
        return total.to(self.call.told or told(self.call, input))

    def _loss(
        self, call: Call, begin: int, scores: Tensor, result: torch.dtype | None, upstream: Tensor | None, wanted: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The loss of a chunk, and its gradient by the scores if it is wanted."""
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
        rows, size = len(self.head.input), rows_of_chunk(self.call, self.head)
        memory = self.head.memory(size)
        for begin in range(0, rows, size):
            part = self.head._replace(input=self.head.input[begin : begin + size])
            yield begin, begin + len(part.input), part.scores_in(memory).detach()

    def _memory_of_teacher(self) -> Tensor | None:
        """For the teacher's scores of a chunk."""
        teacher = self.call.teacher
        return None if teacher is None else teacher.memory(rows_of_chunk(self.call, self.head))

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
