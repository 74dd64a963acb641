"""The element-wise family on a GPU: one pass over all operands, the gradients written on the way.

1. Tensors with the result's memory order are read straight on. The others (a mask of rows, a weight of classes, a
   transposed target) are addressed by up to three dimensions, after dimensions that follow each other in all of these
   tensors are merged; tensors that need more are copied.
2. A program takes several blocks if there are many. A single program finishes the sum by itself, which saves a launch;
   up to four blocks' elements are one program's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from losskit.domains import slack_of
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.frame import Frame, Outputs, conclude, factor_of
from losskit.kernels.gpu.shared import TYPES, cdiv, index_type
from losskit.kernels.gpu.violations import report

BLOCK = 1024  # elements, eight for each thread
PROGRAMS = 4096  # at most: a few times what the multiprocessors hold, so that few programs start, end and leave a sum
DIMS = 3


@triton.jit
def fetch(x, at, inside, inner, innermost, strides, K: tl.constexpr, PLAIN: tl.constexpr, INDEX: tl.constexpr):
    """A block of tensor K of the kernel, whether it lies as the result does or not."""
    if (PLAIN >> K) & 1:
        block = tl.load(x + at, mask=inside, other=0)
    else:
        rest = at // innermost
        outer, middle, last = rest // inner, rest % inner, at % innermost
        place = outer * strides[3 * K] + middle * strides[3 * K + 1] + last * strides[3 * K + 2]
        block = tl.load(x + place, mask=inside, other=0)
    return block


@triton.jit
def operands_at(x0, x1, x2, x3, mask, start, numel, inner, innermost, strides, T: tl.constexpr, PLAIN: tl.constexpr,
                WHOLE: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """A block of the operands: where it lies, which of its elements exist, which count, and their values."""
    at = start + tl.arange(0, BLOCK).to(INDEX)
    if WHOLE:
        inside = tl.full((BLOCK,), True, tl.int1)
    else:
        inside = at < numel
    a = fetch(x0, at, inside, inner, innermost, strides, 0, PLAIN, INDEX).to(T)
    b, c, d = a, a, a
    if x1 is not None:
        b = fetch(x1, at, inside, inner, innermost, strides, 1, PLAIN, INDEX).to(T)
    if x2 is not None:
        c = fetch(x2, at, inside, inner, innermost, strides, 2, PLAIN, INDEX).to(T)
    if x3 is not None:
        d = fetch(x3, at, inside, inner, innermost, strides, 3, PLAIN, INDEX).to(T)
    counts = inside
    if mask is not None:
        counts = inside & (fetch(mask, at, inside, inner, innermost, strides, 6, PLAIN, INDEX) != 0)
    return at, inside, counts, a, b, c, d


@triton.jit(do_not_specialize=["divisor", "number"])
def pointwise_kernel(
    x0, x1, x2, x3, weight, sample_weight, mask, each_upstream, upstream, denominator, numbers, record,
    values, sums, loss, g0, g1, g2, g3,
    numel, divisor, number, inner, innermost, strides,
    EVALUATE: tl.constexpr, VIOLATION: tl.constexpr, SETTLED: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr,
    S2: tl.constexpr, S3: tl.constexpr, T: tl.constexpr, PLAIN: tl.constexpr, CHECKED: tl.constexpr,
    REWRITE: tl.constexpr, WHOLE: tl.constexpr, EMPTY: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        factor = factor_of(upstream, denominator, divisor, T)
        reduced: tl.constexpr = sums is not None or loss is not None
        total = tl.zeros((BLOCK,), tl.float64 if reduced else T)
        first, step = tl.program_id(0).to(INDEX) * BLOCK, tl.num_programs(0).to(INDEX) * BLOCK
        for start in range(first, numel, step):
            at, inside, counts, a, b, c, d = operands_at(
                x0, x1, x2, x3, mask, start, numel, inner, innermost, strides, T, PLAIN, WHOLE, INDEX, BLOCK
            )
            if SETTLED is not None:
                a, b, c, d = SETTLED(a, b, c, d, S0, S1, S2, S3)
            value, da, db, dc, dd = EVALUATE(a, b, c, d, numbers, T)
            weigh = tl.full((BLOCK,), 1.0, T)
            if weight is not None:
                weigh *= fetch(weight, at, inside, inner, innermost, strides, 4, PLAIN, INDEX).to(T)
            if sample_weight is not None:
                own = fetch(sample_weight, at, inside, inner, innermost, strides, 5, PLAIN, INDEX)
                weigh *= own.to(T)
            value *= weigh
            slope = weigh * factor
            if each_upstream is not None:
                slope *= fetch(each_upstream, at, inside, inner, innermost, strides, 7, PLAIN, INDEX).to(T)
            if CHECKED:
                which, _ = VIOLATION(a, b, c, d)
                value = tl.where(which > 0, float("nan"), value).to(T)
                slope = tl.where(which > 0, float("nan"), slope).to(T)
            value = tl.where(counts, value, 0.0).to(T)
            if values is not None:
                tl.store(values + at, value.to(values.dtype.element_ty), mask=inside)
            total += value.to(total.dtype)
            if denominator is not None:  # a mean over nothing has no gradient
                counts = counts & (at < tl.where(factor == 0, 0, numel))
            if g0 is not None:
                tl.store(g0 + at, tl.where(counts, da * slope, 0.0).to(g0.dtype.element_ty), mask=inside)
            if g1 is not None:
                tl.store(g1 + at, tl.where(counts, db * slope, 0.0).to(g1.dtype.element_ty), mask=inside)
            if g2 is not None:
                tl.store(g2 + at, tl.where(counts, dc * slope, 0.0).to(g2.dtype.element_ty), mask=inside)
            if g3 is not None:
                tl.store(g3 + at, tl.where(counts, dd * slope, 0.0).to(g3.dtype.element_ty), mask=inside)
        if reduced or values is not None:
            whole = tl.sum(total, 0)
            if sums is not None:
                tl.store(sums + tl.program_id(0), whole)
            if loss is not None:
                conclude(whole, divisor, denominator, loss, EMPTY)
            if CHECKED and whole != whole:  # the bad value is sought only now: good calls do not pay for it
                for start in range(first, numel, step):
                    at, _, counts, a, b, c, d = operands_at(
                        x0, x1, x2, x3, mask, start, numel, inner, innermost, strides, T, PLAIN, WHOLE, INDEX, BLOCK
                    )
                    if SETTLED is not None:
                        a, b, c, d = SETTLED(a, b, c, d, S0, S1, S2, S3)
                    which, found = VIOLATION(a, b, c, d)
                    report(record, tl.where(counts, which, 0), found, at, number)


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradients."""
    call, first = frame.call, frame.call.operands[0]
    plan, shape, numel = call.plan, first.shape, first.numel()
    row = shape[-1] if plan.rows else 1  # rows are the unit of sums and of the normalizer
    # Results are dense, and lie in the order of the first operand.
    like = first if first.is_contiguous() else torch.empty_like(first, device="meta")
    block, warps = (4 * BLOCK, 16) if BLOCK < numel <= 4 * BLOCK else (BLOCK, 4)  # see note 2
    programs = min(cdiv(numel, block), PROGRAMS)
    frame.divide_by(numel, max(row, 1))
    frame.write(wanted, [like] * len(call.operands), like)
    frame.add_up(programs, alone=True)
    if numel:
        slots: list[Tensor | None] = [*call.operands, *[None] * (4 - len(call.operands))]
        slots += [call.weight, call.sample_weight, call.mask, frame.each_upstream]
        slots, plain, inner, innermost, strides = _layout(like, slots)
        odd = [x for k, x in enumerate(slots) if x is not None and not plain >> k & 1]
        reach = max([numel, *map(_extent, odd)])
        evaluate, violation, settled = formulas.functions(plan.formula)
        checked = call.checked and bool(plan.checked)
        slack = [slack_of(x.dtype) for x in call.operands] + [0.0] * (4 - len(call.operands))
        frame.launch(
            pointwise_kernel, (programs,),
            *slots, frame.upstream, frame.denominator, frame.numbers, frame.record,
            frame.values, frame.sums, frame.loss, *frame.gradients, *[None] * (4 - len(frame.gradients)),
            numel, frame.divisor, frame.number(shape) if checked else 0, inner, innermost, strides,
            evaluate, violation, settled if checked and plan.settles else None, *slack,
            TYPES[call.compute], plain, checked, frame.rewrite, numel % block == 0,
            "" if frame.loss is None else frame.of_nothing(), index_type(reach), block, num_warps=warps,
        )  # fmt: skip
    return frame.outputs()


