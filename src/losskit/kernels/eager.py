"""The eager formula: the same loss in ordinary torch operations, for everything that the fused kernel leaves out.

It runs under torch.compile, torch.export and torch.func, in double backward, on other devices. Value and gradient
are those of the declaration's trace, so both implementations agree at kinks and at infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from losskit.errors import error
from losskit.policy import state
from losskit.reduction import reduce_eagerly

if TYPE_CHECKING:
    from losskit.calculus import Differentiable
    from losskit.families.pointwise import Formula
    from losskit.kernels.dispatch import Plan

HALVES = (torch.float16, torch.bfloat16)
FLOATS = (torch.float32, torch.float64, *HALVES)


def run(
    plan: Plan,
    operands: Sequence[Tensor],
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | float | None,
    checks: str | None = None,
) -> Tensor:
    """The loss of validated arguments; see `dispatch.validated`."""
    dtype = result_dtype(operands)
    wide = compute_dtype(operands)
    cast = [x.to(wide) for x in operands]
    element_mask = mask.unsqueeze(-1) if mask is not None and plan.rows and mask.ndim else mask
    bad = _bad(plan, cast, element_mask, state.checks if checks is None else checks)
    if element_mask is not None:
        # A NaN behind the mask must not reach the gradient as 0 * NaN.
        cast = [torch.where(element_mask, x, domain.typical) for x, domain in zip(cast, plan.domains, strict=True)]
    values = _apply(plan.differentiable, cast)
    if bad is not None:
        values = values * torch.where(bad, float("nan"), 1.0)  # a factor, so that gradients are poisoned too
    weight_in_mean = plan.weight_in_mean
    if plan.rows:
        if weight is not None:
            values = values * weight.to(wide)
        values, weight = values.mean(-1), None
    loss = reduce_eagerly(
        values, plan.reduction, weight=weight, weight_in_mean=weight_in_mean, sample_weight=sample_weight,
        mask=mask, normalizer=normalizer,
    )  # fmt: skip
    return loss.to(autocast(dtype, loss.device))


class _Formula(torch.autograd.Function):
    """The unreduced formula with the gradient of its declaration, transparent to every transform of torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(formula: Differentiable, *operands: Tensor) -> Tensor:
        result = formula(*operands)
        return result if isinstance(result, Tensor) else torch.full_like(operands[0], result)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.formula, *operands = inputs
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gradients = zip(ctx.formula.gradients(), ctx.needs_input_grad[1:], strict=True)
        return None, *(upstream * _apply(g, ctx.saved_tensors) if want else None for g, want in gradients)


class _ForwardFormula(_Formula):
    """With forward-mode AD; torch.compile does not trace functions that define it."""

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        pairs = zip(ctx.formula.gradients(), tangents, strict=True)
        parts = [_apply(gradient, ctx.saved_tensors) * tangent for gradient, tangent in pairs if tangent is not None]
        return sum(parts[1:], parts[0])


def _apply(formula: Differentiable, operands: Sequence[Tensor]) -> Tensor:
    """A formula of tensors, differentiable to any order."""
    if not torch.compiler.is_compiling():
        return _ForwardFormula.apply(formula, *operands)
    # Dynamo traces no nested Function, and none whose forward takes no ctx where no gradient is wanted.
    if torch.is_grad_enabled() and formula.roots and any(x.requires_grad for x in operands):
        return _Formula.apply(formula, *operands)
    return _Formula.forward(formula, *operands)


