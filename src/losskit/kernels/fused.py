"""Calling the fused CPU kernel, with autograd around it.

1. The gradient is written in the forward pass and handed over in backward, scaled only where the upstream gradient is
   not 1. So operands may be changed in place after the call, as after torch's losses (those that save results).
   With 'none' it is the gradient of each element's own loss, and backward multiplies it by the upstream gradient in
   place; where an element has a part in several losses, the op gives none in forward. Gradients of halves stay in
   float32 until then, so that they are rounded once.
2. A gradient is handed over once. The tensor becomes the user's `.grad`, which later backward passes add to in
   place, so a second backward (retain_graph) computes it anew instead of giving the same memory away twice. The list
   of gradients is emptied, not replaced: compiled autograd calls backward with a stand-in for `ctx`, and what is set on
   that is lost.
3. Double backward and batched upstream gradients run the eager formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.errors import error
from losskit.kernels import library, node, wire
from losskit.kernels.torch_internals import batched
from losskit.plan import Arguments, Plan
from losskit.policy import REFUSES_NAN, checks_of_block, empty_of_block, state
from losskit.spaces import tell

# What a call leaves for its backward pass: its plan, code and numbers, and whether it had a mask.
Left = tuple[Plan, int, list[float], bool]

_REDUCTIONS = {"none": wire.Reduction.ELEMENTS, "mean": wire.Reduction.MEAN, "sum": wire.Reduction.SUM}

# What a call adds to the code of its plan, ready to be or-ed in.
_TORCHS = {torch.float16: "Half", torch.float32: "Float", torch.float64: "Double", torch.bfloat16: "BFloat16"}
_RESULT = {dtype: wire.OPTIONS.pack(result=wire.SCALAR_TYPES[name] + 1) for dtype, name in _TORCHS.items()}
_CHECK_BITS = {mode: wire.OPTIONS.pack(checks=wire.Checks[mode.upper()]) for mode in ("off", "nan", "raise")}
_CHECK_BITS["torch"] = _CHECK_BITS["raise"]
_CHECK_BITS |= {mode + REFUSES_NAN: bits for mode, bits in _CHECK_BITS.items()}
_ALL_CHECKS = wire.OPTIONS.mask("checks")
_EMPTY_IS_ZERO = wire.OPTIONS.pack(empty_is_zero=True)
_GRADIENTS = wire.OPTIONS.shift("gradients")
_NORMALIZER, _FACTOR = map(int, wire.Number)  # Dynamo of torch 2.13 finds no end in an IntEnum as an index
_OVERWRITE = {
    op: wire.OPTIONS.pack(gradients=1, family=wire.OPS[op].family.pack(overwrite=True))
    for op in ("class_scores", "two_rows")
}


def pack(reduction: str, *, weight_in_mean: bool = False, rows: int = 0, broadcast: int = 0, family: int = 0) -> int:
    """The part of the code that a plan fixes."""
    return wire.OPTIONS.pack(
        reduction=_REDUCTIONS[reduction], weight_in_mean=weight_in_mean, rows=rows, broadcast=broadcast, family=family
    )


class DeclinedError(Exception):
    """The kernel does not take these arguments as they are; nothing was computed."""


def attempt(
    plan: Plan,
    numbers: list[float],
    operands: Sequence[Tensor],
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    result: torch.dtype | None = None,
) -> Tensor | None:
    """The loss from the fused kernel, or None where it declines."""
    code = _code(plan, operands, result)
    if node.on and (plan.native is not None or node.used()):
        if plan.native is None:
            plan.native = node.kernel(plan)
        own = None if numbers is plan.numbers else numbers
        loss: Tensor | None = plan.native(code, operands, weight, sample_weight, mask, own)
        if loss is not None:
            return None if loss is NotImplemented else loss
    run, wanted = _forward, 0
    if torch.is_grad_enabled():
        bit = 1
        for x in operands:
            if x.requires_grad:
                wanted |= bit
            bit += bit
        if wanted & plan.constants:  # an op that is given what wants a gradient has one, which nobody defined
            operands = [x.detach() if plan.constants >> i & 1 else x for i, x in enumerate(operands)]
            wanted &= ~plan.constants
        if wanted & ~plan.gradients:
            return None
        if wanted:
            run, code = _apply, code | wanted << _GRADIENTS
    try:
        outputs = run((plan, code, numbers, mask is not None), weight, sample_weight, mask, *operands)
    except (DeclinedError, NotImplementedError):  # the op exists for dense CPU tensors only
        return None
    return outputs if wanted else outputs[0]


def code_of(plan: Plan) -> int:
    """The options of a call: its plan's, the mode of the checks, the rule for nothing. Gradients are not in it yet."""
    # As `state.checks` and `state.empty` do, without their frames.
    mode, empty = state.process_checks, state.process_empty
    if state.in_blocks:
        mode, empty = checks_of_block.get() or mode, empty_of_block.get() or empty
    code = plan.code | _CHECK_BITS[mode]
    if mode == "torch" and not plan.refused_by_torch and plan.refused_by_torch is not None:
        code &= ~_ALL_CHECKS
    if empty == "zero":
        code |= _EMPTY_IS_ZERO
    return code


