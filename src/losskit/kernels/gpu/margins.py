"""The score-margins family on a GPU: a formula of the differences between a target's score and all others of its row.

1. A program takes a few rows and holds them in registers: memory is read once and the gradient is written. With one
   target a row, rows longer than LONGEST are read in blocks, twice; lists of targets in such rows are not taken.
2. Floats are computed as floats and summed in double, halves as floats. Where a sum is not finite, the rows of the
   program are computed once more in double, where intermediate results do not overflow.
3. The gradient of a target's score is minus the sum of those of the others.
4. A list of targets is walked twice: which classes it has, then the pairs of each with the classes that it has not.
   It ends at the first -1; what comes after it is never looked at. A list with an index that is no class is NaN.
5. A kernel of its own looks first whether all rows are 0 and 1 to their end (a mask, not lists). Any other number
   settles it: programs that start later end at once, the others after a row's first few numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from losskit.dtypes import HALVES
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.rows import alignment, conclude_rows, narrow, per_row, step_of, tile_of
from losskit.kernels.gpu.shared import TYPES, cdiv, index_type
from losskit.kernels.gpu.violations import report
from losskit.plan import Arguments

LONGEST = 8192  # scores of a row that is held in registers; longer ones are read by half of that
LONGEST_LIST = 16384  # the same where rows have lists of targets
CLASS_INDEX, MASK_GIVEN = (tl.constexpr(int(x)) for x in wire.MarginsViolation)
GLANCE = 32  # targets of a row that are read at once in the search for a mask


# ---------------------------------------------------------------------------------------------------------
# Pairs


@triton.jit
def block_of(scores, step, class_step, row, kept, column, classes):
    """Scores of some classes of some rows; zeros where there is nothing, and where the mask hides it."""
    inside = kept[:, None] & (column < classes)[None, :]
    at = (row * step)[:, None] + (column.to(row.dtype) * class_step)[None, :]
    return tl.load(scores + at, mask=inside, other=0)


@triton.jit
def pairs_of(x, own, others, numbers, EVALUATE: tl.constexpr, T: tl.constexpr):
    """Values and slopes of the differences to `others`. Where there is no pair, inf - inf reaches neither."""
    difference = tl.where(others, own.to(T)[:, None] - x.to(T), 0.0).to(T)
    value, slope, _, _, _ = EVALUATE(difference, difference, difference, difference, numbers, T)
    return tl.where(others, value, 0.0).to(T), tl.where(others, slope, 0.0).to(T)


@triton.jit
def others_of(label, fine, column, classes):
    """The classes that a row's target is paired with."""
    return fine[:, None] & (column < classes)[None, :] & (column[None, :] != label[:, None])