def gradients(
    plan: Plan,
    checks: str,
    numbers: Sequence[float],
    operands: Sequence[Tensor | None],
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    upstream: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Gradients of a fused call as differentiable functions of its operands and the upstream gradient."""
    with torch.enable_grad():
        taken = [x for x in operands if x is not None]
        full = [x if x.shape == taken[0].shape else x.expand(taken[0].shape) for x in taken]
        if plan.rows:  # the fused call got these per element
            sample_weight, mask = (x if x is None or x.ndim == 0 else x.squeeze(-1) for x in (sample_weight, mask))
        normalizer = None if numbers[0] != numbers[0] else numbers[0]
        elements = plan.rows and plan.reduction == "none"
        source = plan.elementwise() if elements else plan
        loss = run(source, full, weight, sample_weight, mask, normalizer, checks=checks)
        inputs = [x for x, want in zip(operands, wanted, strict=True) if want and x is not None]
        found = iter(
            torch.autograd.grad(
                loss, inputs, upstream.to(loss.dtype), create_graph=torch.is_grad_enabled(), allow_unused=True,
                materialize_grads=True,
            )
        )  # fmt: skip
    return [next(found) if want else None for want in wanted]


def _bad(plan: Plan, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
    """Where operands leave their domains, None if nothing is checked; under "raise" this raises."""
    if checks == "off":
        return None
    bad: Tensor | None = None
    for i, domain in plan.checked:
        outside = domain.outside(operands[i].detach())
        bad = outside if bad is None else bad | outside
    if bad is None:
        return None
    if mask is not None:
        bad = bad & mask
    if checks == "raise" and bad.device.type == "cpu":
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or type(bad) is not Tensor:
            switches = [name for name, on in plan.formula.switches.items() if on]
            detached = [x.detach() for x in operands]
            return bad | _refuse_if(bad.any(), detached, mask, plan.name, " ".join(switches))
        if bool(bad.any()):
            refuse(plan.formula, operands, mask)
        return None
    return bad


def refuse(formula: Formula, operands: Sequence[Tensor], mask: Tensor | None) -> NoReturn:
    """Raise the error that names the first bad value."""
    wide = compute_dtype(operands)
    for name, x in zip(formula.operands, operands, strict=True):
        declared = formula.declared[name]
        outside = declared.domain.outside(x.detach().to(wide))  # compared as in the kernel
        if mask is not None:
            outside = outside & mask
        if bool(outside.any()):
            index = tuple(int(i) for i in outside.nonzero()[0])
            outside_values = torch.broadcast_to(x, outside.shape)[outside]
            hint = f" {declared.hint}" if declared.hint else ""
            raise error(
                "domain", loss=formula.loss.name, argument=name, expected=declared.domain.description,
                got=f"{outside_values[0].item():.7g}", index=index, hint=hint,
            )  # fmt: skip
    raise AssertionError("the kernel reported a violation that the eager check does not see")


@torch.library.custom_op("losskit::refuse_if", mutates_args=())
def _refuse_if(bad: Tensor, operands: Sequence[Tensor], mask: Tensor | None, loss: str, switches: str) -> Tensor:
    """`refuse` as an op, for graphs that cannot branch on data; returns `bad` where it does not raise."""
    if bool(bad):
        from losskit.registry import get

        formulas: Any = vars(get(loss))["formulas"]
        formula = next(f for f in formulas.values() if [n for n, on in f.switches.items() if on] == switches.split())
        refuse(formula, operands, mask)
    return bad.clone()


@_refuse_if.register_fake
def _(bad: Tensor, operands: Sequence[Tensor], mask: Tensor | None, loss: str, switches: str) -> Tensor:
    return torch.empty_like(bad)


@_refuse_if.register_vmap
def _(info: Any, in_dims: Any, bad: Tensor, operands: Sequence[Tensor], mask: Tensor | None, loss: str,
      switches: str) -> tuple[Tensor, None]:  # fmt: skip
    return _refuse_if(bad.any(), operands, mask, loss, switches), None


def result_dtype(operands: Sequence[Tensor]) -> torch.dtype:
    """torch's promotion among the floating dtypes of the operands."""
    dtype = operands[0].dtype
    for x in operands[1:]:
        if x.dtype in FLOATS:
            dtype = torch.promote_types(dtype, x.dtype)
    return dtype


def compute_dtype(operands: Sequence[Tensor]) -> torch.dtype:
    """float64 if an operand is, else float32: halves are computed in float32 and rounded once."""
    return torch.float64 if result_dtype(operands) == torch.float64 else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Under autocast a loss of halves is float32, as torch's own are."""
    return torch.float32 if dtype in HALVES and torch.is_autocast_enabled(device.type) else dtype
