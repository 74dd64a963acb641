"""Rows of ordered classes: the running sums of their probabilities less those of the target.

1. A row is whole in a program's registers, and one kernel gives value and gradient.
2. The sum up to a class and that of the classes above are added up apart: neither is 1 less the other. Up to the class
   of the target the running sum is the first, from there on minus the second. Of a target of probabilities it is the
   difference of two sums.
3. The slope by a score is its probability times what the running sums from it on gain by the probability above them,
   less what those before it lose by the probability below.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from losskit.domains import slack_of
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.ordered.keys import NONE
from losskit.kernels.gpu.ordered.layout import flat, reach_of, steps_of, tile_of
from losskit.kernels.gpu.rows import conclude_rows, narrow, per_row, step_of
from losskit.kernels.gpu.shared import cdiv, index_type, power_of_2
from losskit.kernels.gpu.violations import report

LONGEST = 2048  # classes of a row
PLACES = 2  # for operands of the formula
CLASS_INDEX, PROBABILITY = (
    tl.constexpr(int(x)) for x in (wire.OrderedViolation.CLASS_INDEX, wire.OrderedViolation.PROBABILITY)
)


def run(frame: Frame, wanted: int, told: dict[str, Any]) -> Outputs:
    """Value and gradient."""
    call = frame.call
    input, target = call.operands
    shape, width = input.shape[:-1], input.shape[-1]
    rows, soft = shape.numel(), target.is_floating_point()
    frame.write(wanted & 1, [x.shape for x in call.operands], shape)
    if not rows:
        return frame.of_no_units()
    scores, gradient = flat(input, rows, width), flat(frame.gradients[0], rows, width)
    targets = flat(target, rows, width if soft else 1)
    extras = [per_row(x, shape) for x in (call.mask, call.sample_weight, frame.each_upstream)]
    steps = (*steps_of(scores), *steps_of(targets), *(step_of(x) for x in extras))
    block = power_of_2(width)
    together = tile_of(rows, width).rows if block <= LONGEST // 2 else 1
    programs = cdiv(rows, together)
    reach = [reach_of(scores), reach_of(targets), rows * width, *(rows * step_of(x) for x in extras)]
    frame.divide_by(rows)
    frame.add_up(programs)
    frame.launch(
        classes_kernel, (programs,),
        scores, targets, *extras, frame.upstream, frame.denominator, frame.numbers, frame.record, gradient,
        frame.values, frame.sums, rows, width, frame.number(input.shape), frame.divisor, steps,
        EVALUATE=formulas.functions(call.plan.formula, PLACES).evaluate, SOFT=soft, CHECKED=call.checked,
        SLACK=slack_of(target.dtype), REWRITE=frame.rewrite, INDEX=index_type(max(reach) + together * width + block),
        ROWS=together, BLOCK=block, num_warps=min(max(together * block // 128, 1), 16),
    )  # fmt: skip
    return frame.outputs()


@triton.jit
def added(total, rest, own, own_rest):
    """The sum of some numbers, and that of all but the last one."""
    return total + own, total + own_rest


@triton.jit(do_not_specialize=["number", "divisor"])
def classes_kernel(
    scores, target, mask, sample_weight, each_upstream, upstream, denominator, numbers, record, gradient, values, sums,
    rows, width, number, divisor, steps,
    EVALUATE: tl.constexpr, SOFT: tl.constexpr, CHECKED: tl.constexpr, SLACK: tl.constexpr, REWRITE: tl.constexpr,
    INDEX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The losses and the gradients of some rows."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
        column = tl.arange(0, BLOCK).to(INDEX)
        inside = column[None, :] < width
        kept = row < rows
        if mask is not None:  # what the mask hides is not read
            kept = kept & (tl.load(mask + row * steps[4], mask=kept, other=0) != 0)
        there = kept[:, None] & inside
        at = scores + (row * steps[0])[:, None] + (column * steps[1])[None, :]
        z = tl.load(at, mask=there, other=0).to(tl.float64)
        z = tl.where(inside, z, float("-inf")).to(tl.float64)
        top = tl.max(z, 1)[:, None]
        e = tl.where(z == top, 1.0, lk.exp_of_difference(z, top)).to(tl.float64)
        e = tl.where(z == z, e, z)
        zero = tl.zeros((ROWS, BLOCK), tl.float64)
        below = tl.cumsum(e, 1)
        _, above = tl.associative_scan((e, zero), 1, added, reverse=True)
        total = tl.sum(e, 1)[:, None]
        p, below, above = e / total, below / total, above / total
        wrong = tl.zeros((ROWS,), tl.int1)
        if SOFT:
            at = target + (row * steps[2])[:, None] + (column * steps[3])[None, :]
            share = tl.load(at, mask=there, other=0).to(tl.float64)
            running = below - tl.cumsum(share, 1)
            if CHECKED:
                bad = there & ((share < -SLACK) | (share - 1.0 > SLACK))
                first = tl.min(tl.where(bad, column[None, :], NONE).to(INDEX), 1)
                wrong = first < NONE
                found = tl.sum(tl.where((column[None, :] == first[:, None]) & bad, share, 0.0), 1)
                report(record, tl.where(wrong, PROBABILITY, 0), found, row * width + first, number)
        else:
            label = tl.load(target + row * steps[2], mask=kept, other=0).to(tl.int64)
            wrong = kept & ((label < 0) | (label >= width))
            if CHECKED:
                report(record, tl.where(wrong, CLASS_INDEX, 0), label, row, number)
            running = tl.where(column[None, :] < label[:, None], below, -above)
        running = tl.where(inside, running, 0.0).to(tl.float64)
        value, slope, _ = EVALUATE(running, running, numbers, tl.float64)
        each = tl.sum(tl.where(inside, value, 0.0).to(tl.float64), 1)
        weigh = tl.where(wrong, float("nan"), 1.0).to(tl.float64)
        each = tl.where(wrong, 0.0, each).to(tl.float64)
        weigh, learns = conclude_rows(
            each, weigh, row, rows, kept, sample_weight, each_upstream, upstream, denominator, divisor, values, sums,
            (steps[5], steps[4], steps[6]),
        )  # fmt: skip
        if gradient is not None:
            slope = tl.where(inside, slope, 0.0).to(tl.float64)
            gained = tl.cumsum(above * slope, 1, reverse=True)
            _, given = tl.associative_scan((below * slope, zero), 1, added)
            result = tl.where(learns[:, None], p * (gained - given) * weigh[:, None], 0.0).to(tl.float64)
            at = gradient + (row * width)[:, None] + column[None, :]
            tl.store(at, narrow(result, gradient), mask=(row < rows)[:, None] & inside)
