"""How class scores lie in memory: rows by two strides, classes by a third; what does not fit is copied."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit.kernels.gpu.shared import Call


class Layout(NamedTuple):
    """How a call's tensors are addressed: rows by an outer and an inner dimension, and classes."""

    tensors: list[Any]  # scores, one that lies as gradients do, target, sample_weight, mask, upstream
    strides: tuple[int, ...]  # outer and inner of each
    class_strides: tuple[int, ...]  # of the first three
    order: list[int]  # the dimensions of rows as they follow each other in memory
    sizes: list[int]  # their sizes
    outer: int
    inner: int
    classes: int

    @property
    def rows(self) -> int:
        return self.outer * self.inner

    @property
    def along(self) -> bool:
        """Whether positions lie side by side in memory, not classes."""
        return self.class_strides[0] != 1 and self.strides[1] == 1

    @property
    def aligned(self) -> int:
        """How many numbers at most lie in vectors that no row breaks."""
        if self.along or max(self.class_strides) != 1:
            return 1
        soft = self.tensors[2].is_floating_point()
        return math.gcd(16, self.classes, *self.strides[: 6 if soft else 4])

    @property
    def span(self) -> int:
        """How far the classes of a row reach."""
        return max(self.class_strides) * self.classes

    @property
    def reach(self) -> int:
        """More than any place in a tensor, and than the number of any score."""
        pairs = zip(self.strides[::2], self.strides[1::2], strict=True)
        return max(max(self.outer * a + self.inner * b for a, b in pairs) + self.span, self.rows * self.classes)


def layout_of(call: Call, upstream: Tensor | None) -> Layout:
    """Two dimensions of rows reach every dense tensor and most slices of one; what needs more is copied."""
    x, target = call.operands[:2]
    soft = target.is_floating_point()
    dim = min(1, x.ndim - 1)
    # Dense, in the order of the input's memory.
    like = x if x.is_contiguous() else torch.empty_like(x, device="meta")
    order = sorted((d for d in range(x.ndim) if d != dim), key=like.stride, reverse=True)
    if len(_groups([x, like], order)) > 2:
        x = torch.empty_like(like, device=x.device).copy_(x)
    if soft and len(_groups([x, like, target], order)) > 2:
        target = torch.empty_like(like, dtype=target.dtype, device=x.device).copy_(target)
    groups = _groups([x, like, target] if soft else [x, like], order)
    shape = [n for d, n in enumerate(x.shape) if d != dim]
    tensors: list[Tensor | None] = [x, like, target, call.sample_weight, call.mask, upstream]
    strides = []
    for k, tensor in enumerate(tensors):
        own = [0] * x.ndim  # by the dimensions of the scores
        if tensor is not None and (k < 2 or (k == 2 and soft)):
            own = list(tensor.stride())
        elif tensor is not None:
            tensor = tensor.expand(shape)
            own = _with_classes(tensor, dim)
            if not all(_merge(own, x.shape, group) for group in groups):
                by_memory = [d - (d > dim) for d in order]
                tensor = tensor.permute(by_memory).contiguous().permute([by_memory.index(d) for d in range(len(shape))])
                own = _with_classes(tensor, dim)
            tensors[k] = tensor
        ends = [own[group[-1]] for group in groups]
        strides += [0] * (2 - len(ends)) + ends
    lengths = [1, 1, *(torch.Size([x.shape[d] for d in group]).numel() for group in groups)]
    class_strides = [1 if x.shape[dim] == 1 else tensor.stride(dim) for tensor in (x, like, target if soft else like)]
    return Layout(tensors, tuple(strides), tuple(class_strides), order, [x.shape[d] for d in order], lengths[-2],
                  lengths[-1], x.shape[dim])  # fmt: skip


def _groups(tensors: list[Tensor], order: list[int]) -> list[list[int]]:
    """The dimensions in `order` without those of size 1, in groups that each tensor crosses with one stride."""
    groups: list[list[int]] = []
    shape = tensors[0].shape
    for d in order:
        if shape[d] == 1:
            continue
        if groups and all(_merge(list(x.stride()), shape, [groups[-1][-1], d]) for x in tensors):
            groups[-1].append(d)
        else:
            groups.append([d])
    return groups


def _merge(strides: list[int], shape: torch.Size, dims: list[int]) -> bool:
    """Whether dimensions follow each other with one stride."""
    return all(strides[a] == strides[b] * shape[b] for a, b in itertools.pairwise(dims))


def _with_classes(x: Tensor, dim: int) -> list[int]:
    """The strides of a tensor of rows, with one for the classes that it has not."""
    own = list(x.stride())
    return [*own[:dim], 0, *own[dim:]]
