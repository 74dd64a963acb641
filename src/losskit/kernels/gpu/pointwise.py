"""The element-wise family on a GPU: one pass over all operands, the gradients written on the way.

1. Tensors with the result's memory order are read straight on. The others (a mask of rows, a weight of classes, a
   transposed target) are addressed by up to three dimensions, after dimensions that follow each other in all of these
   tensors are merged; tensors that need more are copied.
2. A tensor whose last dimension is components is an operand for each of them, a view with its strides; its gradient is
   written as it is stored.
3. A program takes several blocks if there are many. A single program finishes the sum by itself, which saves a launch;
   up to four blocks' elements are one program's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from losskit.domains import slack_of
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.frame import Frame, Outputs, conclude, factor_of
from losskit.kernels.gpu.shared import TYPES, cdiv, index_type
from losskit.kernels.gpu.violations import report
from losskit.kernels.wire import MAX_OPERANDS, Rows

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
def operands_at(x0, x1, x2, x3, x4, x5, x6, x7, mask, start, numel, inner, innermost, strides, T: tl.constexpr,
                PLAIN: tl.constexpr, WHOLE: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """A block of the operands: where it lies, which of its elements exist, which count, and their values."""
    at = start + tl.arange(0, BLOCK).to(INDEX)
    if WHOLE:
        inside = tl.full((BLOCK,), True, tl.int1)
    else:
        inside = at < numel
    a = fetch(x0, at, inside, inner, innermost, strides, 0, PLAIN, INDEX).to(T)
    b, c, d, e, f, g, h = a, a, a, a, a, a, a
    if x1 is not None:
        b = fetch(x1, at, inside, inner, innermost, strides, 1, PLAIN, INDEX).to(T)
    if x2 is not None:
        c = fetch(x2, at, inside, inner, innermost, strides, 2, PLAIN, INDEX).to(T)
    if x3 is not None:
        d = fetch(x3, at, inside, inner, innermost, strides, 3, PLAIN, INDEX).to(T)
    if x4 is not None:
        e = fetch(x4, at, inside, inner, innermost, strides, 4, PLAIN, INDEX).to(T)
    if x5 is not None:
        f = fetch(x5, at, inside, inner, innermost, strides, 5, PLAIN, INDEX).to(T)
    if x6 is not None:
        g = fetch(x6, at, inside, inner, innermost, strides, 6, PLAIN, INDEX).to(T)
    if x7 is not None:
        h = fetch(x7, at, inside, inner, innermost, strides, 7, PLAIN, INDEX).to(T)
    counts = inside
    if mask is not None:
        counts = inside & (fetch(mask, at, inside, inner, innermost, strides, 10, PLAIN, INDEX) != 0)
    return at, inside, counts, a, b, c, d, e, f, g, h


@triton.jit
def store(gradient, at, slope, inside, counts, K: tl.constexpr, COMPOSED: tl.constexpr, STEP: tl.constexpr):
    """A block of the gradient by operand K, whose elements may lie apart; 0 where an element does not count."""
    step: tl.constexpr = STEP if (COMPOSED >> K) & 1 else 1
    if gradient is not None:
        value = tl.where(counts, slope, 0.0).to(gradient.dtype.element_ty)
        tl.store(gradient + at * step, value, mask=inside)


@triton.jit(do_not_specialize=["divisor", "number"])
def pointwise_kernel(
    x0, x1, x2, x3, x4, x5, x6, x7, weight, sample_weight, mask, each_upstream, upstream, denominator, numbers, record,
    values, sums, loss, g0, g1, g2, g3, g4, g5, g6, g7,
    numel, divisor, number, inner, innermost, strides,
    EVALUATE: tl.constexpr, VIOLATION: tl.constexpr, SETTLED: tl.constexpr, S0: tl.constexpr, S1: tl.constexpr,
    S2: tl.constexpr, S3: tl.constexpr, S4: tl.constexpr, S5: tl.constexpr, S6: tl.constexpr, S7: tl.constexpr,
    COMPOSED: tl.constexpr, STEP: tl.constexpr, T: tl.constexpr, PLAIN: tl.constexpr, CHECKED: tl.constexpr,
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
        # Whole blocks need no mask, so their loads and stores are 16 bytes wide; the last program takes what is left.
        end = numel // BLOCK * BLOCK
        for part in tl.static_range(1 if WHOLE else 2):
            begin = first if part == 0 else tl.where(tl.program_id(0) == tl.num_programs(0) - 1, end, numel)
            for start in range(begin, end if part == 0 else numel, step):
                at, inside, counts, a, b, c, d, e, f, g, h = operands_at(
                    x0, x1, x2, x3, x4, x5, x6, x7, mask, start, numel, inner, innermost, strides,
                    T, PLAIN, part == 0, INDEX, BLOCK,
                )  # fmt: skip
                if SETTLED is not None:
                    a, b, c, d, e, f, g, h = SETTLED(a, b, c, d, e, f, g, h, S0, S1, S2, S3, S4, S5, S6, S7)
                value, da, db, dc, dd, de, df, dg, dh = EVALUATE(a, b, c, d, e, f, g, h, numbers, T)
                weigh = tl.full((BLOCK,), 1.0, T)
                if weight is not None:
                    weigh *= fetch(weight, at, inside, inner, innermost, strides, 8, PLAIN, INDEX).to(T)
                if sample_weight is not None:
                    own = fetch(sample_weight, at, inside, inner, innermost, strides, 9, PLAIN, INDEX)
                    weigh *= own.to(T)
                value *= weigh
                slope = weigh * factor
                if each_upstream is not None:
                    slope *= fetch(each_upstream, at, inside, inner, innermost, strides, 11, PLAIN, INDEX).to(T)
                if CHECKED:
                    which, _ = VIOLATION(a, b, c, d, e, f, g, h)
                    value = tl.where(which > 0, float("nan"), value).to(T)
                    slope = tl.where(which > 0, float("nan"), slope).to(T)
                value = tl.where(counts, value, 0.0).to(T)
                if values is not None:
                    tl.store(values + at, value.to(values.dtype.element_ty), mask=inside)
                total += value.to(total.dtype)
                if denominator is not None:  # a mean over nothing has no gradient
                    counts = counts & (at < tl.where(factor == 0, 0, numel))
                store(g0, at, da * slope, inside, counts, 0, COMPOSED, STEP)
                store(g1, at, db * slope, inside, counts, 1, COMPOSED, STEP)
                store(g2, at, dc * slope, inside, counts, 2, COMPOSED, STEP)
                store(g3, at, dd * slope, inside, counts, 3, COMPOSED, STEP)
                store(g4, at, de * slope, inside, counts, 4, COMPOSED, STEP)
                store(g5, at, df * slope, inside, counts, 5, COMPOSED, STEP)
                store(g6, at, dg * slope, inside, counts, 6, COMPOSED, STEP)
                store(g7, at, dh * slope, inside, counts, 7, COMPOSED, STEP)
        if reduced or values is not None:
            whole = tl.sum(total, 0)
            if sums is not None:
                tl.store(sums + tl.program_id(0), whole)
            if loss is not None:
                conclude(whole, divisor, None if denominator is None else tl.load(denominator), loss, EMPTY)
            if CHECKED and whole != whole:  # the bad value is sought only now: good calls do not pay for it
                for start in range(first, numel, step):
                    at, _, counts, a, b, c, d, e, f, g, h = operands_at(
                        x0, x1, x2, x3, x4, x5, x6, x7, mask, start, numel, inner, innermost, strides,
                        T, PLAIN, False, INDEX, BLOCK,
                    )  # fmt: skip
                    if SETTLED is not None:
                        a, b, c, d, e, f, g, h = SETTLED(a, b, c, d, e, f, g, h, S0, S1, S2, S3, S4, S5, S6, S7)
                    which, found = VIOLATION(a, b, c, d, e, f, g, h)
                    report(record, tl.where(counts, which, 0), found, at, number)


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradients."""
    call = frame.call
    plan = call.plan
    parts = [*plan.parts, *[1] * (len(call.operands) - len(plan.parts))]  # the place in the row comes last
    operands = _apart(call.operands, parts)
    first = operands[0]
    shape, numel = first.shape, first.numel()
    width = shape[-1] if plan.rows else 1
    # Results are dense, and lie in the order of the first operand.
    like = first if first.is_contiguous() else torch.empty_like(first, device="meta")
    block, warps = (4 * BLOCK, 16) if BLOCK < numel <= 4 * BLOCK else (BLOCK, 4)  # see note 3
    programs = min(cdiv(numel, block), PROGRAMS)
    if plan.rows == Rows.ADDED:
        frame.divide_by(numel // max(width, 1))
    else:  # averaged rows are the unit of sums and of the normalizer
        frame.divide_by(numel, max(width, 1))
    frame.write(wanted, [_spread(like, part) for part in parts], like)
    frame.add_up(programs, alone=True)
    if numel:
        missing: list[None] = [None] * (MAX_OPERANDS - len(operands))
        slots: list[Tensor | None] = [*operands, *missing]
        slots += [call.weight, call.sample_weight, call.mask, frame.each_upstream]
        slots, plain, inner, innermost, strides = _layout(like, slots)
        odd = [x for k, x in enumerate(slots) if x is not None and not plain >> k & 1]
        reach = max([numel * max(parts), *map(_extent, odd)])
        evaluate, violation, settled = formulas.functions(plan.formula, MAX_OPERANDS)
        checked = call.checked and bool(plan.checked)
        slack = [slack_of(x.dtype) for x in operands] + [0.0] * len(missing)
        of_parts = [part for part in parts for _ in range(part)]
        composed = sum(1 << k for k, part in enumerate(of_parts) if part > 1)
        frame.launch(
            pointwise_kernel, (programs,),
            *slots, frame.upstream, frame.denominator, frame.numbers, frame.record,
            frame.values, frame.sums, frame.loss, *_apart(frame.gradients, parts), *missing,
            numel, frame.divisor, frame.number(shape) if checked else 0, inner, innermost, strides,
            evaluate, violation, settled if checked and plan.settles else None, *slack, composed, max(parts),
            TYPES[call.compute], plain, checked, frame.rewrite, numel % block == 0,
            "" if frame.loss is None else frame.of_nothing(), index_type(reach), block, num_warps=warps,
        )  # fmt: skip
    return frame.outputs()


def _apart(tensors: Sequence[Any], parts: Sequence[int]) -> list[Any]:
    """The tensors as the operands of the formula: components are views."""
    pairs = zip(tensors, parts, strict=True)
    return [x if part == 1 or x is None else x.select(-1, component) for x, part in pairs for component in range(part)]


def _spread(like: Tensor, part: int) -> Tensor:
    """What the gradient by a tensor lies like, with its components next to each other."""
    if part == 1:
        return like
    return torch.empty_strided((*like.shape, part), (*(step * part for step in like.stride()), 1), device="meta")


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
