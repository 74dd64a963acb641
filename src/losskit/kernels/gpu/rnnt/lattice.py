"""A sample's lattice, diagonal by diagonal: forward to the loss, and backward for the gradient."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels.gpu.masses import (
    ASLEEP,
    BAD,
    FINE,
    IMPOSSIBLE,
    MASKED,
    NONE,
    add,
    left_of,
    logarithm,
    normal,
    right_of,
    scaled,
    shifted,
)
from losskit.kernels.gpu.rnnt.nodes import (
    FACTS,
    FRAMES,
    INPUT_LENGTH,
    LABELS,
    NO_LABEL,
    STATUS,
    STRANGE,
    TARGET_LENGTH,
    WEIGHT,
    sample_of,
)
from losskit.kernels.gpu.sequences import weight_of, write_loss
from losskit.kernels.gpu.violations import report

SIZES = ["number", "frames", "columns"]


@triton.jit
def of_neighbour(m, e, places, edge):
    """The masses of the lanes at their places; none at the edge."""
    m, e = shifted(m.to(tl.int64, bitcast=True), e.to(tl.int64), places)
    return tl.where(edge, 0.0, m.to(tl.float64, bitcast=True)), tl.where(edge, NONE, e.to(tl.int32))


@triton.jit
def masses_of(m, e, at, there):
    return tl.load(m + at, mask=there, other=0.0), tl.load(e + at, mask=there, other=NONE)


@triton.jit
def arcs_of(of_blank, of_blank_e, of_label, of_label_e, d, lane, length, labels, columns):
    """The masses of the arcs of a diagonal's nodes, and which nodes there are."""
    there = (lane <= labels) & (d - lane >= 0) & (d - lane < length)
    at = d * columns + lane
    b, b_e = masses_of(of_blank, of_blank_e, at, there)
    c, c_e = masses_of(of_label, of_label_e, at, there)
    return b, b_e, c, c_e, there, at


