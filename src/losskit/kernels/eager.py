"""The eager formula: the same loss in ordinary torch operations, for everything that the fused kernel leaves out.

It runs under torch.compile, torch.export and torch.func, in double backward, on other devices. Value and gradient
are those of the declaration's trace, so both implementations agree at kinks and at infinity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.calculus import Differentiable
from losskit.kernels.torch_internals import exporting, transforms_active, unrolled
from losskit.plan import Plan
from losskit.plans import plan_by


class _Formula(torch.autograd.Function):
    """The unreduced formula with the gradient of its declaration, transparent to every transform of torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(formula: Differentiable, *operands: Tensor) -> Tensor:
        result = formula(*operands)
        if not isinstance(result, Tensor):
            return torch.full_like(operands[0], result)
        if result.shape != operands[0].shape:  # the formula chose between numbers, or an operand broadcasts
            result = result.expand(torch.broadcast_shapes(result.shape, operands[0].shape))
        # No transform takes an output that is one of the inputs.
        return result.clone() if any(result is x for x in operands) else result

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.formula, *operands = inputs
        ctx.save_for_backward(*operands)
        ctx.save_for_forward(*operands)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        gradients = zip(ctx.formula.gradients(), ctx.needs_input_grad[1:], strict=True)
        first = len(ctx.formula.roots) > 0  # Dynamo of torch 2.10 and 2.11 knows no `bool` of a tuple
        return None, *(
            _product(upstream, apply(g, ctx.saved_tensors), first) if want else None for g, want in gradients
        )


def _product(upstream: Tensor, slope: Tensor, first: bool) -> Tensor:
    """upstream * slope. An upstream gradient of 0 silences an infinite slope, but not in a first backward pass."""
    product = upstream * slope
    return product if first else torch.where((upstream == 0) & (slope == slope), 0.0, product)


class _ForwardFormula(_Formula):
    """With forward-mode AD; torch.compile does not trace functions that define it."""

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Tensor:
        # A constant has a tangent, too, of zeros, whose slope may be infinite: the share 0 of a score of -inf.
        pairs = zip(ctx.formula.gradients(), tangents, strict=True)
        parts = [_product(tangent, apply(g, ctx.saved_tensors), False) for g, tangent in pairs if tangent is not None]
        return sum(parts[1:], parts[0])


def apply(formula: Differentiable, operands: Sequence[Tensor]) -> Tensor:
    """A formula of tensors, differentiable to any order."""
    if unrolled() or (torch.compiler.is_compiling() and transforms_active()):
        return formula.plain(*operands)
    if not torch.compiler.is_compiling():
        return _ForwardFormula.apply(formula, *operands)
    # Dynamo traces no nested Function, and none whose forward takes no ctx where no gradient is wanted.
    if torch.is_grad_enabled() and formula.roots and any(x.requires_grad for x in operands):
        return _Formula.apply(formula, *operands)
    return _Formula.forward(formula, *operands)


def apply_checks(
    plan: Plan, bad: Tensor, operands: Sequence[Tensor], mask: Tensor | None, checks: str
) -> Tensor | None:
    """Apply the checks policy: raise an error, or return the mask of results to set to NaN (None: none).

    bad: True where a value that is not masked is outside its domain; it has the shape of the results.
    """
    if checks in ("raise", "torch") and bad.device.type == "cpu" and not exporting():
        if torch.compiler.is_compiling() or transforms_active() or type(bad) is not Tensor:
            refused = _refuse_if(bad.any(), [x.detach() for x in operands], mask, plan.key, checks)
            return bad | refused if checks == "raise" else bad & refused
        if bool(bad.any()):
            _refuse(plan, operands, mask, checks)
        return None
    return bad


def _refuse(plan: Plan, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> None:
    """Raise the error of a bad value, unless torch takes it and decides."""
    found = plan.find(operands, mask)
    if plan.refuses(found[0], checks):
        plan.refuse(operands, mask, found)


def nan_where(values: Tensor, bad: Tensor | None) -> Tensor:
    """NaN where `bad`. NaN is a factor, so that gradients become NaN too."""
    return values if bad is None else values * torch.where(bad, float("nan"), 1.0)


@torch.library.custom_op("losskit::refuse_if", mutates_args=())
def _refuse_if(bad: Tensor, operands: Sequence[Tensor], mask: Tensor | None, key: str, checks: str) -> Tensor:
    """`_refuse` as an op, for graphs that cannot branch on data; what it does not raise is not bad."""
    if bool(bad):
        _refuse(plan_by(key), operands, mask, checks)
    return torch.zeros_like(bad)


@_refuse_if.register_fake
def _(bad: Tensor, operands: Sequence[Tensor], mask: Tensor | None, key: str, checks: str) -> Tensor:
    return torch.empty_like(bad)


@_refuse_if.register_vmap
def _(info: Any, in_dims: Any, bad: Tensor, operands: Sequence[Tensor], mask: Tensor | None,
      key: str, checks: str) -> tuple[Tensor, None]:  # fmt: skip
    return _refuse_if(bad.any(), operands, mask, key, checks), None
