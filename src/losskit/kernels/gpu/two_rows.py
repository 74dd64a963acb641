"""The two-rows family on a GPU: a formula of a class's probabilities in a student's and a teacher's row of scores.

1. A program takes a few rows and holds them in registers: memory is read once and the gradient is written. Rows longer
   than LONGEST are read in blocks: for the largest scores, the sums of exponentials, the formula, the gradient; where
   the rows are near, once more.
2. Exponentials are relative to the row's largest one, which is 1 and left out of the sum: a row that is almost certain
   keeps its digits.
3. The ratio's logarithm is the difference of scores less one number of the row. Where all differences are less than 1
   they are computed in double with what rounding took, and the number is log1p of the sum of q (e^d - 1); else it is
   the difference of two logarithms.
4. The derivative h is by the student's log-probability; that by a score is h - p times the sum of h, over the
   temperature, and that of the student's largest class minus the sum of the others'.
"""

from __future__ import annotations

import struct

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from losskit.dtypes import HALVES
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.rows import alignment, conclude_rows, narrow, per_row, step_of, tile_of
from losskit.kernels.gpu.shared import MAX_INT32, TYPES, cdiv, entry, index_type

LONGEST = 8192  # classes of a row that is held in registers (float64: half as many); longer rows are read in blocks
TEACHER, STUDENT, LOG_RATIO = (tl.constexpr(int(x)) for x in wire.TwoRowsStatistic)
NONE = tl.constexpr(MAX_INT32)  # no class


@triton.jit
def block_of(scores, step, row, kept, column, classes, largest, T: tl.constexpr):
    """Scores of some classes; -inf where there are none, zeros where the mask hides them.

    Of rows whose largest score is infinite the limit: the infinite ones share the probability.
    """
    inside = kept[:, None] & (column < classes)[None, :]
    x = tl.load(scores + (row * step)[:, None] + column[None, :], mask=inside, other=0).to(T)
    if largest is not None:
        limit = tl.where(x == float("inf"), 0.0, tl.where(x == x, float("-inf"), x)).to(T)
        x = tl.where((largest == float("inf"))[:, None], limit, x)
    return tl.where((column < classes)[None, :], x, float("-inf")).to(T)


@triton.jit
def largest_of(scores, step, row, kept, classes, T: tl.constexpr, BLOCK: tl.constexpr):
    """The largest score of each row, and the first class that has it."""
    most, at = tl.full(row.shape, float("-inf"), T), tl.full(row.shape, NONE, tl.int32)
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        x = block_of(scores, step, row, kept, column, classes, None, T)
        x = tl.where(x == x, x, float("-inf")).to(T)
        found = tl.max(x, 1)
        place = tl.min(tl.where(x == found[:, None], column[None, :], NONE), 1)
        at = tl.where((found > most) | (at == NONE), place, at)
        most = tl.maximum(most, found)
    return most, at


@triton.jit
def lost(a, b, difference):
    """What rounding took from a - b (Knuth's two-sum)."""
    taken = a - difference
    return (a - (difference + taken)) + (taken - b)


@triton.jit
def differences_of(z, u, largest, base, inverse, T: tl.constexpr):
    """The differences of two near rows, with all their digits."""
    z, u = z.to(tl.float64), u.to(tl.float64)
    a, b = z - largest.to(tl.float64)[:, None], u - base.to(tl.float64)[:, None]
    apart = a - b
    more = lost(z, largest.to(tl.float64)[:, None], a) - lost(u, base.to(tl.float64)[:, None], b) + lost(a, b, apart)
    neither = (a == float("-inf")) & (b == float("-inf"))
    return (tl.where(neither, 0.0, apart + more) * inverse).to(T)


@triton.jit
def distances_of(z, u, largest, most, inverse, T: tl.constexpr):
    """The distances of scores to the largest ones, over the temperature, and their difference."""
    over = inverse.to(T)
    x, y = (z - largest[:, None]) * over, (u - most[:, None]) * over
    neither = (x == float("-inf")) & (y == float("-inf"))
    return x, y, tl.where(neither, 0.0, x - y).to(T)


@triton.jit
def spoken(p, q, d, K: tl.constexpr):
    if K == TEACHER:
        x = q
    elif K == STUDENT:
        x = p
    else:
        x = d
    return x


