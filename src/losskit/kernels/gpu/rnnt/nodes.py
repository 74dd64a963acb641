"""The nodes of all lattices: their log-softmax, the masses of their arcs, and what is wrong with them."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels import wire
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.masses import NONE, emission, normal
from losskit.kernels.gpu.violations import report

LOG_PROBABILITY, LABEL, INPUT_LENGTH, TARGET_LENGTH = (tl.constexpr(int(x)) for x in wire.SequenceViolation)
# The facts of a sample, int64 each: what becomes of it, the frames and labels that its gradient speaks of; then 1 where
# it has a label that is none, a score that is NaN or infinite.
STATUS, FRAMES, LABELS, NO_LABEL, STRANGE, FACTS = (tl.constexpr(i) for i in range(6))
# Of a node: its largest score, what the exponentials of all classes below it add up to, and of those that lead nowhere.
TOP, ALL, REST, STATISTICS = (tl.constexpr(i) for i in range(4))
INPUTS, OUTPUTS, MASK, WEIGHT, UPSTREAM = (tl.constexpr(i) for i in range(5))  # places in `extra_step`
# Triton would compile a kernel of its own for the value 1. Of the classes it must know whether 16 divide them.
SIZES = ["nodes", "frames", "columns", "blank"]


@triton.jit
def sample_of(n, inputs, outputs, mask, frames, columns, extra_step):
    """Whether samples count, their lengths, and whether one of them is none."""
    length = tl.load(inputs + n * extra_step[INPUTS]).to(tl.int64)
    labels = tl.load(outputs + n * extra_step[OUTPUTS]).to(tl.int64)
    counted = length != 0
    if mask is not None:
        counted = counted & (tl.load(mask + n * extra_step[MASK]) != 0)
    return counted, length, labels, (length < 0) | (length > frames) | (labels < 0) | (labels >= columns)


@triton.jit
def place_of(node, frames, columns):
    """A node's sample, frame and labels seen, and where it lies among diagonals."""
    n, inner = node // (frames.to(tl.int64) * columns), node % (frames.to(tl.int64) * columns)
    t, u = inner // columns, inner % columns
    return n, t, u, (n * (frames + columns) + t + u) * columns + u


@triton.jit
def exponential(x, top):
    return libdevice.exp(x.to(tl.float64) - top.to(tl.float64))


