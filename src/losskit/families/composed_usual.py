"""The usual call of a composed loss: plain tensors on a CPU, without weights and masks; few looks, one autograd node.

1. What can be known of a call without its values is kept by the shapes and dtypes of its tensors. Of an operand with a
   domain the smallest and the largest number are looked at. Where one is outside, or NaN, the call takes the general
   way, `ComposedPlan.eager`, which refuses it in words.
2. Where the loss has `value_and_grad`, one node has the loss and its reduction. The gradients by the losses of units
   are multiplied in backward, in place where they share memory with nothing, and handed over once, as those of a kernel
   are (`kernels/fused.py` says why the container is emptied): a second backward computes them anew, one that is
   differentiable runs the formula.

Beside the 25 us of a loss of 32 x 10 numbers the general way took 120, forward and backward, and this one 50. Padded
lists, which have an `element_mask`, take the general way, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit import dtypes
from losskit.domains import Interval
from losskit.families.shapes import arranged
from losskit.kernels import fused
from losskit.kernels.torch_internals import batched
from losskit.plan import Plan
from losskit.reduction import reduce_eagerly


class Known(NamedTuple):
    """What is known of calls with tensors of some shapes and dtypes."""

    taken: list[tuple[str, int, torch.dtype]]  # the tensors that `value` takes: names, places, dtypes there
    fixed: Mapping[str, Any]  # the rest of what it takes
    looks: list[tuple[str, Interval]]  # tensors with a domain
    unit: list[str]  # the names of the dimensions of the unreduced loss, and of each tensor
    own: list[list[str]]
    ours: int  # bits of the tensors by which `value_and_grad` gives a gradient, if the loss has it
    result: torch.dtype


def loss_of(plan: Plan, known: Known, operands: Sequence[Tensor]) -> Tensor | None:
    """The loss of tensors of which so much is known; None where a value is outside of its domain."""
    wanted = 0
    if torch.is_grad_enabled():
        for i, x in enumerate(operands):
            if x.requires_grad:
                wanted |= 1 << i
    if wanted & known.ours:
        if wanted & ~(known.ours | plan.constants):  # by a parameter, too, which `value` has
            return None
        try:
            loss: Tensor = _apply(plan, known, *operands)
        except _OutsideError:
            return None
        return loss
    if wanted & plan.constants:
        operands = [x.detach() if plan.constants >> i & 1 else x for i, x in enumerate(operands)]
    given = _given(known, operands)
    if not _inside(known, given):
        return None
    return _reduced(plan, known, plan.loss.value(**given))[0]


def _given(known: Known, operands: Sequence[Tensor]) -> dict[str, Any]:
    """What `value` takes, by name."""
    given = dict(known.fixed)
    for name, i, dtype in known.taken:
        x = operands[i]
        given[name] = x if x.dtype is dtype else x.to(dtype)
    return given


def _inside(known: Known, given: Mapping[str, Any]) -> bool:
    """Whether all values are in their domains; a NaN is in none."""
    for name, domain in known.looks:
        low, high = given[name].detach().aminmax()
        if not (domain.includes(low.item()) and domain.includes(high.item())):
            return False
    return True


def _reduced(plan: Plan, known: Known, result: Any) -> tuple[Tensor, int, Tensor | None]:
    """The loss, how many units a mean divides by (else 1), and which of them have a loss (None: all)."""
    values, has_loss = result if isinstance(result, tuple) else (result, None)
    if has_loss is not None and bool(has_loss.all()):
        has_loss = None
    count = 1
    if plan.reduction == "mean":
        count = values.numel() if has_loss is None else max(1, int(has_loss.sum()))
    if has_loss is None and plan.reduction == "mean":
        values = values.sum() / count if values.ndim else values  # torch's mean has a gradient that fills memory
    elif has_loss is not None or values.ndim:
        values = reduce_eagerly(
            values, plan.reduction, weight=None, weight_in_mean=False, sample_weight=None, mask=has_loss,
            normalizer=None,
        )  # fmt: skip
    if values.dtype is not known.result or known.result in dtypes.HALVES:
        values = values.to(dtypes.autocast(known.result, values.device))
    return values, count, has_loss


class _OutsideError(Exception):
    """A value is outside of its domain; nothing was computed."""


class _AtOnce(torch.autograd.Function):
    """The loss, and with it the gradients by the losses of units."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, known: Known, *operands: Tensor) -> Tensor:
        given = _given(known, operands)
        if not _inside(known, given):
            raise _OutsideError
        result, gradients = plan.loss.value_and_grad(**given)
        loss, ctx.count, ctx.has_loss = _reduced(plan, known, result)
        ctx.call, ctx.gradients, ctx.alone = (plan, known), dict(gradients), _apart([*gradients.values()], operands)
        ctx.save_for_backward(*operands)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        plan, known = ctx.call
        wanted = [want and known.ours >> i & 1 for i, want in enumerate(ctx.needs_input_grad[2:])]
        if torch.is_grad_enabled():
            extras = None, None, None, None
            return None, None, *fused.differentiable(plan, ctx.saved_tensors, extras, False, upstream, wanted)
        gradients = dict(ctx.gradients)
        if not gradients:  # handed over
            _, gradients = plan.loss.value_and_grad(**_given(known, ctx.saved_tensors))
        alone = ctx.alone and not batched(upstream)
        if alone:
            ctx.gradients.clear()
        factor = _factor(upstream, plan.reduction, ctx.count, ctx.has_loss)
        found = list[Tensor | None]()
        for name, own, want in zip(plan.names, known.own, wanted, strict=True):
            found.append(_times(gradients[name], factor, known.unit, own, alone) if want else None)
        return None, None, *found


_apply = super(torch.autograd.Function, _AtOnce).apply  # as in `kernels/fused.py`


def _apart(gradients: Sequence[Tensor], operands: Sequence[Tensor]) -> bool:
    """Whether gradients share memory with nothing that this call knows, nor within."""
    memory = [x.untyped_storage().data_ptr() for x in gradients]
    others = {x.untyped_storage().data_ptr() for x in operands}
    spread = any(0 in x.stride() for x in gradients)
    return not spread and len(set(memory)) == len(memory) and others.isdisjoint(memory)


def _factor(upstream: Tensor, reduction: str, count: int, has_loss: Tensor | None) -> Tensor | float:
    """What the gradient by a unit's loss is multiplied by; a number where it is the same for all."""
    if has_loss is None and reduction != "none" and not batched(upstream):
        return upstream.item() / count
    shared = upstream / count if count != 1 else upstream
    return shared if has_loss is None else torch.where(has_loss, shared, 0.0)


def _times(gradient: Tensor, factor: Tensor | float, unit: Sequence[str], own: Sequence[str], in_place: bool) -> Tensor:
    if isinstance(factor, Tensor):
        if factor.ndim:
            factor = arranged(factor, unit, own)
        factor = factor.to(gradient.dtype)
    elif factor == 1.0 and in_place:
        return gradient
    return gradient.mul_(factor) if in_place else gradient * factor
