"""What the plans of sequences share: lengths, refusals, and sums in log space.

The lattices themselves differ, and each family has its own: alignments of frames and labels, a transducer's nodes, a
chain of tags, the warping of two sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import dtypes
from losskit.errors import error
from losskit.kernels import eager
from losskit.kernels.torch_internals import transforms_active, unrolled
from losskit.plan import Plan

NEVER = -1e30  # the logarithm of an impossible path: derivatives of any order stay finite, times weight 0


class LatticePlan(Plan):
    """A loss of samples that are sequences, with its parameters fixed."""

    def _lengths(self, name: str, x: Any, batch: torch.Size) -> Tensor:
        """Lengths as a tensor, one for each sample, on their own device: the host can use lengths that it knows."""
        expected = f"{batch[0]} integers, one for each sample" if batch else "an integer"
        if isinstance(x, list | tuple | int) and not isinstance(x, bool):
            given = list(x) if isinstance(x, list | tuple) else [x]
            if not all(isinstance(one, int) and not isinstance(one, bool) for one in given):
                raise self._wrong_type(name, expected, repr(x))
            x = torch.tensor(given if isinstance(x, list | tuple) else x, dtype=torch.int64)
        if not isinstance(x, Tensor):
            raise self._wrong_type(name, expected, type(x).__name__)
        if x.dtype not in dtypes.INTEGERS:
            raise self._wrong(name, expected, x.dtype)
        if x.ndim > 1 or x.numel() != (batch[0] if batch else 1):
            raise self._wrong(name, expected, f"shape {tuple(x.shape)}")
        return x

    def _checked(self, sought: Tensor, operands: Sequence[Tensor], mask: Tensor | None, checks: str) -> Tensor | None:
        """The samples to set to NaN, or the error, of those that are bad."""
        first, *others = operands
        # In a graph, errors show no more than the first operand's shape; under vmap it has a dimension more.
        if torch.compiler.is_compiling() or transforms_active():
            first = torch.zeros((), dtype=first.dtype, device=first.device).expand(first.shape)
        return eager.apply_checks(self, sought, [first, *others], mask, checks)

    def _wrong_type(self, argument: str, expected: str, got: Any) -> Exception:
        return error("parameter_type", loss=self.name, argument=argument, expected=expected, got=got)

    def _outside(self, name: str, expected: str, got: Any, index: tuple[int, ...], hint: str = "") -> Exception:
        return error("domain", loss=self.name, argument=name, expected=expected, got=got, index=index, hint=hint)


def wide_of(x: Tensor) -> torch.dtype:
    """The dtype of the eager formulas: in float32, log space loses four digits of the gradient."""
    return torch.float64 if x.device.type != "mps" else torch.float32


def log_sum(*logs: Tensor) -> Tensor:
    """The logarithm of a sum; torch.logaddexp has no second derivative where one of two is nothing."""
    return torch.stack(logs).logsumexp(0)


def reachable(logs: Tensor) -> Tensor:
    """-inf as NEVER."""
    return torch.where(logs == float("-inf"), NEVER, logs)


class _Steered(torch.autograd.Function):
    """Values (N,) whose gradient by a tensor (N, ...) is given, and derivatives of it are those of what was given."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: Tensor, x: Tensor, slope: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        ctx.save_for_backward(inputs[2])
        ctx.save_for_forward(inputs[2])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (slope,) = ctx.saved_tensors
        return None, upstream.reshape(-1, *[1] * (slope.ndim - 1)) * slope, None


class _ForwardSteered(_Steered):
    """With forward-mode AD; torch.compile does not trace functions that define it."""

    @staticmethod
    def jvp(ctx: Any, _: Any, tangent: Tensor | None, __: Any) -> Tensor:
        (slope,) = ctx.saved_tensors
        return (slope * tangent).flatten(1).sum(1)


def steered(values: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """The values (N,), differentiable by x (N, ...) alone, where the gradient is `slope`."""
    if unrolled() or (torch.compiler.is_compiling() and transforms_active()):
        apart = x - x.detach()
        return values.detach() + (slope.detach() * torch.where(x.isfinite(), apart, 0.0)).flatten(1).sum(1)
    if not torch.compiler.is_compiling():
        return _ForwardSteered.apply(values.detach(), x, slope)
    return _Steered.apply(values.detach(), x, slope) if torch.is_grad_enabled() and x.requires_grad else values
