"""Heads under torch.compile: two custom ops, one for value and gradients and one for gradients alone.

Ops take no objects: a call's plans travel as their keys, its tensors as a list with the numbers of each kind. Without
an op all scores would be stored; Inductor knows no chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.kernels.torch_internals import differentiating
from losskit.layers import heads
from losskit.layers.head_calls import Call, Head, Teacher, Term, TopK
from losskit.plans import plan_by


def packed(call: Call) -> tuple[str, list[int], list[Tensor]]:
    """The keys of a call's plans, the numbers of its tensors, and these."""
    of_teacher = [] if call.teacher is None else call.teacher.tensors()
    extras = call.sample_weight, call.mask, call.normalizer
    counts = [len(of_teacher), len(call.operands), *(int(isinstance(x, Tensor)) for x in extras)]
    tensors = [*of_teacher, *call.operands, *(x for x in extras if isinstance(x, Tensor))]
    for term in call.terms:
        own = [] if term.weight is None else [term.weight]
        counts += [len(term.slots), len(own), int(term.targets)]
        tensors += [*term.slots, *own]
    return "\n".join([term.plan.key for term in call.terms]), counts, tensors


def unpacked(
    keys: str, counts: Sequence[int], tensors: Sequence[Tensor], shape: Sequence[int], caps: Sequence[float | None],
    normalizer: float | None,
) -> Call:  # fmt: skip
    """The call that was packed. caps: of the scores, and of the teacher's."""
    rest, (of_teacher, operands, *extras), terms = iter(tensors), counts[:5], []
    known = [next(rest) for _ in range(of_teacher)]
    taken = [next(rest) for _ in range(operands)]
    sample_weight, mask, denominator = (next(rest) if there else None for there in extras)
    for key, place in zip(keys.split("\n"), range(5, len(counts), 3), strict=True):
        slots, weighed, targets = counts[place : place + 3]
        own = [next(rest) for _ in range(slots)]
        terms.append(Term(plan_by(key), own, next(rest) if weighed else None, bool(targets)))
    by = normalizer if denominator is None else denominator
    teacher = _teacher(known, shape[0], caps[1]) if known else None
    return Call(terms, caps[0], tuple(shape), taken, sample_weight, mask, by, teacher=teacher)


def _teacher(own: Sequence[Tensor], classes: int, cap: float | None) -> Teacher | TopK:
    """The teacher that these tensors are of: those of its head, or scores and their classes."""
    if not own[1].is_floating_point():
        return TopK(own[0], own[1], classes)
    return Teacher(Head(own[0], own[1], own[2] if len(own) > 2 else None), cap)


def _gradients_like(head: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor]:
    """Stand-ins of the gradients. An op cannot return None: an empty tensor stands for one that is not wanted."""
    like = next(x for x in head if x is not None)
    return [
        torch.empty_like(x, memory_format=torch.contiguous_format) if want and x is not None else like.new_empty(0)
        for x, want in zip(head, wanted, strict=True)
    ]


def _given(work: heads.Work) -> list[Tensor]:
    """The gradients of an op as it returns them."""
    return [work.head.input.new_empty(0) if x is None else x for x in work.gradients()]


@torch.library.custom_op("losskit::head_loss", mutates_args=())
def head_loss(
    keys: str, counts: Sequence[int], shape: Sequence[int], cap: float | None, teacher_cap: float | None,
    normalizer: float | None, input: Tensor, weight: Tensor, bias: Tensor | None, tensors: Sequence[Tensor],
    wanted: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    work = heads.Work(unpacked(keys, counts, tensors, shape, (cap, teacher_cap), normalizer), Head(input, weight, bias))
    with differentiating():
        loss = work.losses(wanted)
    return [loss, *_given(work)]


@head_loss.register_fake
def _(
    keys: str, counts: Any, shape: Sequence[int], cap: Any, teacher_cap: Any, normalizer: Any, input: Tensor,
    weight: Tensor, bias: Any, tensors: Sequence[Tensor], wanted: Sequence[bool],
) -> list[Tensor]:  # fmt: skip
    call = unpacked(keys, counts, tensors, shape, (cap, teacher_cap), normalizer)
    of_loss = (input.shape[0], *shape[1:]) if call.reduction == "none" else ()
    return [input.new_empty(of_loss, dtype=heads.told(call, input)), *_gradients_like([input, weight, bias], wanted)]


@torch.library.custom_op("losskit::head_gradients", mutates_args=())
def head_gradients(
    keys: str, counts: Sequence[int], shape: Sequence[int], cap: float | None, teacher_cap: float | None,
    normalizer: float | None, input: Tensor, weight: Tensor, bias: Tensor | None, tensors: Sequence[Tensor],
    wanted: Sequence[bool], upstream: Tensor,
) -> list[Tensor]:  # fmt: skip
    work = heads.Work(unpacked(keys, counts, tensors, shape, (cap, teacher_cap), normalizer), Head(input, weight, bias))
    with differentiating():
        work.losses(wanted, upstream)
    return _given(work)


@head_gradients.register_fake
def _(
    keys: str, counts: Any, shape: Any, cap: Any, teacher_cap: Any, normalizer: Any, input: Tensor, weight: Tensor,
    bias: Any, tensors: Any, wanted: Sequence[bool], upstream: Any,
) -> list[Tensor]:  # fmt: skip
    return _gradients_like([input, weight, bias], wanted)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *fixed, input, weight, bias, tensors, wanted = inputs
    ctx.fixed, ctx.early, ctx.count = fixed, any(wanted), len(tensors)
    ctx.save_for_backward(input, weight, bias, *tensors, *output[1:])


def _backward(ctx: Any, upstreams: Sequence[Tensor]) -> Any:
    input, weight, bias, *rest = ctx.saved_tensors
    tensors, early, upstream = rest[: ctx.count], rest[ctx.count :], upstreams[0]
    given = zip((input, weight, bias), ctx.needs_input_grad[6:9], strict=True)
    needed = [bool(x is not None and need) for x, need in given]
    if ctx.early:
        found = [x * upstream.to(x.dtype) if need else None for x, need in zip(early, needed, strict=True)]
    else:
        made = head_gradients(*ctx.fixed, input, weight, bias, tensors, needed, upstream)
        found = [x if need else None for x, need in zip(made, needed, strict=True)]
    return *[None] * 6, *found, [None] * ctx.count, None


head_loss.register_autograd(_backward, setup_context=_setup_context)


def run(call: Call, head: Head) -> Tensor:
    """The loss of a call on a last layer, its chunks an op that torch.compile sees."""
    call, head, whole = heads.prepared(call, head)
    if whole:
        return call.of(head.scores())
    keys, counts, tensors = packed(call)
    normalizer = None if isinstance(call.normalizer, Tensor) else call.normalizer
    late = heads.is_late(call, head) or not torch.is_grad_enabled()
    wanted = [x is not None and x.requires_grad and not late for x in head]
    teacher_cap = call.teacher.cap if isinstance(call.teacher, Teacher) else None
    return head_loss(keys, counts, call.shape, call.cap, teacher_cap, normalizer, *head, tensors, wanted)[0]