@triton.jit
def single_sums(
    scores, step, class_step, row, kept, classes, x, own, label, fine, numbers,
    EVALUATE: tl.constexpr, T: tl.constexpr, S: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sums of values and of slopes of each row: of x, if it holds whole rows (WHOLE), else read block by block."""
    column = tl.arange(0, BLOCK)
    if WHOLE:
        value, slope = pairs_of(x, own, others_of(label, fine, column, classes), numbers, EVALUATE, T)
        total, push = tl.sum(value.to(S), 1).to(tl.float64), tl.sum(slope.to(S), 1).to(tl.float64)
    else:
        total = tl.zeros(row.shape, tl.float64)
        push = total
        for start in range(0, classes, BLOCK):
            others = others_of(label, fine, start + column, classes)
            y = block_of(scores, step, class_step, row, kept, start + column, classes)
            value, slope = pairs_of(y, own, others, numbers, EVALUATE, T)
            total += tl.sum(value.to(S), 1).to(tl.float64)
            push += tl.sum(slope.to(S), 1).to(tl.float64)
    return total, push


@triton.jit
def single_gradient(
    gradient, scores, step, class_step, row, kept, rows, classes, x, own, label, fine, push, weigh, numbers,
    EVALUATE: tl.constexpr, T: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    of_target, weigh = (push * weigh).to(T), weigh.to(T)
    for start in range(0, classes, BLOCK):
        column = start + tl.arange(0, BLOCK)
        if WHOLE:
            y = x
        else:
            y = block_of(scores, step, class_step, row, kept, column, classes)
        _, slope = pairs_of(y, own, others_of(label, fine, column, classes), numbers, EVALUATE, T)
        result = tl.where(column[None, :] == label[:, None], of_target[:, None], -slope * weigh[:, None])
        result = tl.where(kept[:, None], result, 0.0)
        inside = (row < rows)[:, None] & (column < classes)[None, :]
        tl.store(gradient + (row * classes)[:, None] + column[None, :], narrow(result.to(T), gradient), mask=inside)


# ---------------------------------------------------------------------------------------------------------
# Lists of targets


@triton.jit
def target_at(target, step, class_step, row, alive, position):
    """The targets at a position of lists that go on, -1 for the others."""
    at = row * step + position.to(row.dtype) * class_step
    return tl.load(target + at, mask=alive != 0, other=-1).to(tl.int64)


@triton.jit
def listed_classes(target, step, class_step, row, kept, classes, BLOCK: tl.constexpr):
    """Which classes the lists have, their lengths, and the first index that is no class: whether, where, and what."""
    column = tl.arange(0, BLOCK)
    taken = tl.zeros((row.shape[0], BLOCK), tl.int1)
    alive = kept.to(tl.int32)
    length, bad, place = tl.zeros_like(alive), tl.zeros_like(alive), tl.zeros_like(alive)
    found = tl.zeros(row.shape, tl.int64)
    position = tl.zeros((), tl.int32)
    while tl.max(alive, 0) > 0:
        label = target_at(target, step, class_step, row, alive, position)
        alive = tl.where(label == -1, 0, alive)
        wrong = (alive != 0) & ((label < 0) | (label >= classes))
        bad = tl.where(wrong, 1, bad)
        place = tl.where(wrong, position, place)
        found = tl.where(wrong, label, found)
        alive = tl.where(wrong, 0, alive)
        length += alive
        taken = taken | ((alive != 0)[:, None] & (column[None, :] == label[:, None]))
        position += 1
        alive = tl.where(position < classes, alive, 0)
    return taken, length, bad, place, found


@triton.jit
def list_sums(
    scores, step, class_step, target, target_step, place_step, row, lengths, classes, x, taken, numbers,
    EVALUATE: tl.constexpr, T: tl.constexpr, S: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The sum of the values of a row's pairs, and for each class that of the slopes by its score."""
    column = tl.arange(0, BLOCK)
    total = tl.zeros(row.shape, tl.float64)
    slopes = tl.zeros(taken.shape, S)
    position, longest = tl.zeros((), tl.int32), tl.max(lengths, 0)
    while position < longest:
        alive = position < lengths
        label = target_at(target, target_step, place_step, row, alive, position)
        own = tl.load(scores + row * step + label.to(row.dtype) * class_step, mask=alive, other=0)
        others = alive[:, None] & (column < classes)[None, :] & (taken == 0)
        value, slope = pairs_of(x, own, others, numbers, EVALUATE, T)
        push = tl.sum(slope.to(S), 1)
        total += tl.sum(value.to(S), 1).to(tl.float64)
        slopes += tl.where(column[None, :] == label[:, None], push[:, None], -slope.to(S))
        position += 1
    return total, slopes


@triton.jit
def masks_kernel(target, mask, lists, rows, classes, step, place_step, mask_step, INDEX: tl.constexpr,
                 ROWS: tl.constexpr, GLANCE: tl.constexpr):  # fmt: skip
    """Set `lists` if a row that counts has another number than 0 and 1."""
    if tl.load(lists) == 0:
        row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
        undecided = row < rows
        if mask is not None:
            undecided = undecided & (tl.load(mask + row * mask_step, mask=undecided, other=0) != 0)
        open_rows = undecided.to(tl.int32)
        start = tl.zeros((), tl.int32)
        while tl.max(open_rows, 0) > 0:
            column = start + tl.arange(0, GLANCE)
            inside = (open_rows != 0)[:, None] & (column < classes)[None, :]
            at = (row * step)[:, None] + (column.to(INDEX) * place_step)[None, :]
            label = tl.load(target + at, mask=inside, other=0)
            other = tl.max(((label != 0) & (label != 1)).to(tl.int32), 1)
            if tl.max(other, 0) > 0:
                tl.store(lists, 1)
                open_rows = tl.zeros_like(open_rows)
            start += GLANCE
            open_rows = tl.where(start < classes, open_rows, 0)


# ---------------------------------------------------------------------------------------------------------
# The kernel


@triton.jit(do_not_specialize=["divisor", "number"])
def margins_kernel(
    scores, target, weight, sample_weight, mask, each_upstream, upstream, denominator, numbers, record, lists,
    values, sums, gradient,
    rows, classes, divisor, number, score_step, class_step, target_steps, weight_step, steps,
    EVALUATE: tl.constexpr, T: tl.constexpr, S: tl.constexpr, MANY: tl.constexpr, CHECKED: tl.constexpr,
    REWRITE: tl.constexpr, INDEX: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr,
):  # fmt: skip
    """T, S: the types of differences and of sums. `classes` and `score_step` come divided by ALIGNED."""
    classes *= ALIGNED
    score_step *= ALIGNED
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
        kept = row < rows
        if mask is not None:
            kept = kept & (tl.load(mask + row * steps[1], mask=kept, other=0) != 0)
        column = tl.arange(0, BLOCK)
        x = kept
        if WHOLE:
            x = block_of(scores, score_step, class_step, row, kept, column, classes)

        # Bad rows, and the sums of the others
        nan = tl.full((ROWS,), float("nan"), tl.float64)
        weigh = tl.full((ROWS,), 1.0, tl.float64)
        if MANY:
            taken, lengths, bad, place, found = listed_classes(
                target, target_steps[0], target_steps[1], row, kept, classes, BLOCK
            )  # fmt: skip
            which = tl.where(bad != 0, CLASS_INDEX, 0)
            place = row * classes + place
            if lists is not None:
                masks = kept & (row < tl.where(tl.load(lists) == 0, rows, 0))
                which = tl.where(masks, MASK_GIVEN, which)
            lengths = tl.where(bad != 0, 0, lengths)
            paired = (lengths > 0) & (tl.sum(taken.to(tl.int32), 1) < classes)
            if tl.min(paired.to(tl.int32), 0) == 0:  # NaN in gives NaN out, without a pair too
                weigh = tl.where((tl.max((x != x).to(tl.int32), 1) > 0) & (paired == 0), nan, weigh)
            total, slopes = list_sums(
                scores, score_step, class_step, target, target_steps[0], target_steps[1], row, lengths, classes,
                x, taken, numbers, EVALUATE, T, S, BLOCK,
            )  # fmt: skip
            finite = tl.abs(total) + tl.max(tl.abs(slopes), 1) < float("inf")
            wide = tl.max((kept & (finite == 0)).to(tl.int32), 0) > 0
            if wide:
                total, doubles = list_sums(
                    scores, score_step, class_step, target, target_steps[0], target_steps[1], row, lengths, classes, x,
                    taken, numbers, EVALUATE, tl.float64, tl.float64, BLOCK,
                )  # fmt: skip
                slopes = doubles.to(S)
        else:
            label = tl.load(target + row * target_steps[0], mask=kept, other=0).to(tl.int64)
            fine = kept & (label >= 0) & (label < classes)
            which = tl.where(kept & (fine == 0), CLASS_INDEX, 0)
            place, found = row, label
            own = tl.load(scores + row * score_step + label * class_step, mask=fine, other=0)
            if classes == 1:  # NaN in gives NaN out, without a pair too
                weigh = tl.where(own != own, nan, weigh)
            if weight is not None:
                weigh *= tl.load(weight + label * weight_step, mask=fine, other=0).to(tl.float64)
            total, push = single_sums(
                scores, score_step, class_step, row, kept, classes, x, own, label, fine, numbers,
                EVALUATE, T, S, WHOLE, BLOCK,
            )  # fmt: skip
            finite = tl.abs(total) + tl.abs(push) < float("inf")
            wide = tl.max((kept & (finite == 0)).to(tl.int32), 0) > 0
            if wide:
                total, push = single_sums(
                    scores, score_step, class_step, row, kept, classes, x, own, label, fine, numbers,
                    EVALUATE, tl.float64, tl.float64, WHOLE, BLOCK,
                )  # fmt: skip
        weigh = tl.where(which > 0, nan, weigh)
        if CHECKED:
            report(record, which, found, place, number)

        weigh = weigh / tl.full((), classes, tl.float64)
        weigh, kept = conclude_rows(
            total, weigh, row, rows, kept, sample_weight, each_upstream, upstream, denominator, divisor, values, sums,
            steps,
        )  # fmt: skip

        # The gradient
        if gradient is not None:
            if MANY:
                inside = (row < rows)[:, None] & (column < classes)[None, :]
                result = tl.where(kept[:, None], slopes * weigh.to(S)[:, None], 0.0).to(S)
                at = (row * classes)[:, None] + column[None, :]
                tl.store(gradient + at, narrow(result, gradient), mask=inside)
            elif wide:
                single_gradient(
                    gradient, scores, score_step, class_step, row, kept, rows, classes, x, own, label, fine, push,
                    weigh, numbers, EVALUATE, tl.float64, WHOLE, BLOCK,
                )  # fmt: skip
            else:
                single_gradient(
                    gradient, scores, score_step, class_step, row, kept, rows, classes, x, own, label, fine, push,
                    weigh, numbers, EVALUATE, T, WHOLE, BLOCK,
                )  # fmt: skip


def why_not(plan: Any, arguments: Arguments) -> str | None:
    """Why there is no kernel for this call."""
    if plan.many and arguments.operands[0].shape[-1] > LONGEST_LIST:
        return f"lists of targets are taken for up to {LONGEST_LIST} classes"
    return None


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradient."""
    call, plan, input, target = frame.call, frame.call.plan, *frame.call.operands
    shape, classes = input.shape[:-1], input.shape[-1]
    rows = shape.numel()
    tile = tile_of(rows, classes, LONGEST_LIST if plan.many else LONGEST, 32)
    programs = cdiv(rows, tile.rows)
    frame.divide_by(rows)
    frame.write(wanted & 1, [input.shape, target.shape], shape)
    frame.add_up(programs)
    if rows:
        extras = [per_row(x, shape) for x in (call.sample_weight, call.mask, frame.each_upstream)]
        score_step, class_step = _steps(input, 1)
        target_steps = _steps(target, 1 if plan.many else 0)
        reach = max((rows - 1) * step for step in (classes, score_step, target_steps[0], *map(step_of, extras)))
        index = index_type(reach + classes * max(class_step, target_steps[1], 1) + tile.rows * tile.block)
        lists = None
        if plan.many and call.checked and classes > 2:
            lists = frame.empty((1,), torch.int32, zero=True)
            frame.launch(
                masks_kernel, (cdiv(rows, GLANCE),),
                target, extras[1], lists, rows, classes, *target_steps, step_of(extras[1]), index, GLANCE, GLANCE,
            )  # fmt: skip
        aligned = alignment(classes, score_step)
        evaluate = formulas.functions(plan.formula).evaluate
        weight = call.weight
        frame.launch(
            margins_kernel, (programs,),
            input, target, weight, *extras, frame.upstream, frame.denominator, frame.numbers,
            frame.record, lists, frame.values, frame.sums, frame.gradients[0],
            rows, classes // aligned, frame.divisor, frame.number(input.shape),
            score_step // aligned, class_step, target_steps, 0 if weight is None else weight.stride(0),
            tuple(step_of(x) for x in extras),
            evaluate, TYPES[call.compute], tl.float32 if input.dtype in HALVES else tl.float64, plan.many, call.checked,
            frame.rewrite, index, classes <= tile.block, tile.rows, tile.block, aligned, num_warps=tile.warps,
        )  # fmt: skip
    return frame.outputs()


def _steps(x: Tensor, inner: int) -> tuple[int, int]:
    """From one row of a matrix (or a vector, one row) to the next, and from one class to the next."""
    outer = x.ndim - inner
    return (x.stride(0) if outer else 0), (x.stride(-1) if inner else 0)