def _layout(like: Tensor, slots: list[Tensor | None]) -> tuple[list[Tensor | None], int, int, int, tuple[int, ...]]:
    """The tensors, the bits of those in the memory order of `like`, and sizes and strides for the others."""
    everything = (1 << len(slots)) - 1
    if like.is_contiguous() and all(x is None or (x.shape == like.shape and x.is_contiguous()) for x in slots):
        return slots, everything, 1, 1, (0,)
    dims = sorted((i for i, size in enumerate(like.shape) if size != 1), key=like.stride, reverse=True)
    strides = [[0 if x is None else _stride(x, like, i) for i in dims] for x in slots]
    dense = [like.stride(i) for i in dims]
    plain = sum(1 << k for k, own in enumerate(strides) if slots[k] is None or own == dense)
    if plain == everything:
        return slots, plain, 1, 1, (0,)
    sizes: list[int] = []  # of dimensions, merged where all `odd` tensors (not in the result's order) allow
    last: list[int] = []  # of each merged dimension, the original one whose stride it has
    odd = [own for k, own in enumerate(strides) if not plain >> k & 1]
    for position, i in enumerate(dims):
        if sizes and all(own[position - 1] == own[position] * like.shape[i] for own in odd):
            sizes[-1] *= like.shape[i]
            last[-1] = position
        else:
            sizes.append(like.shape[i])
            last.append(position)
    if len(sizes) > DIMS:
        copied = [x if x is None or plain >> k & 1 else _as(x, like) for k, x in enumerate(slots)]
        return copied, everything, 1, 1, (0,)
    missing = DIMS - len(sizes)
    sizes = [1] * missing + sizes
    merged = [[0] * missing + [own[i] for i in last] for own in strides]
    return slots, plain, sizes[1], sizes[2], tuple(stride for own in merged for stride in own)


def _extent(x: Tensor) -> int:
    """The distance from a tensor's first element to its last, in elements."""
    return sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))


def _stride(x: Tensor, like: Tensor, dim: int) -> int:
    """The stride of x along a dimension of `like`, 0 where x is broadcast."""
    own = dim - (like.ndim - x.ndim)
    return 0 if own < 0 or x.shape[own] == 1 else x.stride(own)


def _as(x: Tensor, like: Tensor) -> Tensor:
    """A copy of x in the memory order of `like`."""
    return torch.empty_like(like, dtype=x.dtype, device=x.device).copy_(x.expand(like.shape))
