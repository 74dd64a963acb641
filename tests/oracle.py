"""Element-wise losses by hand in float64, in any layout and with any weights, and the comparison with them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from samples import DTYPES, Setup, everything
from torch import Tensor, nn

import losskit

REDUCTIONS = ("none", "mean", "sum")
DIFFERENCES = {"apo_down": 0.025, "sppo_hard": 10.0, "discopop": 1.0}  # what gradients of dpo_loss are differences of
ROUGH = "zero_inflated_negative_binomial_nll_loss"  # a gradient in float32 was 10 ULP of the largest one off
BLOCK = 1024  # elements that the fused loop takes at a time
SETUPS = pytest.mark.parametrize(
    "setup", everything("elements: layouts, weights and masks of every loss, which one loop serves")
)
ALL_DTYPES = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# ---------------------------------------------------------------------------------------------------------
# The oracle


def wide(x: Any) -> Any:
    """A contiguous float64 copy of a tensor."""
    return x.detach().to(torch.float64).contiguous() if isinstance(x, Tensor) else x


def differentiable(setup: Setup) -> list[bool]:
    """Whether each operand of the call has a gradient."""
    return [setup.loss.operands[name].differentiable for name in setup.names]


def elements(setup: Setup, operands: list[Tensor]) -> list[Tensor]:
    """The loss of each element and its derivative by each operand, in the shape of the operands."""
    # A class each, for losses of rows.
    columns = [x.reshape(-1, 1).clone().requires_grad_(own) for x, own in zip(operands, differentiable(setup))]
    with losskit.checks("off"):
        values = setup(*columns, reduction="none")
    found = iter(torch.autograd.grad(values, [x for x in columns if x.requires_grad], torch.ones_like(values)))
    slopes = [next(found) if x.requires_grad else torch.zeros_like(x) for x in columns]
    return [x.detach().reshape(operands[0].shape) for x in (values, *slopes)]


def oracle(
    setup: Setup,
    operands: list[Tensor],
    reduction: str = "mean",
    upstream: Tensor | None = None,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | None = None,
) -> list[Tensor]:
    """The loss and its gradient by each operand of the call, in float64."""
    given = torch.broadcast_tensors(*map(wide, operands))
    shape, rows = given[0].shape, setup.loss.rows
    counts = torch.ones(shape[:-1] if rows else shape, dtype=torch.float64)
    of_elements = torch.ones(shape, dtype=torch.float64) if weight is None else wide(weight).expand(shape)
    of_losses = counts if sample_weight is None else wide(sample_weight).expand_as(counts)
    if setup.loss.weight_in_mean:
        counts = of_elements
    counted = counts * of_losses
    factor = of_losses.unsqueeze(-1) / shape[-1] * of_elements if rows else of_losses * of_elements
    if mask is not None:
        counted = counted.masked_fill(~mask, 0.0)
        factor = factor.masked_fill(~(mask.unsqueeze(-1) if rows and mask.ndim else mask), 0.0)
    denominator = 1.0
    if reduction == "mean":
        denominator = counted.sum().item() if normalizer is None else normalizer

    value, *slopes = [torch.where(factor == 0.0, 0.0, x * factor) for x in elements(setup, given)]
    losses = value.sum(-1) if rows else value
    result = losses if reduction == "none" else losses.sum() / denominator
    scale = torch.ones_like(result) if upstream is None else wide(upstream)
    scale = scale.unsqueeze(-1) if rows and reduction == "none" else scale
    gradients = [slope * scale / denominator for slope in slopes]
    return [result, *(g.sum_to_size(x.shape) for g, x in zip(gradients, operands, strict=True))]


# ---------------------------------------------------------------------------------------------------------
# Comparison


def upstream_of(result: Tensor) -> Tensor:
    """Numbers of both signs, exact in every dtype, that differ from element to element."""
    if result.ndim == 0:
        return torch.full_like(result, -1.5)
    return ((torch.arange(result.numel()) % 7 - 3.5) / 4).reshape(result.shape).to(result.dtype)


def call(setup: Setup, operands: list[Tensor], reduction: str = "mean", **extra: Any) -> list[Tensor | None]:
    """The loss and its gradient by each floating operand, as the autograd of a user sees them."""
    leaves = [
        nn.Parameter(x.detach()) if isinstance(x, nn.Parameter) else x.detach().requires_grad_(x.is_floating_point())
        for x in operands
    ]
    result = setup(*leaves, reduction=reduction, **extra)
    result.backward(upstream_of(result.detach()))
    # The kernel has no gradient by a constant, the formula zeros.
    zeros = [
        None if own or not x.is_floating_point() else torch.zeros_like(x)
        for x, own in zip(leaves, differentiable(setup))
    ]
    return [result.detach(), *(zero if x.grad is None else x.grad for x, zero in zip(leaves, zeros))]


def assert_close(got: Tensor, truth: Tensor, dtype: torch.dtype, what: str, size: float = 0.0) -> None:
    """Equal shape, NaNs and overflows; within 8 ULP of the largest result, which a wrong element exceeds by far.

    size: of the terms of the result, where they may cancel.
    """
    assert got.shape == truth.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(truth.shape)}"
    assert got.dtype == dtype, f"{what}: {got.dtype}, expected {dtype}"
    info = torch.finfo(dtype)
    truth = torch.where(truth.abs() > info.max, truth * math.inf, truth)
    finite = truth[truth.isfinite()]
    largest = finite.abs().amax().item() if finite.numel() else 0.0
    largest = max(largest, size if math.isfinite(size) else 0.0)
    allowed = max((16 if ROUGH in what else 8) * info.eps * largest, 4 * info.smallest_normal * info.eps)
    torch.testing.assert_close(
        got.double(), truth, rtol=0, atol=allowed, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


def check(setup: Setup, operands: list[Tensor], what: str = "", reductions: Any = REDUCTIONS, **extra: Any) -> None:
    """Compare a call with the oracle in every reduction; a gradient has its operand's shape and dtype."""
    floats = [x.dtype for x in operands if x.is_floating_point()]
    dtype = floats[0]
    for other in floats[1:]:
        dtype = torch.promote_types(dtype, other)
    for reduction in reductions:
        got = call(setup, operands, reduction, **extra)
        truth = oracle(setup, operands, reduction, upstream_of(got[0]), **extra)
        where = f"{setup} {reduction} {what}"
        size, share = 0.0, 1.0
        if reduction != "none":  # losses of both signs may cancel
            each = oracle(setup, operands, "none", **extra)[0]
            share = float((truth[0] / each.sum()).abs())
            size = float(each.abs().sum()) * share
        assert_close(got[0], truth[0], dtype, f"{where}, value", size)
        for number, (x, gradient) in enumerate(zip(operands, got[1:], strict=True)):
            if x.is_floating_point():
                assert gradient is not None, f"{where}: no gradient {number}"
                size = DIFFERENCES.get(setup.params.get("loss_type"), 0.0) * share
                assert_close(gradient, truth[number + 1], x.dtype, f"{where}, gradient {number}", size)


def uniform(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.25).to(dtype)


def some(shape: tuple[int, ...]) -> Tensor:
    """A mask with both values in it, where it has two elements or more."""
    return (torch.arange(math.prod(shape)) % 3 != 1).view(shape)


def copied(into: Tensor, x: Tensor) -> Tensor:
    """A view filled with the numbers of x."""
    assert into.shape == x.shape
    return into.copy_(x)
