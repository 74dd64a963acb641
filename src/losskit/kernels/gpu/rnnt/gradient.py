"""The gradient of all nodes."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.masses import ASLEEP, normal, share
from losskit.kernels.gpu.rnnt.lattice import masses_of
from losskit.kernels.gpu.rnnt.nodes import (
    ALL,
    FACTS,
    FRAMES,
    LABELS,
    REST,
    SIZES,
    STATISTICS,
    STATUS,
    TOP,
    UPSTREAM,
    WEIGHT,
    exponential,
    place_of,
)
from losskit.kernels.gpu.rows import narrow
from losskit.kernels.gpu.sequences import scale_of


@triton.jit
def limited(x, CLAMP: tl.constexpr):
    if CLAMP is not None:
        x = tl.where(x > CLAMP, CLAMP, tl.where(x < -CLAMP, -CLAMP, x)).to(x.dtype)
    return x


@triton.jit
def posterior(m, e, p, p_e, q, q_e, total, total_e):
    """The share of the ways through an arc: the mass before it, its own, and the mass after it."""
    m, e = normal(m * p, e + p_e)
    m, e = normal(m * q, e + q_e)
    return share(m, e, 1.0 / total, total_e)


@triton.jit(do_not_specialize=["divisor", *SIZES])
def gradient_kernel(
    x, targets, sample_weight, each_upstream, upstream, denominator, facts, statistics, of_blank, of_blank_e, of_label,
    of_label_e, before, before_e, after, after_e, totals, totals_e, gradient, divisor, nodes, frames, columns, classes,
    blank, x_step, target_step, extra_step, gradient_step,
    EMISSION: tl.constexpr, CLAMP: tl.constexpr, SCORES: tl.constexpr, T: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Some nodes: the row of probabilities, and in it the classes of the two arcs."""
    if tl.load(facts + STATUS) != ASLEEP:
        node = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
        there = node < nodes
        node = tl.minimum(node, nodes - 1)  # so that facts are loaded without a mask
        n, t, u, at = place_of(node, frames, columns)
        known = facts + n * FACTS
        status, length, labels = tl.load(known + STATUS), tl.load(known + FRAMES), tl.load(known + LABELS)
        weigh = tl.full((ROWS,), 1.0, tl.float64)
        if sample_weight is not None:
            weigh = tl.load(sample_weight + n * extra_step[WEIGHT]).to(tl.float64)
        scale, live = scale_of(status, weigh, each_upstream, n * extra_step[UPSTREAM], upstream, denominator, divisor)
        inside = (t < length) & (u <= labels)
        scale = tl.where(inside, scale, 0.0)
        live = live & inside & there & (scale != 0)
        leads, last = live & (u < labels), (t == length - 1) & (u == labels)
        label = tl.load(targets + n * target_step[0] + u * target_step[1], mask=leads, other=0).to(tl.int64)
        label = tl.where(leads, label, -1)
        total, total_e = tl.load(totals + n, mask=live, other=1.0), tl.load(totals_e + n, mask=live, other=0)
        m, e = masses_of(before, before_e, at, live)
        p, p_e = masses_of(of_blank, of_blank_e, at, live)
        q, q_e = masses_of(after, after_e, at + columns, live & (t < length - 1))
        q, q_e = tl.where(last, 1.0, q), tl.where(last, 0, q_e)
        by_blank = posterior(m, e, p, p_e, q, q_e, total, total_e)
        p, p_e = masses_of(of_label, of_label_e, at, leads)
        q, q_e = masses_of(after, after_e, at + columns + 1, leads)
        by_label = posterior(m, e, p, p_e, q, q_e, total, total_e) * EMISSION
        row = x + n * x_step[0] + t * x_step[1] + u * x_step[2]
        of_blanks, of_labels = -by_blank, -by_label
        top, factor = tl.zeros((ROWS,), T), tl.zeros((ROWS,), tl.float64)
        if SCORES:
            own = statistics + node * STATISTICS
            top = tl.load(own + TOP, mask=live, other=0.0).to(T)
            unit = 1.0 / tl.load(own + ALL, mask=live, other=1.0)
            rest = tl.load(own + REST, mask=live, other=0.0)
            b = exponential(tl.load(row + blank.to(tl.int64) * x_step[3], mask=live, other=float("-inf")).to(T), top)
            c = exponential(tl.load(row + label * x_step[3], mask=leads, other=float("-inf")).to(T), top)
            of_blanks = unit * b * by_label - by_blank * (unit * (rest + c))
            of_labels = unit * c * by_blank - by_label * (unit * (rest + b))
            factor = unit * (by_blank + by_label)
        of_blanks = limited(of_blanks, CLAMP) * scale
        of_labels = limited(of_labels, CLAMP) * scale
        if CLAMP is None:
            factor *= scale
        fill = tl.where(scale != scale, scale, 0.0)
        to = gradient + n * gradient_step[0] + t * gradient_step[1] + u * gradient_step[2]
        for begin in range(0, classes, BLOCK):
            column = begin + tl.arange(0, BLOCK)
            written = there[:, None] & (column < classes)[None, :]
            slope = tl.zeros((ROWS, BLOCK), T)
            if SCORES:
                here = row[:, None] + column.to(tl.int64)[None, :] * x_step[3]
                score = tl.load(here, mask=written & live[:, None], other=float("-inf")).to(T)
                slope = lk.exp_of_difference(score, top[:, None]) * factor.to(T)[:, None]
                if CLAMP is not None:
                    slope = limited(slope, CLAMP) * scale.to(T)[:, None]
            slope = tl.where((column == blank)[None, :], of_blanks.to(T)[:, None], slope)
            slope = tl.where(column[None, :] == label[:, None], of_labels.to(T)[:, None], slope)
            slope = tl.where(live[:, None], slope, fill.to(T)[:, None])
            tl.store(to[:, None] + column.to(tl.int64)[None, :] * gradient_step[3], narrow(slope, gradient),
                     mask=written)  # fmt: skip
