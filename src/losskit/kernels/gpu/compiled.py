"""The kernels under torch.compile: two custom ops, one for value and gradients and one for gradients alone.

1. Element-wise losses are not here: Inductor fuses their formula with what comes before and after it, which a kernel
   of its own cannot. Rows are another matter: the eager formula reads them several times, and unrolls CTC's frames.
2. The plan travels as its key, a string, since ops take no objects.
3. The gradient comes with the value. Its product with the upstream gradient is left to Inductor, which fuses it with
   what follows. In float16 the gradient is computed in backward: 1/N may leave nothing for a loss scaler to scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.kernels.gpu import autograd
from losskit.kernels.gpu.frame import Call
from losskit.plans import plan_by


def _gradient_like(x: Tensor, wanted: bool) -> Tensor:
    """A gradient of the promised layout. An op cannot return None: an empty tensor stands for an unwanted gradient."""
    return torch.empty_like(x) if wanted else x.new_empty(0)


def _kept(gradients: Sequence[Tensor | None], operands: Sequence[Tensor], wanted: int) -> list[Tensor]:
    """The gradients in the layouts that were promised."""
    kept = []
    for i, x in enumerate(operands):
        promised, got = _gradient_like(x, bool(wanted >> i & 1)), gradients[i] if i < len(gradients) else None
        kept.append(promised if got is None else got if got.stride() == promised.stride() else promised.copy_(got))
    return kept


@torch.library.custom_op("losskit::gpu_loss", mutates_args=())
def gpu_loss(
    key: str, wanted: int, operands: Sequence[Tensor], weight: Tensor | None, sample_weight: Tensor | None,
    mask: Tensor | None, normalizer: Tensor | None, checked: bool, empty_is_zero: bool, compute: torch.dtype,
    result: torch.dtype,
) -> list[Tensor]:  # fmt: skip
    call = Call(
        plan_by(key), operands, weight, sample_weight, mask, normalizer, checked, empty_is_zero, compute, result
    )
    loss, gradients = autograd.run(call, wanted)
    assert loss is not None
    return [loss, *_kept(gradients, operands, wanted)]


@gpu_loss.register_fake
def _(key: str, wanted: int, operands: Sequence[Tensor], weight: Any, sample_weight: Any, mask: Any, normalizer: Any,
      checked: bool, empty_is_zero: bool, compute: torch.dtype, result: torch.dtype) -> list[Tensor]:  # fmt: skip
    plan = plan_by(key)
    shape = plan.unreduced_shape(operands) if plan.reduction == "none" else ()
    loss = operands[0].new_empty(shape, dtype=result)
    return [loss, *(_gradient_like(x, bool(wanted >> i & 1)) for i, x in enumerate(operands))]


@torch.library.custom_op("losskit::gpu_gradients", mutates_args=())
def gpu_gradients(
    key: str, wanted: int, operands: Sequence[Tensor], weight: Tensor | None, sample_weight: Tensor | None,
    mask: Tensor | None, normalizer: Tensor | None, checked: bool, compute: torch.dtype, upstream: Tensor,
) -> list[Tensor]:  # fmt: skip
    call = Call(plan_by(key), operands, weight, sample_weight, mask, normalizer, checked, False, compute, compute)
    return _kept(autograd.run(call, wanted, upstream).gradients, operands, wanted)


@gpu_gradients.register_fake
def _(key: str, wanted: int, operands: Sequence[Tensor], weight: Any, sample_weight: Any, mask: Any, normalizer: Any,
      checked: bool, compute: torch.dtype, upstream: Tensor) -> list[Tensor]:  # fmt: skip
    return [_gradient_like(x, bool(wanted >> i & 1)) for i, x in enumerate(operands)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    key, wanted, operands, weight, sample_weight, mask, normalizer, checked, _, compute, _ = inputs
    ctx.fixed = key, checked, compute
    ctx.early = wanted
    ctx.count = len(operands)
    ctx.save_for_backward(*operands, weight, sample_weight, mask, normalizer, *output[1:])


def _backward(ctx: Any, upstreams: Sequence[Tensor]) -> Any:
    key, checked, compute = ctx.fixed
    saved, upstream = ctx.saved_tensors, upstreams[0]
    operands, extras, early = saved[: ctx.count], saved[ctx.count : ctx.count + 4], saved[ctx.count + 4 :]
    needed = [bool(x.is_floating_point() and need) for x, need in zip(operands, ctx.needs_input_grad[2], strict=True)]
    if ctx.early:
        gradients = [x * upstream if need else None for x, need in zip(early, needed, strict=True)]
    else:
        wanted = sum(1 << i for i, need in enumerate(needed) if need)
        found = gpu_gradients(key, wanted, operands, *extras, checked, compute, upstream)
        gradients = [x if need else None for x, need in zip(found, needed, strict=True)]
    return None, None, gradients, *[None] * 8


gpu_loss.register_autograd(_backward, setup_context=_setup_context)


def loss_of(call: Call) -> Tensor:
    """The loss of a call as an op that torch.compile sees."""
    operands = list(call.operands)
    late = call.plan.reduction == "none" or any(x.dtype == torch.float16 for x in operands)
    wanted = 0 if late else autograd.wanted_by(call)
    return gpu_loss(
        call.plan.key, wanted, operands, call.weight, call.sample_weight, call.mask, call.normalizer, call.checked,
        call.empty_is_zero, call.compute, call.result,
    )[0]  # fmt: skip