def _code(plan: Plan, operands: Sequence[Tensor], result: torch.dtype | None) -> int:
    if result is None and operands[0].dtype in dtypes.HALVES:
        result = dtypes.autocast(dtypes.result_dtype(operands[: plan.telling]), operands[0].device)
    return code_of(plan) if result is None else code_of(plan) | _RESULT[result]


def overwriting(plan: Plan, arguments: Arguments, result: torch.dtype | None) -> tuple[Tensor, Tensor] | None:
    """The loss of scores that nobody needs afterwards, and the gradient by them, written over them if it can be."""
    operands, weight, sample_weight, mask, normalizer, _ = arguments
    numbers = list(plan.numbers)
    if normalizer is not None:
        numbers[wire.Number.NORMALIZER] = float(normalizer)
    code = _code(plan, operands, result) | _OVERWRITE[plan.op]
    try:
        loss, (gradient,), _ = _forward((plan, code, numbers, mask is not None), weight, sample_weight, mask, *operands)
    except (DeclinedError, NotImplementedError):
        return None
    return loss, gradient


def _forward(
    call: Left, weight: Tensor | None, sample_weight: Tensor | None, mask: Tensor | None, *operands: Tensor
) -> Any:
    """The loss, the gradients that are wanted and the status from the op, or the error that the status stands for."""
    plan, code, numbers, _ = call
    outputs = _op(plan)(library.address(plan.formula), code, operands, weight, sample_weight, mask, None, numbers)
    if outputs[2] and not judge(plan, outputs[2], outputs[0], operands, (weight, sample_weight, mask)):
        raise DeclinedError
    return outputs


def judge(
    plan: Plan, status: int, loss: Tensor | None, operands: Sequence[Tensor], extras: Sequence[Tensor | None]
) -> bool:
    """Whether a call goes on whose op told a status: False where the op declined, an error for a bad value."""
    if status == wire.FREED:
        tensors: dict[str, Tensor | None] = dict(zip(plan.names, operands, strict=False))
        raise _freed(plan, tensors | dict(zip(("weight", "sample_weight", "mask"), extras, strict=True)))
    if status < 0:
        return False
    if status < wire.SUSPICIOUS:
        if not plan.refuses(status, state.checks):
            return False
        assert loss is not None  # the record of the bad value
        place, value = loss.tolist()
        plan.refuse(operands, extras[2], (status, int(place), value))
    if state.checks != "torch":
        tell(plan.spaces(operands, extras[2]))
    return True


def _freed(plan: Plan, tensors: dict[str, Tensor | None]) -> Exception:
    """The error of the first tensor whose storage is too small for its elements."""
    for name, x in tensors.items():
        bytes = 0 if x is None else x.untyped_storage().nbytes()
        last = 0 if x is None else sum((n - 1) * step for n, step in zip(x.shape, x.stride(), strict=True))
        if x is not None and x.numel() and (x.storage_offset() + last + 1) * x.element_size() > bytes:
            return error("freed", loss=plan.name, argument=name, got=tuple(x.shape), bytes=bytes)
    return error("freed", loss=plan.name, argument="a tensor", got="", bytes=0)