@triton.jit(do_not_specialize=["number", *SIZES])
def nodes_kernel(
    x, targets, inputs, outputs, mask, upstream, record, facts, statistics, of_blank, of_blank_e, of_label, of_label_e,
    lost, number, nodes, frames, columns, classes, blank, x_step, target_step, extra_step,
    LIMIT: tl.constexpr, SCORES: tl.constexpr, CHECKED: tl.constexpr, T: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    needed = True
    if upstream is not None:
        needed = tl.load(upstream) != 1.0
    if needed:
        node = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        there = node < nodes
        node = tl.minimum(node, nodes - 1)  # so that facts are loaded without a mask
        n, t, u, at = place_of(node, frames, columns)
        counted, length, labels, bad = sample_of(n, inputs, outputs, mask, frames, columns, extra_step)
        used = there & counted & (bad == 0) & (t < length) & (u <= labels)
        leads = used & (u < labels)
        label = tl.load(targets + n * target_step[0] + u * target_step[1], mask=leads, other=-1).to(tl.int64)
        outside = leads & ((label < 0) | (label >= classes) | (label == blank))
        if CHECKED:
            report(record, tl.where(outside & (t == 0), LABEL, 0), label, n * (columns - 1) + u, number)
        label = tl.where(leads & (outside == 0), label, -1)
        row = x + n * x_step[0] + t * x_step[1] + u * x_step[2]
        seen = tl.zeros((ROWS, BLOCK), tl.int32)
        best = tl.full((ROWS, BLOCK), float("-inf"), T)
        for begin in range(0, classes, BLOCK):
            c = begin + tl.arange(0, BLOCK)
            inside = used[:, None] & (c < classes)[None, :]
            score = tl.load(row[:, None] + c.to(tl.int64)[None, :] * x_step[3], mask=inside, other=float("-inf")).to(T)
            seen = seen | ((score != score) | (score == float("inf"))).to(tl.int32)
            best = tl.where(score > best, score, best)
            if LIMIT is not None:
                above = inside & (score > LIMIT)
                seen = seen | above.to(tl.int32)
                index = tl.reshape((node * classes)[:, None] + c[None, :], (ROWS * BLOCK,))
                which = tl.reshape(above.to(tl.int32) * LOG_PROBABILITY, (ROWS * BLOCK,))
                report(record, which, tl.reshape(score, (ROWS * BLOCK,)), index, number)
        strange = used & (tl.max(seen, 1) > 0)
        top = tl.max(best, 1)
        every, rest = tl.full((ROWS,), 1.0, tl.float64), tl.zeros((ROWS,), tl.float64)
        x_blank = tl.load(row + blank.to(tl.int64) * x_step[3], mask=used, other=0).to(T)
        x_label = tl.load(row + label * x_step[3], mask=label >= 0, other=float("-inf")).to(T)
        if SCORES:
            strange = strange | (used & (top == float("-inf")))
            top = tl.where(tl.abs(top) < float("inf"), top, tl.zeros((ROWS,), T))
            sums = tl.zeros((ROWS, BLOCK), tl.float64)
            for begin in range(0, classes, BLOCK):
                c = begin + tl.arange(0, BLOCK)
                inside = used[:, None] & (c < classes)[None, :] & (c != blank)[None, :] & (c[None, :] != label[:, None])
                score = tl.load(row[:, None] + c.to(tl.int64)[None, :] * x_step[3], mask=inside, other=0).to(T)
                e = lk.exp_of_difference(tl.where(inside, score, top[:, None]), top[:, None])
                sums += tl.where(inside, e, 0.0).to(tl.float64)
            rest = tl.sum(sums, 1)
            every = rest + (exponential(x_blank, top) + exponential(x_label, top))
            known = statistics + node * STATISTICS
            tl.store(known + TOP, top.to(tl.float64), mask=used)
            tl.store(known + ALL, every, mask=used)
            tl.store(known + REST, rest, mask=used)
            lp_blank = (x_blank.to(tl.float64) - top.to(tl.float64)) - libdevice.log(every)
            lp_label = (x_label.to(tl.float64) - top.to(tl.float64)) - libdevice.log(every)
        else:
            lp_blank, lp_label = x_blank.to(tl.float64), x_label.to(tl.float64)
        dead = (t == length - 1) & leads  # the blanks of the last frame lead nowhere, but for the last node's
        if SCORES:
            gone = rest / every + tl.where(dead, libdevice.exp(lp_blank), 0.0)
        else:  # 1 less the probabilities of arcs, the larger one's without the rounding of 1 - x
            high = tl.where(lp_blank > lp_label, lp_blank, lp_label)
            low = tl.where(lp_blank > lp_label, lp_label, lp_blank)
            gone = tl.where(dead, -libdevice.expm1(lp_label), -libdevice.expm1(high) - libdevice.exp(low))
        tl.store(lost + at, gone, mask=used)
        m, e = emission(lp_blank)
        m, e = normal(m, e)
        tl.store(of_blank + at, tl.where(dead, 0.0, m), mask=used)
        tl.store(of_blank_e + at, tl.where(dead, NONE, e), mask=used)
        m, e = emission(lp_label)
        m, e = normal(m, e)
        tl.store(of_label + at, m, mask=used)
        tl.store(of_label_e + at, e, mask=used)
        tl.store(facts + n * FACTS + NO_LABEL, tl.full((ROWS,), 1, tl.int64), mask=outside)
        tl.store(facts + n * FACTS + STRANGE, tl.full((ROWS,), 1, tl.int64), mask=strange)
