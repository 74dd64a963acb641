"""Calling a family's Triton kernel, with autograd around it; what `kernels/fused.py` is to the CPU.

1. With 'mean' and 'sum' the gradient is written in forward for an upstream gradient of 1. In backward a kernel
   multiplies it by the real one, and ends at once if that is 1. The host need not read it.
2. Gradients in float16 are computed anew in that case, since 1/N may have left nothing that a loss scaler could scale.
3. A gradient is handed over once, because it becomes the user's `.grad`; a second backward computes it anew. Double
   backward runs the eager formula.
4. The node is C++ (binding/loss_node.h), and calls the functions here. The same node in Python runs where no such
   library was built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from losskit import dtypes
from losskit.kernels import gpu, node
from losskit.kernels.fused import code_of, differentiable
from losskit.kernels.gpu.frame import SMALL, Call, Frame, Outputs, scale
from losskit.kernels.gpu.recording import ANEW, FORWARD, HOOKS, REWRITTEN, SCALED, Template
from losskit.kernels.torch_internals import batched
from losskit.plan import Plan


def attempt(call: Call) -> Tensor:
    """The loss from the kernel of the plan's family."""
    wanted = wanted_by(call)
    return _loss_of(call, wanted) if wanted else _computed(run(call, 0))


def alike(plan: Plan, template: Template, operands: Sequence[Tensor], weight: Tensor | None) -> Tensor:
    """The loss of a call whose template knows what to do. The node in C++ repeats such calls by itself, once the first
    has been noted."""
    bare = template.call
    assert bare is not None
    call = bare._replace(plan=plan, operands=operands, weight=weight)
    wanted, first = wanted_by(call), not template.recordings
    if wanted:
        return _loss_of(call, wanted, template)
    loss = _computed(run(call, 0, template=template))
    if first:
        _note(call, 0, template)
    return loss


def _loss_of(call: Call, wanted: int, template: Template | None = None) -> Tensor:
    """The loss of a call of which a gradient is wanted, with its node."""
    if not node.on:
        extras = call.weight, call.sample_weight, call.mask, call.normalizer
        found: Tensor = _apply(call.plan, call.bare(), wanted, template, *extras, *call.operands)
        return found
    first = template is not None and not template.recordings
    with torch.no_grad():
        outputs = _forward(call, wanted, template)
    known = _note(call, wanted, template) if first and template is not None else None
    return _attached(call, wanted, known, outputs)


def _computed(outputs: Outputs) -> Tensor:
    assert outputs.loss is not None
    return outputs.loss


def _forward(call: Call, wanted: int, template: Template | None) -> Outputs:
    """The loss, and the gradients of a reduced one."""
    return run(call, 0 if call.plan.reduction == "none" else wanted, template=template)


def _attached(call: Call, wanted: int, known: Any, outputs: Outputs) -> Tensor:
    extras = call.weight, call.sample_weight, call.mask, call.normalizer
    early = () if call.plan.reduction == "none" else outputs.gradients
    loss: Tensor = node.attach(call.plan, wanted, call.bare(), known, outputs.loss, early, extras, call.operands)
    return loss


def _note(call: Call, wanted: int, template: Template) -> Any:
    """What the node in C++ knows of calls like this one, which it repeats from now on; None where it cannot."""
    plan, recording = call.plan, template.recordings.get((FORWARD, None))
    if recording is None or not node.on:
        return None
    if plan.repeats is None:
        plan.repeats = node.repeats(plan)
    return plan.repeats.note(code_of(plan), call.operands, call.weight, template, template.call, wanted, recording)


def wanted_by(call: Call) -> int:
    """The bits of the operands whose gradients are wanted."""
    return sum(1 << i for i, x in enumerate(call.operands) if x.requires_grad) if torch.is_grad_enabled() else 0


def run(
    call: Call, wanted: int, upstream: Tensor | None = None, into: Sequence[Tensor | None] = (),
    template: Template | None = None, known: Any = None,
) -> Outputs:  # fmt: skip
    """Launch; with `upstream` the gradients only, multiplied by it: in `into`, where it is not 1, or new ones.

    template, known: of the calls that are like this one, see `recording`."""
    device = call.operands[0].device
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return run(call, wanted, upstream, into, template, known)

    def first(recorder: Any) -> Outputs:
        frame = Frame(call, upstream, into or None, recorder)
        found: Outputs = gpu.module_of(call.plan.op).run(frame, wanted)
        return found

    if template is None:
        return first(None)
    kind = FORWARD if upstream is None else REWRITTEN if into else ANEW
    return template.run(kind, (call.weight, *call.operands, *into), upstream, first, known)