class Fused(torch.autograd.Function):
    """The autograd node around the kernel. Operands are dense CPU tensors that the kernel accepts."""

    @staticmethod
    def forward(
        ctx: Any,
        call: Left,
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        *operands: Tensor,
    ) -> Tensor:
        outputs = _forward(call, weight, sample_weight, mask, *operands)
        ctx.save_for_backward(weight, sample_weight, mask, *operands)
        ctx.call, ctx.gradients = call, list(outputs[1])
        return outputs[0]

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gradients = list(ctx.gradients)
        if not gradients or torch.is_grad_enabled() or batched(upstream):  # none yet, or handed over
            return _placed(ctx, again(ctx.call, ctx.saved_tensors, upstream))
        ctx.gradients.clear()
        if ctx.call[0].reduction == "none":
            return _placed(ctx, times(ctx.call, gradients, upstream))
        scale = upstream.item()
        if scale != 1.0:
            if any(gradient.dtype in dtypes.HALVES for gradient in gradients):
                # a half times 1/N may have underflowed, despite a loss scaler
                return _placed(ctx, again(ctx.call, ctx.saved_tensors, upstream))
            for gradient in gradients:
                gradient.mul_(scale)
        return _placed(ctx, gradients)


def _placed(ctx: Any, gradients: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients that are wanted, at the places of what they are gradients by."""
    wanted = ctx.call[1] >> _GRADIENTS
    placed: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
    place = 4
    for gradient in gradients:
        while not wanted & 1:
            place, wanted = place + 1, wanted >> 1
        placed[place] = gradient
        place, wanted = place + 1, wanted >> 1
    return tuple(placed)


def times(call: Left, gradients: Sequence[Tensor], upstream: Tensor) -> Sequence[Tensor]:
    """Gradients of the elements' own losses, multiplied by the upstream in place; elements that do not count stay 0."""
    plan, _, _, masked = call
    with_zeros = masked or plan.ignores  # a mask, or rows that may be ignored
    unsafe = with_zeros and not math.isfinite(upstream.sum().item())
    for gradient in gradients:
        nothing = gradient == 0 if unsafe else None
        gradient.mul_(plan.spread(upstream, gradient.ndim))
        if nothing is not None:
            gradient.masked_fill_(nothing, 0.0)
    return gradients


def again(call: Left, saved: Sequence[Tensor | None], upstream: Tensor) -> Sequence[Tensor]:
    """Gradients computed in backward: with reduction 'none', for a second backward, or differentiably."""
    weight, sample_weight, mask, *operands = saved
    plan, code, numbers, _ = call
    # The mode is that of the forward pass. If forward moved values onto their bounds, this pass must too.
    checks = code & _ALL_CHECKS
    poisoned = checks == _CHECK_BITS["nan"] or (plan.settles and checks != 0)
    if torch.is_grad_enabled() or batched(upstream):
        given = numbers[_NORMALIZER]
        normalizer = None if given != given else given
        others = weight, sample_weight, mask, normalizer
        wanted = [bool(code >> _GRADIENTS + i & 1) for i in range(len(operands))]
        found = differentiable(plan, operands, others, poisoned, upstream, wanted)
        return [gradient for gradient in found if gradient is not None]
    # Values were checked in forward.
    code = code & ~_ALL_CHECKS | (_CHECK_BITS["nan"] if poisoned else 0)
    each = plan.reduction == "none"
    if not each:
        numbers = list(numbers)
        numbers[_FACTOR] = upstream.item()
    extras = weight, sample_weight, mask, upstream if each else None
    # Compiled autograd traces this, and the op but not the function behind it.
    op = getattr(torch.ops.losskit, plan.op) if torch.compiler.is_compiling() else _op(plan)
    return op(library.address(plan.formula), code, operands, *extras, numbers)[1]


def differentiable(
    plan: Plan, operands: Sequence[Any], extras: Sequence[Any], poisoned: bool, upstream: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """Gradients as functions of the operands and the upstream gradient, for derivatives of them."""
    inputs = [x for x, want in zip(operands, wanted, strict=True) if want]
    with torch.enable_grad():
        loss = plan.eager(plan.of_saved(operands, *extras), "nan" if poisoned else "off")
        found = torch.autograd.grad(
            loss, inputs, upstream.to(loss.dtype), create_graph=True, allow_unused=True, materialize_grads=True
        )
    one = iter(found)
    return [next(one) if want else None for want in wanted]


# torch.autograd.Function.apply looks for functorch transforms and default arguments on every call, which dispatch
# has done already: its base's apply saves 3 of 34 microseconds of a small forward and backward.
_apply = super(torch.autograd.Function, Fused).apply


def _op(plan: Plan) -> Any:
    """The op of a plan's family, which exists when the library is loaded."""
    op = _ops.get(plan.op)
    if op is None:
        op = _ops[plan.op] = getattr(torch.ops.losskit, plan.op).default._op
    return op


_ops: dict[str, Any] = {}

node.set_up(judge, times, again)