@triton.jit(do_not_specialize=SIZES)
def lattice_kernel(
    inputs, outputs, mask, sample_weight, upstream, record, facts, of_blank, of_blank_e, of_label, of_label_e, lost,
    before, before_e, after, after_e, totals, totals_e, values, sums, counts, number, frames, columns,
    extra_step, CHECKED: tl.constexpr, KEEP: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """Two programs for each sample: forward, with the loss and what becomes of the sample, and backward."""
    n, backward = tl.program_id(0).to(tl.int64), tl.program_id(1) == 1
    counted, length, labels, bad = sample_of(n, inputs, outputs, mask, frames, columns, extra_step)
    if CHECKED:
        one = tl.arange(0, 1)
        which = tl.where((labels < 0) | (labels >= columns), TARGET_LENGTH, 0)
        which = tl.where((length < 0) | (length > frames), INPUT_LENGTH, which)
        found = tl.where(which == INPUT_LENGTH, length, labels)
        report(record, one + tl.where(counted & (backward == 0), which, 0), one + found, one + n, number)
    bad = bad | (tl.load(facts + n * FACTS + NO_LABEL) != 0)
    strange = tl.load(facts + n * FACTS + STRANGE) != 0
    asleep = n < 0
    if upstream is not None:
        asleep = tl.load(upstream) == 1.0
    runs = counted & (bad == 0) & (strange == 0) & (asleep == 0)
    lane = tl.arange(0, W)
    first = n * (frames + columns) * columns
    of_blank += first
    of_blank_e += first
    of_label += first
    of_label_e += first
    loss = tl.full((), float("nan"), tl.float64)
    diagonals = tl.where(runs, length + labels, 0).to(tl.int32)
    if diagonals > 0:
        d = tl.where(backward, diagonals - 1, 0).to(tl.int64)
        to, end = tl.where(backward, -1, 1), tl.where(backward, 0, diagonals - 1).to(tl.int64)
        b1, b1_e, c1, c1_e, there1, at1 = arcs_of(
            of_blank, of_blank_e, of_label, of_label_e, d, lane, length, labels, columns
        )  # fmt: skip
        d += tl.where(d == end, 0, to)
        b2, b2_e, c2, c2_e, there2, at2 = arcs_of(
            of_blank, of_blank_e, of_label, of_label_e, d, lane, length, labels, columns
        )  # fmt: skip
        if backward:
            m, e = tl.where(lane == labels, 1.0, 0.0).to(tl.float64), tl.where(lane == labels, 0, NONE)
            right, edge = right_of(W), lane == W - 1
            for _ in range(diagonals):
                b, b_e, c, c_e, there, at = b1, b1_e, c1, c1_e, there1, at1
                b1, b1_e, c1, c1_e, there1, at1 = b2, b2_e, c2, c2_e, there2, at2
                d += tl.where(d == end, 0, to)
                b2, b2_e, c2, c2_e, there2, at2 = arcs_of(
                    of_blank, of_blank_e, of_label, of_label_e, d, lane, length, labels, columns
                )  # fmt: skip
                next_m, next_e = of_neighbour(m, e, right, edge)
                p, p_e = normal(m * b, e + b_e)
                q, q_e = normal(next_m * c, next_e + c_e)
                m, e = add(p, p_e, q, q_e)
                m, e = normal(m, e)
                tl.store(after + first + at, m, mask=there)
                tl.store(after_e + first + at, e, mask=there)
        else:
            m, e = tl.where(lane == 0, 1.0, 0.0).to(tl.float64), tl.where(lane == 0, 0, NONE)
            left, edge = left_of(W), lane == 0
            missing = tl.zeros((W,), tl.float64)
            g1 = tl.load(lost + first + at1, mask=there1, other=0.0)
            g2 = tl.load(lost + first + at2, mask=there2, other=0.0)
            p, p_e = m, e
            for _ in range(diagonals):
                b, b_e, c, c_e, there, at, gone = b1, b1_e, c1, c1_e, there1, at1, g1
                b1, b1_e, c1, c1_e, there1, at1, g1 = b2, b2_e, c2, c2_e, there2, at2, g2
                d += tl.where(d == end, 0, to)
                b2, b2_e, c2, c2_e, there2, at2 = arcs_of(
                    of_blank, of_blank_e, of_label, of_label_e, d, lane, length, labels, columns
                )  # fmt: skip
                g2 = tl.load(lost + first + at2, mask=there2, other=0.0)
                if KEEP:
                    tl.store(before + first + at, m, mask=there)
                    tl.store(before_e + first + at, e, mask=there)
                missing += scaled(m, e) * gone
                p, p_e = normal(m * b, e + b_e)
                q, q_e = normal(m * c, e + c_e)
                q, q_e = of_neighbour(q, q_e, left, edge)
                m, e = add(p, p_e, q, q_e)
                m, e = normal(m, e)
            total = tl.sum(tl.where(lane == labels, p, 0.0), 0)  # what the blank of the last node leads to
            total_e = tl.max(tl.where(lane == labels, p_e, NONE), 0)
            loss = -logarithm(tl.where(total > 0, total, 1.0), total_e)
            near = (total_e == 0) & (total > 0.5) & (total < 2.0)
            loss = tl.where(near, -libdevice.log1p(-tl.sum(missing, 0)), loss)
            loss = tl.where(total > 0, loss, float("inf"))
            tl.store(totals + n, total)
            tl.store(totals_e + n, total_e)
    if backward == 0:
        status = tl.where(loss != loss, BAD, tl.where(loss == float("inf"), IMPOSSIBLE, FINE))
        status = tl.where(counted, status, MASKED)
        status = tl.where(asleep, ASLEEP, status)
        known = facts + n * FACTS
        tl.store(known + STATUS, status.to(tl.int64))
        tl.store(known + FRAMES, tl.where(bad, frames, length))
        tl.store(known + LABELS, tl.where(bad, columns, labels))
        write_loss(loss, weight_of(sample_weight, n * extra_step[WEIGHT]), n, counted, values, sums, counts)