def overwriting(call: Call) -> tuple[Tensor, Tensor]:
    """The loss of dense scores that nobody needs afterwards, and the gradient by them, written over them.

    This is safe: a program of the kernel reads its rows before it writes them, and no other program reads these rows.
    """
    scores, *rest = call.operands
    loss = run(call, 1, into=[scores, *(None for _ in rest)]).loss
    assert loss is not None
    return loss, scores


# What a call leaves for its backward pass: its plan, the bits of the operands that want a gradient, the call without
# its plan and tensors, and of the calls like it the template, and what the node in C++ knows; None where there is none.
Left = tuple[Plan, int, Call, Template | None, Any]


def again(left: Left, saved: Sequence[Tensor | None], upstream: Tensor) -> Sequence[Tensor | None]:
    """Gradients computed in backward: with reduction 'none', for a second backward, or differentiably."""
    _, wanted, _, template, known = left
    call = _saved(left, saved)
    if torch.is_grad_enabled() or batched(upstream):
        extras = call.weight, call.sample_weight, call.mask, call.normalizer
        asked_for = [bool(wanted >> i & 1) for i in range(len(call.operands))]
        return differentiable(call.plan, call.operands, extras, call.checked, upstream, asked_for)
    return run(call, wanted, upstream, template=template, known=known).gradients


def rewritten(left: Left, tensors: Sequence[Tensor | None], upstream: Tensor) -> Sequence[Tensor | None]:
    """Gradients computed anew where the upstream gradient is not 1, into those that forward has written. tensors: those
    that were saved, and a gradient, or None, for each operand."""
    _, wanted, _, template, known = left
    count = (len(tensors) - 4) // 2  # of operands
    return run(_saved(left, tensors[:-count]), wanted, upstream, tensors[-count:], template, known).gradients


def scaled(left: Left, gradients: Sequence[Tensor | None], upstream: Tensor) -> Sequence[Tensor | None]:
    """Gradients that forward has written, multiplied by the upstream gradient in place."""
    template, known = left[3:]

    def first(recorder: Any) -> Outputs:
        for gradient in gradients:
            if gradient is not None:
                scale(gradient, upstream, recorder)
        return Outputs(None, list(gradients))

    return (first(None) if template is None else template.run(SCALED, gradients, upstream, first, known)).gradients


def _saved(left: Left, saved: Sequence[Tensor | None]) -> Call:
    """The call with its tensors."""
    plan, _, bare, *_ = left
    weight, sample_weight, mask, normalizer = saved[:4]
    operands = cast(Sequence[Tensor], saved[4:])
    return bare._replace(
        plan=plan, operands=operands, weight=weight, sample_weight=sample_weight, mask=mask, normalizer=normalizer
    )


class FusedOnGpu(torch.autograd.Function):
    """The node, where the one in C++ does not run."""

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, bare: Call, wanted: int, template: Template | None, *tensors: Tensor | None
    ) -> Any:
        ctx.left = plan, wanted, bare, template, None
        loss, gradients = _forward(_saved(ctx.left, tensors), wanted, template)
        ctx.save_for_backward(*tensors)
        ctx.gradients = [] if plan.reduction == "none" else list(gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        early = list(ctx.gradients)
        if not early or torch.is_grad_enabled() or batched(upstream):  # none yet, or handed over
            return *[None] * 8, *again(ctx.left, ctx.saved_tensors, upstream)
        ctx.gradients.clear()  # `kernels/fused.py` says why it is emptied
        if any(g is not None and g.dtype == torch.float16 for g in early):
            return *[None] * 8, *rewritten(ctx.left, [*ctx.saved_tensors, *early], upstream)
        for gradient in early:
            if gradient is not None:
                scale(gradient, upstream)
        return *[None] * 8, *early


# What dispatch has looked for already (functorch transforms) is not looked for again, as in `kernels/fused.py`.
_apply = super(torch.autograd.Function, FusedOnGpu).apply

node.set_up_gpu(again, rewritten, scaled, SMALL, HOOKS)


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
