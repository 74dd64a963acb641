"""Centre lines of masks: what openings of a mask and of each of its erosions remove; and their kernel.

The kernel (`csrc/centre_lines.cpp`) keeps a few rows of each image between its steps, where torch's operations keep all
images. It runs in ordinary calls on a CPU, torch's operations in transforms and for higher derivatives.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from losskit.kernels.choice import helps
from losskit.kernels.torch_internals import batched


def lines_outside(x: Tensor, y: Tensor, iters: int) -> Tensor:
    """Of each plane (N, C) the sum of the centre lines of x, and the sum of them where y is not: (N, C, 2)."""
    if helps(x) and helps(y):
        found: Tensor = _Outside.apply(x, y, iters)
        return found
    return _by_torch(x, y, iters)


def parts(input: Tensor, *_: Any) -> str:
    """Where centre lines are found, in words; "" if torch does."""
    return "centre lines, their sums and the gradient of them in a fused CPU kernel" if helps(input) else ""


def skeleton(x: Tensor, iters: int) -> Tensor:
    """The centre lines of a mask: the ridges of the mask, and of each of its erosions."""
    found, x = _ridges(x)
    for _ in range(iters):
        own, x = _ridges(x)
        found = found + F.relu(own - found * own)
    return found


def _ridges(x: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of a mask without its opening: lines and points that an erosion removes; and the erosion."""
    pool, less = F.max_pool2d if x.ndim == 4 else F.max_pool3d, _eroded(x)
    return F.relu(x - pool(less, 3, 1, 1)), less


def _eroded(x: Tensor) -> Tensor:
    """The least of a pixel and its neighbours across a side."""
    pool, sides = (F.max_pool2d, 2) if x.ndim == 4 else (F.max_pool3d, 3)
    kernels = [tuple(3 if i == side else 1 for i in range(sides)) for side in range(sides)]
    return reduce(torch.minimum, [-pool(-x, kernel, 1, tuple(size // 2 for size in kernel)) for kernel in kernels])


def _by_torch(x: Tensor, y: Tensor, iters: int) -> Tensor:
    dims, lines = tuple(range(2, x.ndim)), skeleton(x, iters)
    return torch.stack([lines.sum(dims), (lines * (1.0 - y)).sum(dims)], -1)


class _Outside(torch.autograd.Function):
    """`lines_outside` by the kernel; of its gradient only what is wanted is computed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, iters: int) -> Tensor:
        sums = x.new_empty(*x.shape[:2], 2)
        torch.ops.losskit.lines_outside.default(_planes(x), _planes(y), iters, sums)
        ctx.save_for_backward(x, y)
        ctx.iters = iters
        return sums

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        x, y = masks = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:2]
        if torch.is_grad_enabled() or batched(upstream):
            with torch.enable_grad():
                found = _by_torch(x, y, ctx.iters)
            for_those = [x for x, want in zip(masks, wanted, strict=True) if want]
            gradients = iter(torch.autograd.grad(found, for_those, upstream, create_graph=torch.is_grad_enabled()))
            return *(next(gradients) if want else None for want in wanted), None
        by_masks = [x.new_empty(x.shape if want else 0) for x, want in zip(masks, wanted, strict=True)]
        torch.ops.losskit.lines_outside_backward.default(
            _planes(x), _planes(y), ctx.iters, upstream.contiguous(), *by_masks
        )
        return *(x if want else None for x, want in zip(by_masks, wanted, strict=True)), None


def _planes(x: Tensor) -> Tensor:
    return x.detach().contiguous().flatten(0, 1)
