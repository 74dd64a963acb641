"""How class scores lie in memory: rows by two strides, classes by a third; what does not fit is copied."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit.kernels.gpu.frame import Call


class Layout(NamedTuple):
    """How a call's tensors are addressed: rows by an outer and an inner dimension, and classes."""

    strides: tuple[int, ...]  # outer and inner: of scores, gradients, target, sample_weight, mask, upstream gradient
    class_strides: tuple[int, ...]  # of the first three
    order: tuple[int, ...]  # the dimensions of rows as they follow each other in memory
    sizes: tuple[int, ...]  # their sizes
    outer: int
    inner: int
    classes: int
    along: bool  # positions lie side by side in memory, not classes
    aligned: int  # widest vector load, in elements, that never crosses a row; at most 16
    span: int  # an upper bound of the distance between classes of a row, in elements
    reach: int  # an upper bound of every offset, and of every score's number

    @property
    def rows(self) -> int:
        return self.outer * self.inner


_known: dict[Any, Layout] = {}  # of calls without copies; the next call like one of them looks its layout up


def placed(call: Call, upstream: Tensor | None) -> tuple[Layout, list[Any]]:
    """The layout of a call, and its tensors, copied where the layout could not describe them."""
    x, target = call.operands[:2]
    like = x if x.is_contiguous() else torch.empty_like(x, device="meta")  # dense, in the order of the input's memory
    tensors = [x, like, target, call.sample_weight, call.mask, upstream]
    key = (target.is_floating_point(), *(None if t is None else (t.shape, t.stride()) for t in tensors))
    layout = _known.get(key)
    if layout is None:
        given = list(tensors)
        layout = _layout_of(tensors)
        if all(a is b for a, b in zip(given, tensors, strict=True)):
            if len(_known) >= 4096:
                _known.clear()
            _known[key] = layout
    return layout, tensors


def _layout_of(tensors: list[Any]) -> Layout:
    """Two dimensions of rows describe every dense tensor and most slices; a tensor that needs more is copied."""
    x, like, target = tensors[:3]
    soft = target.is_floating_point()
    dim = min(1, x.ndim - 1)
    order = sorted((d for d in range(x.ndim) if d != dim), key=like.stride, reverse=True)
    if len(_groups([x, like], order)) > 2:
        x = tensors[0] = torch.empty_like(like, device=x.device).copy_(x)
    if soft and len(_groups([x, like, target], order)) > 2:
        target = tensors[2] = torch.empty_like(like, dtype=target.dtype, device=x.device).copy_(target)
    groups = _groups([x, like, target] if soft else [x, like], order)
    shape = [n for d, n in enumerate(x.shape) if d != dim]
    strides = []
    for k, tensor in enumerate(tensors):
        own = [0] * x.ndim  # strides by the dimensions of the scores
        if tensor is not None and (k < 2 or (k == 2 and soft)):
            own = list(tensor.stride())
        elif tensor is not None:
            own = _with_classes(tensor.expand(shape), dim)
            if not all(_merge(own, x.shape, group) for group in groups):
                by_memory = [d - (d > dim) for d in order]
                copied = tensor.expand(shape).permute(by_memory).contiguous()
                tensors[k] = copied.permute([by_memory.index(d) for d in range(len(shape))])
                own = _with_classes(tensors[k], dim)
        ends = [own[group[-1]] for group in groups]
        strides += [0] * (2 - len(ends)) + ends
    outer, inner = [1, 1, *(torch.Size([x.shape[d] for d in group]).numel() for group in groups)][-2:]
    classes = x.shape[dim]
    class_strides = [1 if classes == 1 else tensor.stride(dim) for tensor in (x, like, target if soft else like)]
    along = class_strides[0] != 1 and strides[1] == 1
    rigid = along or max(class_strides) != 1
    span = max(class_strides) * classes
    far = max(outer * a + inner * b for a, b in zip(strides[::2], strides[1::2], strict=True)) + span
    aligned = 1 if rigid else math.gcd(16, classes, *strides[: 6 if soft else 4])
    sizes = tuple(x.shape[d] for d in order)
    return Layout(tuple(strides), tuple(class_strides), tuple(order), sizes, outer, inner, classes, along, aligned,
                  span, max(far, outer * inner * classes))  # fmt: skip


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
    """The strides of a tensor of rows, with a stride of 0 for the missing dimension of classes."""
    own = list(x.stride())
    return [*own[:dim], 0, *own[dim:]]
