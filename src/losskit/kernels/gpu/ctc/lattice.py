"""The lattice of alignments: from both ends to where they meet, and on for the gradient."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels.gpu.ctc.masses import (
    BEGIN,
    FACTS,
    FRAMES,
    LENGTH,
    NAN,
    NEVER,
    REST,
    SIZES,
    SPAN,
    STATISTICS,
    STATUS,
    TOP,
    fetch,
    flow,
    keep,
    kept,
    states,
)
from losskit.kernels.gpu.masses import (
    BAD,
    FINE,
    IMPOSSIBLE,
    MASKED,
    NONE,
    add,
    left_of,
    logarithm,
    normal,
    scaled,
    share,
    shifted,
)


@triton.jit(do_not_specialize=SIZES)
def meet_kernel(facts, labels, emissions, emissions_e, masses, masses_e, ends, ends_e, frames,
                KEEP: tl.constexpr, W: tl.constexpr):  # fmt: skip
    """Two programs for each sample: forward through the first half of its frames, backward through the second."""
    n, direction = tl.program_id(0).to(tl.int64), tl.program_id(1)
    known = facts + n * FACTS
    if tl.load(known + STATUS) == FINE:
        inputs, span = tl.load(known + FRAMES).to(tl.int32), tl.load(known + SPAN).to(tl.int32)
        begin = tl.load(known + BEGIN)
        steps = tl.where(direction == 0, inputs // 2, inputs - inputs // 2)
        sign, start = 1 - 2 * direction, tl.where(direction == 0, 0, inputs - 1)
        label_at, blank_at, of_labels, of_blanks, skips = states(labels + n * W, span, direction == 1, W)
        lane = tl.arange(0, W)
        left = left_of(W)
        label, label_e = tl.zeros((W,), tl.float64), tl.full((W,), NONE, tl.int32)
        blank, blank_e = tl.where(lane == 0, 1.0, label), tl.where(lane == 0, 0, NONE)
        if steps > 0:
            emissions += frames.to(tl.int64) * (begin + n)
            emissions_e += frames.to(tl.int64) * (begin + n)
            masses += frames.to(tl.int64) * (2 * begin + n)
            masses_e += frames.to(tl.int64) * (2 * begin + n)
            # Places are carried from step to step: a 64-bit product for each load would delay it.
            to, ahead = (sign * (span + 1)).to(tl.int64), start.to(tl.int64) * (span + 1)
            on, at = (sign * (2 * span + 1)).to(tl.int64), start.to(tl.int64) * (2 * span + 1)
            p, p_e, q, q_e = fetch(emissions, emissions_e, ahead, label_at, of_labels, span)
            ahead += tl.where(steps > 1, to, 0)
            p1, p1_e, q1, q1_e = fetch(emissions, emissions_e, ahead, label_at, of_labels, span)
            for step in range(steps):
                ahead += tl.where(step + 2 < steps, to, 0)
                p2, p2_e, q2, q2_e = fetch(emissions, emissions_e, ahead, label_at, of_labels, span)
                rising, rising_e, into, into_e = flow(blank, blank_e, label, label_e, skips, left)
                blank, blank_e = normal(rising * q, rising_e + q_e)
                label, label_e = normal(into * p, into_e + p_e)
                if KEEP:
                    keep(masses + at, masses_e + at, blank_at, label_at, of_blanks, of_labels,
                         blank, blank_e, label, label_e)  # fmt: skip
                    at += on
                p, p_e, q, q_e = p1, p1_e, q1, q1_e
                p1, p1_e, q1, q1_e = p2, p2_e, q2, q2_e
        at = (2 * n + direction) * (2 * W)
        keep(ends + at, ends_e + at, blank_at, label_at, of_blanks, of_labels, blank, blank_e, label, label_e)


@triton.jit
def add_logs(a, ra, b, rb):
    """The sum of two e^v (1 + r): the better path keeps its v, the rest is a sum of positive terms."""
    ratio = libdevice.exp(-tl.abs(a - b))
    r = tl.where(a >= b, ra + (1 + rb) * ratio, rb + (1 + ra) * ratio)
    v = tl.where(a >= b, a, b)
    deep = r > 2.0**200  # r counts paths
    return tl.where(deep, v + libdevice.log1p(r), v), tl.where(deep, 0.0, r)


@triton.jit
def log_probability(x, statistics, SCORES: tl.constexpr):
    lp = tl.load(x).to(tl.float64)
    if SCORES:
        lp = (lp - tl.load(statistics + TOP)) - tl.load(statistics + REST)
    return tl.where(lp < -1e30, -1e30, lp)


@triton.jit
def tiny_loss(x, statistics, places, blank_place, skips, left, inputs, span, frame_stride, row, SCORES: tl.constexpr,
              W: tl.constexpr):  # fmt: skip
    """A loss near 0, with all its digits."""
    lane = tl.arange(0, W)
    zero = tl.zeros((W,), tl.float64)
    label, label_r = tl.full((W,), NEVER, tl.float64), zero
    blank, blank_r = tl.where(lane == 0, 0.0, label), zero
    for step in range(inputs):
        frame = inputs.to(tl.int64) * 0 + step
        here, of_frame = x + frame * frame_stride, statistics + frame * row
        last, last_r = shifted(label, label_r, left)
        last, last_r = tl.where(lane == 0, NEVER, last), tl.where(lane == 0, 0.0, last_r)
        rising, rising_r = add_logs(blank, blank_r, last, last_r)
        passing, passing_r = tl.where(skips, rising, blank), tl.where(skips, rising_r, blank_r)
        into, label_r = add_logs(label, label_r, passing, passing_r)
        label = into + log_probability(here + places, of_frame, SCORES)
        blank, blank_r = rising + log_probability(here + blank_place, of_frame, SCORES), rising_r
    v, r = tl.where(lane == span, blank, zero), tl.where(lane == span, blank_r, zero)
    w, s = tl.where(lane == span - 1, label, zero), tl.where(lane == span - 1, label_r, zero)
    w, s = tl.where(span > 0, tl.sum(w, 0), NEVER), tl.sum(s, 0)
    v, r = add_logs(tl.sum(v, 0), tl.sum(r, 0), w, s)
    return -(v + libdevice.log1p(r))


@triton.jit(do_not_specialize=SIZES)
def part_kernel(
    x, facts, labels, statistics, emissions, emissions_e, masses, masses_e, ends, ends_e, sample_weight,
    losses, values, sums, samples, frames, blank_class, frame_stride, sample_stride, class_stride, weight_stride,
    SCORES: tl.constexpr, WALK: tl.constexpr, MEAN: tl.constexpr, ZERO_INFINITY: tl.constexpr, TINY: tl.constexpr,
    W: tl.constexpr,
):  # fmt: skip
    """The loss, where both halves meet; then each direction walks on through the other's half and leaves posteriors."""
    n, direction = tl.program_id(0).to(tl.int64), tl.program_id(1)
    known = facts + n * FACTS
    status = tl.load(known + STATUS)
    loss = tl.where(status == IMPOSSIBLE, float("inf"), tl.where(status == BAD, float("nan"), 0.0)).to(tl.float64)
    if status == FINE:
        inputs, span = tl.load(known + FRAMES).to(tl.int32), tl.load(known + SPAN).to(tl.int32)
        begin = tl.load(known + BEGIN)
        label_at, blank_at, of_labels, of_blanks, skips = states(labels + n * W, span, direction == 1, W)
        lane = tl.arange(0, W)
        left = left_of(W)
        at = (2 * n + direction) * (2 * W)
        blank, blank_e, label, label_e = kept(ends + at, ends_e + at, blank_at, label_at, of_blanks, of_labels)
        at = (2 * n + 1 - direction) * (2 * W)
        c, c_e, d, d_e = kept(ends + at, ends_e + at, blank_at, label_at, of_blanks, of_labels)
        rising, rising_e, into, into_e = flow(blank, blank_e, label, label_e, skips, left)
        c, c_e = normal(rising * c, rising_e + c_e)
        d, d_e = normal(into * d, into_e + d_e)
        c, c_e = add(c, c_e, d, d_e)
        total_e = tl.max(c_e, 0)
        total, total_e = normal(tl.sum(scaled(c, c_e - total_e), 0), total_e)
        loss = -logarithm(total, total_e)
        if (direction == 0) & (tl.abs(loss) < TINY):  # `total` is so close to 1 that its logarithm has lost its digits
            own = tl.load(labels + n * W + lane).to(tl.int64)
            loss = tiny_loss(
                x + n * sample_stride, statistics + n * STATISTICS, own * class_stride,
                blank_class.to(tl.int64) * class_stride, skips, left, inputs, span, frame_stride, samples * STATISTICS,
                SCORES, W,
            )  # fmt: skip
        if WALK:
            steps = tl.where(direction == 0, inputs - inputs // 2, inputs // 2)
            steps = tl.where(total > 0, steps, 0)
            if steps > 0:
                sign = 1 - 2 * direction
                start = inputs // 2 - direction
                inverse = 1.0 / total
                emissions += frames.to(tl.int64) * (begin + n)
                emissions_e += frames.to(tl.int64) * (begin + n)
                masses += frames.to(tl.int64) * (2 * begin + n)
                masses_e += frames.to(tl.int64) * (2 * begin + n)
                to, ahead = (sign * (span + 1)).to(tl.int64), start.to(tl.int64) * (span + 1)
                on, at = (sign * (2 * span + 1)).to(tl.int64), start.to(tl.int64) * (2 * span + 1)
                here = masses + at
                p, p_e, q, q_e = fetch(emissions, emissions_e, ahead, label_at, of_labels, span)
                c, c_e, d, d_e = kept(masses + at, masses_e + at, blank_at, label_at, of_blanks, of_labels)
                ahead += tl.where(steps > 1, to, 0)
                at += tl.where(steps > 1, on, 0)
                p1, p1_e, q1, q1_e = fetch(emissions, emissions_e, ahead, label_at, of_labels, span)
                c1, c1_e, d1, d1_e = kept(masses + at, masses_e + at, blank_at, label_at, of_blanks, of_labels)
                for step in range(steps):
                    ahead += tl.where(step + 2 < steps, to, 0)
                    at += tl.where(step + 2 < steps, on, 0)
                    p2, p2_e, q2, q2_e = fetch(emissions, emissions_e, ahead, label_at, of_labels, span)
                    c2, c2_e, d2, d2_e = kept(masses + at, masses_e + at, blank_at, label_at, of_blanks, of_labels)
                    rising, rising_e, into, into_e = flow(blank, blank_e, label, label_e, skips, left)
                    c, c_e = normal(rising * c, rising_e + c_e)
                    d, d_e = normal(into * d, into_e + d_e)
                    tl.store(here + blank_at, share(c, c_e, inverse, total_e), mask=of_blanks)
                    tl.store(here + label_at, share(d, d_e, inverse, total_e), mask=of_labels)
                    here += on
                    blank, blank_e = normal(rising * q, rising_e + q_e)
                    label, label_e = normal(into * p, into_e + p_e)
                    p, p_e, q, q_e = p1, p1_e, q1, q1_e
                    p1, p1_e, q1, q1_e = p2, p2_e, q2, q2_e
                    c, c_e, d, d_e = c1, c1_e, d1, d1_e
                    c1, c1_e, d1, d1_e = c2, c2_e, d2, d2_e
    if direction == 0:
        loss = tl.where(tl.load(known + NAN) != 0, float("nan"), loss)
        tl.store(losses + n, loss)
        if ZERO_INFINITY:
            loss = tl.where(loss == float("inf"), 0.0, loss)
        if MEAN:
            loss = loss / tl.maximum(tl.load(known + LENGTH), 1).to(tl.float64)
        if sample_weight is not None:
            loss *= tl.load(sample_weight + n * weight_stride).to(tl.float64)
        loss = tl.where(status == MASKED, 0.0, loss)
        if sums is not None:
            tl.store(sums + n, loss)
        if values is not None:
            narrow = loss.to(tl.float32) if values.dtype.element_ty == tl.bfloat16 else loss
            tl.store(values + n, narrow.to(values.dtype.element_ty))