@triton.jit
def evaluated(
    z, u, inside, largest, most, base, near, shift, of_student, of_teacher, inverse, numbers,
    EVALUATE: tl.constexpr, ORDER: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """The values of the formula, its derivatives and the student's probabilities; zeros where there is no class."""
    x, y, far = distances_of(z, u, largest, most, inverse, T)
    p, q = libdevice.exp(x) * of_student[:, None], libdevice.exp(y) * of_teacher[:, None]
    d = far - shift.to(T)[:, None]
    if tl.max(near.to(tl.int32), 0) > 0:
        close = differences_of(z, u, largest, base, inverse, T)
        close = (close.to(tl.float64) - shift[:, None]).to(T)
        d = tl.where(near[:, None], close, d)
    p, q, d = tl.where(inside, p, 0.0).to(T), tl.where(inside, q, 0.0).to(T), tl.where(inside, d, 0.0).to(T)
    first, second = spoken(p, q, d, entry(ORDER, 0)), spoken(p, q, d, entry(ORDER, 1))
    third = spoken(p, q, d, entry(ORDER, 2))
    value, a, b, c, _ = EVALUATE(first, second, third, first, numbers, T)
    if entry(ORDER, 0) == LOG_RATIO:
        slope = a
    elif entry(ORDER, 1) == LOG_RATIO:
        slope = b
    else:
        slope = c
    return tl.where(inside, value, 0.0).to(T), tl.where(inside, slope, 0.0).to(T), p


@triton.jit(do_not_specialize=["divisor", "inverse_bits", "factor_bits"])
def two_rows_kernel(
    student, teacher, sample_weight, mask, each_upstream, upstream, denominator, numbers, values, sums, gradient,
    rows, classes, divisor, inverse_bits, factor_bits, student_step, teacher_step, steps,
    EVALUATE: tl.constexpr, ORDER: tl.constexpr, T: tl.constexpr, S: tl.constexpr, REWRITE: tl.constexpr,
    INDEX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """T, S: the types of numbers and of sums. `classes` and the steps of rows come divided by ALIGNED."""
    classes *= ALIGNED
    student_step *= ALIGNED
    teacher_step *= ALIGNED
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        inverse = inverse_bits.to(tl.int64).to(tl.float64, bitcast=True)
        row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
        kept = row < rows
        if mask is not None:
            kept = kept & (tl.load(mask + row * steps[1], mask=kept, other=0) != 0)

        # The largest scores
        endless, top = largest_of(student, student_step, row, kept, classes, T, BLOCK)
        limit, heaviest = largest_of(teacher, teacher_step, row, kept, classes, T, BLOCK)
        largest = tl.where(endless == float("inf"), 0.0, endless).to(T)
        most = tl.where(limit == float("inf"), 0.0, limit).to(T)
        own = tl.load(teacher + row * teacher_step + top, mask=kept & (top < classes), other=0).to(T)
        own = tl.where(limit == float("inf"), tl.where(own == float("inf"), 0.0, float("-inf")), own).to(T)
        base = tl.where(own > float("-inf"), own, most).to(T)
        at_top = ((own - most).to(tl.float64) * inverse).to(T)

        # The sums of exponentials without the largest one, and whether the rows are near
        others, of_teacher = tl.zeros(row.shape, tl.float64), tl.zeros(row.shape, tl.float64)
        near = own > float("-inf")
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)
            z = block_of(student, student_step, row, kept, column, classes, endless, T)
            u = block_of(teacher, teacher_step, row, kept, column, classes, limit, T)
            x, y, d = distances_of(z, u, largest, most, inverse, T)
            p = tl.where(column[None, :] == top[:, None], 0.0, libdevice.exp(x)).to(S)
            q = tl.where(column[None, :] == heaviest[:, None], 0.0, libdevice.exp(y)).to(S)
            others += tl.sum(p, 1).to(tl.float64)
            of_teacher += tl.sum(q, 1).to(tl.float64)
            apart = tl.where((column < classes)[None, :] & (d == d), tl.abs(d + at_top[:, None]), 0.0)
            apart = tl.where(d == d, apart, 2.0)
            near = near & (tl.max(apart, 1) < 1.0)
        shift = libdevice.log1p(others) - libdevice.log1p(of_teacher)
        if tl.max(near.to(tl.int32), 0) > 0:
            change = tl.zeros(row.shape, tl.float64)
            for start in range(0, classes, BLOCK):
                column = start + tl.arange(0, BLOCK)
                z = block_of(student, student_step, row, kept, column, classes, endless, T)
                u = block_of(teacher, teacher_step, row, kept, column, classes, limit, T)
                _, y, _ = distances_of(z, u, largest, most, inverse, T)
                d = differences_of(z, u, largest, base, inverse, T)
                change += tl.sum((libdevice.exp(y) * libdevice.expm1(tl.where(near[:, None], d, 0.0).to(T))).to(S), 1)
            shift = tl.where(near, libdevice.log1p(change / (1.0 + of_teacher)), shift)
        share = 1.0 / (1.0 + others)
        of_student, by_teacher = share.to(T), (1.0 / (1.0 + of_teacher)).to(T)

        # The losses of rows, and the sums of derivatives
        total, slopes = tl.zeros(row.shape, tl.float64), tl.zeros(row.shape, tl.float64)
        mine = tl.zeros(row.shape, tl.float64)
        for start in range(0, classes, BLOCK):
            column = start + tl.arange(0, BLOCK)
            z = block_of(student, student_step, row, kept, column, classes, endless, T)
            u = block_of(teacher, teacher_step, row, kept, column, classes, limit, T)
            inside = kept[:, None] & (column < classes)[None, :]
            value, slope, _ = evaluated(
                z, u, inside, largest, most, base, near, shift, of_student, by_teacher, inverse, numbers,
                EVALUATE, ORDER, T,
            )  # fmt: skip
            is_top = column[None, :] == top[:, None]
            total += tl.sum(value.to(S), 1).to(tl.float64)
            slopes += tl.sum(tl.where(is_top, 0.0, slope).to(S), 1).to(tl.float64)
            mine += tl.sum(tl.where(is_top, slope, 0.0).to(S), 1).to(tl.float64)
        weigh = factor_bits.to(tl.int64).to(tl.float64, bitcast=True) + tl.zeros(row.shape, tl.float64)
        weigh, kept = conclude_rows(
            total, weigh, row, rows, kept, sample_weight, each_upstream, upstream, denominator, divisor, values, sums,
            steps,
        )  # fmt: skip

        # The gradient
        if gradient is not None:
            weigh *= inverse
            # Where h is nearly p times a number, that of the largest class, that is taken from both.
            ratio = mine * (1.0 + others)
            rest, every = slopes - mine * others, slopes + mine
            common = tl.abs(rest) < tl.abs(every)
            taken = tl.where(common, ratio, 0.0).to(T)
            push = (tl.where(common, rest, every) * weigh).to(T)
            of_top = ((mine * others - slopes) * share * weigh).to(T)
            learns = kept & (endless < float("inf"))
            for start in range(0, classes, BLOCK):
                column = start + tl.arange(0, BLOCK)
                z = block_of(student, student_step, row, kept, column, classes, endless, T)
                u = block_of(teacher, teacher_step, row, kept, column, classes, limit, T)
                inside = kept[:, None] & (column < classes)[None, :]
                _, slope, p = evaluated(
                    z, u, inside, largest, most, base, near, shift, of_student, by_teacher, inverse, numbers,
                    EVALUATE, ORDER, T,
                )  # fmt: skip
                result = (slope - p * taken[:, None]) * weigh.to(T)[:, None] - p * push[:, None]
                result = tl.where(column[None, :] == top[:, None], of_top[:, None], result)
                result = tl.where(learns[:, None], result, 0.0).to(T)
                at = gradient + (row * classes)[:, None] + column[None, :]
                tl.store(at, narrow(result, gradient), mask=(row < rows)[:, None] & (column < classes)[None, :])


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradient."""
    call, plan, input = frame.call, frame.call.plan, frame.call.operands[0]
    shape, classes = input.shape[:-1], input.shape[-1]
    rows = shape.numel()
    doubles = call.compute == torch.float64
    tile = tile_of(rows, classes, LONGEST, 16, registers=2 if doubles else 1)
    programs = cdiv(rows, tile.rows)
    frame.divide_by(rows)
    frame.write(wanted & 1, [input.shape, input.shape], shape)
    frame.add_up(programs)
    if rows:
        student, teacher = (_as_rows(x, rows, classes) for x in call.operands)
        extras = [per_row(x, shape) for x in (call.sample_weight, call.mask, frame.each_upstream)]
        steps = [step_of(student), step_of(teacher)]
        aligned = alignment(classes, *steps)
        reach = max((rows - 1) * step for step in (classes, *steps, *map(step_of, extras)))
        halves = all(x.dtype in HALVES for x in call.operands)
        frame.launch(
            two_rows_kernel, (programs,),
            student, teacher, *extras, frame.upstream, frame.denominator, frame.numbers, frame.values, frame.sums,
            frame.gradients[0], rows, classes // aligned, frame.divisor, _bits(1.0 / plan.temperature),
            _bits(plan.factor), *(step // aligned for step in steps), tuple(step_of(x) for x in extras),
            formulas.functions(plan.formula).evaluate, wire.TWO_ROWS.statistics(plan.formula.operands),
            TYPES[call.compute], tl.float32 if halves else tl.float64, frame.rewrite,
            index_type(reach + classes + tile.rows * tile.block), tile.rows, tile.block, aligned, num_warps=tile.warps,
        )  # fmt: skip
    return frame.outputs()


def _as_rows(x: Tensor, rows: int, classes: int) -> Tensor:
    """Scores as a matrix; a copy where the classes are not dense, or the distances of rows not all the same."""
    dense = x if x.stride(-1) == 1 or classes == 1 else x.contiguous()
    return dense.reshape(rows, classes)


def _bits(value: float) -> int:
    """A float64 as an integer: Triton would round a Python float to float32."""
    return int(struct.unpack("q", struct.pack("d", value))[0])
