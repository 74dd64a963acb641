"""Calling a family's Triton kernel, with autograd around it; what `kernels/fused.py` is to the CPU.

1. With 'mean' and 'sum' the gradient is written in forward for an upstream gradient of 1. In backward a kernel
   multiplies it by the real one, and ends at once if that is 1. The host need not read it.
2. Gradients in float16 are computed anew in that case, since 1/N may have left nothing that a loss scaler could scale.
3. A gradient is handed over once, because it becomes the user's `.grad`; a second backward computes it anew. Double
   backward runs the eager formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.kernels import gpu
from losskit.kernels.fused import differentiable
from losskit.kernels.gpu.frame import Call, Frame, Outputs, scale
from losskit.kernels.gpu.recording import Template
from losskit.kernels.torch_internals import batched


def attempt(call: Call, template: Template | None = None) -> Tensor:
    """The loss from the kernel of the plan's family. template: of the calls that are like this one."""
    wanted = wanted_by(call)
    loss: Tensor | None
    loss = _apply(call, wanted, template, *call.operands) if wanted else run(call, 0, template=template).loss
    assert loss is not None
    return loss


def wanted_by(call: Call) -> int:
    """The bits of the operands whose gradients are wanted."""
    return sum(1 << i for i, x in enumerate(call.operands) if x.requires_grad) if torch.is_grad_enabled() else 0


def run(
    call: Call, wanted: int, upstream: Tensor | None = None, into: Sequence[Tensor | None] | None = None,
    template: Template | None = None,
) -> Outputs:  # fmt: skip
    """Launch; with `upstream` the gradients only, multiplied by it: in `into`, where it is not 1, or new ones."""
    device = call.operands[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return run(call, wanted, upstream, into, template)
    if template is None or into is not None:
        return _run(Frame(call, upstream, into), wanted)
    return template.run(call, upstream, lambda frame: _run(frame, wanted))


def _run(frame: Frame, wanted: int) -> Outputs:
    return gpu.module_of(frame.call.plan.op).run(frame, wanted)


def overwriting(call: Call) -> tuple[Tensor, Tensor]:
    """The loss of dense scores that nobody needs afterwards, and the gradient by them, written over them.

    This is safe: a program of the kernel reads its rows before it writes them, and no other program reads these rows.
    """
    scores, *rest = call.operands
    loss = run(call, 1, into=[scores, *(None for _ in rest)]).loss
    assert loss is not None
    return loss, scores


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: Call, wanted: int, template: Template | None, *operands: Tensor) -> Any:
        each = call.plan.reduction == "none"
        loss, gradients = run(call, 0 if each else wanted, template=template)
        ctx.save_for_backward(*operands)
        ctx.call, ctx.template, ctx.wanted = call._replace(operands=()), template, wanted
        ctx.gradients = None if each else gradients
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        early, ctx.gradients = ctx.gradients, None
        if torch.is_grad_enabled() or batched(upstream):
            call = _saved(ctx)
            extras = call.weight, call.sample_weight, call.mask, call.normalizer
            gradients = differentiable(call.plan, call.operands, extras, call.checked, upstream,
                                       ctx.needs_input_grad[3:])  # fmt: skip
        elif early is None:
            gradients = run(_saved(ctx), ctx.wanted, upstream, template=ctx.template).gradients
        elif any(g is not None and g.dtype == torch.float16 for g in early):
            gradients = run(_saved(ctx), ctx.wanted, upstream, early).gradients
        else:
            gradients = early
            for gradient in gradients:
                if gradient is not None:
                    scale(gradient, upstream)
        return None, None, None, *gradients[: len(ctx.needs_input_grad) - 3]


# What dispatch has looked for already (functorch transforms) is not looked for again, as in `kernels/fused.py`.
_apply = super(torch.autograd.Function, _Kernel).apply


def _saved(ctx: Any) -> Call:
    """The call with its operands, only for gradients that are recomputed: `saved_tensors` raises if an operand has been
    modified in place."""
    return ctx.call._replace(operands=ctx.saved_tensors)


def call_of(
    plan: Any, operands: Sequence[Tensor], weight: Tensor | None, sample_weight: Tensor | None, mask: Tensor | None,
    normalizer: Tensor | float | None, result: torch.dtype | None, checked: bool, empty_is_zero: bool,
) -> Call:  # fmt: skip
    """A call with its dtypes worked out and its normalizer on the device."""
    device = operands[0].device
    if normalizer is not None:
        if not isinstance(normalizer, Tensor):
            normalizer = torch.full((), normalizer, dtype=torch.float64, device=device)
        normalizer = normalizer.detach().to(device, torch.float64).reshape(())
    if result is None:
        result = dtypes.autocast(dtypes.result_dtype(operands[: plan.telling]), device)
    return Call(plan, operands, weight, sample_weight, mask, normalizer, checked, empty_is_zero,
                dtypes.compute_dtype(operands), result)  # fmt: skip
