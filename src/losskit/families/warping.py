"""Soft alignments of two series: the soft minimum over all ways through the matrix of their squared distances.

1. A cell (i, j) is step i of one series beside step j of the other; a way comes from the cells before it in either or
   in both. A series is a pair: its steps (N, T, D), and how many of them each sample has.
2. `aligned` is differentiable to any order. `alignment_of` gives the probability that a way goes through each cell as
   well, of which the gradient is made, and has a kernel: where its tensors are doubles that Python may read.
3. Both run over anti-diagonals d = i + j, all samples and cells of a diagonal at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import pad

from losskit.kernels import gpu, library
from losskit.kernels.torch_internals import hidden

Series = tuple[Tensor, Tensor]
Kernel = Callable[..., None]


def aligned(one: Series, other: Series, gamma: float) -> Tensor:
    """The loss of each pair of series.

    A diagonal has a cost for each row, infinite where it has no cell, after one for the row before the first.
    """
    if one[0].shape[1] > other[0].shape[1]:
        return aligned(other, one, gamma)
    (x, m), (y, n) = one, other
    kernel = None if torch.is_grad_enabled() else kernel_of(x, m, y, n)
    if kernel is not None:
        return _by_kernel(kernel, one, other, gamma, x.new_empty(0))
    rows, columns = x.shape[1], y.shape[1]
    i = torch.arange(rows, device=x.device).unsqueeze(1)
    j = (torch.arange(rows + columns - 1, device=x.device) - i).clamp(0, columns - 1)
    costs = _distances(x, y).gather(2, j.expand(x.shape[0], -1, -1)).unbind(2)
    before = torch.full_like(costs[0][:, :1], torch.inf).expand(-1, rows + 1)
    found = [pad(costs[0][:, :1], (1, rows - 1), value=torch.inf)]
    for d, low, high in _diagonals(rows, columns):
        last = found[-1]
        ways = torch.stack([last[:, low:high], last[:, low + 1 : high + 1], before[:, low:high]])
        least = ways.detach().amin(0).clamp(max=1e30)  # where distances are infinite, all are
        softly = least - gamma * ((least - ways) / gamma).logsumexp(0)
        before = last
        found.append(pad(costs[d][:, low:high] + softly, (low + 1, rows - high), value=torch.inf))
    ends = (m + n - 2) * (rows + 1) + m
    return torch.stack(found, 1).flatten(1).gather(1, ends.unsqueeze(1)).squeeze(1)


def alignment_of(one: Series, other: Series, gamma: float) -> tuple[Tensor, Tensor]:
    """The loss of each pair of series, and the probability of each cell, (N, T, U); it need not be differentiable.

    In torch's operations all diagonals are in one tensor, of which a view has the cells in rows and columns. Backwards,
    a cell hands its probability on to the three before it, by their shares in its soft minimum.
    """
    (x, m), (y, n) = one, other
    if x.shape[1] > y.shape[1]:
        loss, at = alignment_of(other, one, gamma)
        return loss, at.mT
    samples, rows, columns = *x.shape[:2], y.shape[1]
    kernel = kernel_of(x, m, y, n)
    if kernel is not None:
        at = x.new_zeros(samples, rows, columns)
        return _by_kernel(kernel, one, other, gamma, at), at
    diagonal = samples * (rows + 1)
    cells = (samples, rows, columns), (rows + 1, diagonal + 1, diagonal), diagonal + 1
    costs = x.new_full((rows + columns, samples, rows + 1), torch.inf)
    costs.as_strided(*cells).copy_(_distances(x, y))
    shares = {}
    for d, low, high in _diagonals(rows, columns):
        ways = torch.stack([costs[d, :, low:high], costs[d, :, low + 1 : high + 1], costs[d - 1, :, low:high]])
        least = ways.amin(0).clamp_(max=torch.finfo(x.dtype).max)
        share = torch.sub(least, ways, out=ways).div_(gamma).exp_()
        total = share.sum(0)
        shares[d] = share.div_(total)
        costs[d + 1, :, low + 1 : high + 1].add_(least).sub_(total.log_(), alpha=gamma)
    ends = m + n - 1, torch.arange(samples, device=x.device), m
    alignment = torch.zeros_like(costs)
    alignment[ends] = 1.0
    for d, low, high in reversed(_diagonals(rows, columns)):
        here, share = alignment[d + 1, :, low + 1 : high + 1], shares[d]
        alignment[d, :, low:high].addcmul_(share[0], here)
        alignment[d, :, low + 1 : high + 1].addcmul_(share[1], here)
        alignment[d - 1, :, low:high].addcmul_(share[2], here)
    return costs[ends], alignment.as_strided(*cells)


def kernel_of(*tensors: Tensor) -> Kernel | None:
    """What computes alignments of these tensors, the first of which is the shorter series; None if torch does."""
    if any(hidden(x.detach()) for x in tensors):
        return None
    if all(map(gpu.takes, tensors)):
        module = gpu.part("warping")
        return module.soft_alignment if module is not None and module.takes(tensors[0]) else None
    if library.loaded() and all(x.is_cpu for x in tensors):
        return cast(Kernel, torch.ops.losskit.soft_alignment)
    return None


def parts(input: Tensor, target: Tensor, *_: Any) -> str:
    """Where alignments are computed, in words; "" if torch does."""
    kernel = kernel_of(min(input, target, key=lambda x: x.shape[1]), input, target)
    device = "GPU" if gpu.takes(input) else "CPU"
    return "" if kernel is None else f"alignments, and the gradient of them, in a fused {device} kernel"


def _by_kernel(kernel: Kernel, one: Series, other: Series, gamma: float, alignment: Tensor) -> Tensor:
    """The losses; what lies within the lengths of the alignment is filled in, unless that has no elements."""
    (x, m), (y, n) = one, other
    loss = x.new_empty(x.shape[0])
    given = (x.detach().contiguous() for x in (x, y, m, n))
    kernel(*given, gamma, loss, alignment)
    return loss


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared, from differences, so that series far from 0 keep their digits; by rows, which need little memory."""
    return torch.stack([(row.unsqueeze(1) - y).square().sum(-1) for row in x.unbind(1)], 1)


def _diagonals(rows: int, columns: int) -> list[tuple[int, int, int]]:
    """Anti-diagonals d = i + j after the first, and their first row and the one after their last."""
    return [(d, max(0, d - columns + 1), min(rows, d + 1)) for d in range(1, rows + columns - 1)]
