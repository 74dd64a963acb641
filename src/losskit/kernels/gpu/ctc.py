"""The sequence family on a GPU: both ends of every sample's lattice at once, then gradients frame by frame.

1. `read_kernel` checks lengths and labels. `frames_kernel` takes the log-softmax of frames, looks for NaN and leaves
   the probabilities of the target's classes. `meet_kernel` runs forward through the first half of a sample's frames
   and, in another program, backward through the second half. `part_kernel` adds up the alignments where the two meet
   and, for the gradient, walks on through the other's half. `gradient_kernel` takes a frame each.
2. Backward is forward through reversed frames and labels, so one recursion serves both. A state keeps its mass with the
   emission of its frame; what flows into it, times the other direction's mass, is its posterior, and nothing divides
   by a probability. The posterior takes the place of the other's mass in memory.
3. Every mass is m * 2^(512 e), m a float64 between 2^-256 and 2^256 (or 0) and e an int32 of its own: it neither
   underflows nor needs logarithms, sums are aligned by two comparisons, and peaked scores have no path of their own.
   A mass below 2^(-512 * 2^30), a loss of 3.8e11, counts as none.
4. Latency dominates a step. So loads are issued two frames ahead, exponentials are computed for all frames in an
   earlier kernel, and lanes exchange once a step. A lane holds a label and the blank before it.
5. When the total mass is close to 1, minus its logarithm has no correct digits. Such a tiny loss is computed from the
   logarithm of the best path and the sum of all other paths relative to it, in a loop that only such samples enter.
6. Probabilities of the target's classes are float64, the others' T: the mass on the others bounds the loss from below,
   so their relative error is all that it costs. The gradient of a class with more than half of a frame is minus the
   sum of the other classes' gradients.
7. Labels are sorted by class once, so that posteriors of a class that occurs several times are added by a scan of
   runs, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import libdevice

from losskit.domains import log_probability as log_probability_domain
from losskit.kernels import wire
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.shared import (
    OPTIONS,
    TYPES,
    Call,
    Outputs,
    cdiv,
    denominator_of,
    factor_of,
    finish,
    number_of,
    power_of_2,
    record_of,
    report,
)
from losskit.plan import Arguments, Plan

# The facts of a sample, int64 each: its status, its frames, the labels in its lattice, the length of its target, the
# labels before its own, and whether a NaN was seen. ASLEEP: the upstream gradient is 1, so nothing is rewritten.
STATUS, FRAMES, SPAN, LENGTH, BEGIN, NAN, FACTS = (tl.constexpr(i) for i in range(7))
FINE, IMPOSSIBLE, MASKED, BAD, ASLEEP = (tl.constexpr(i) for i in range(5))
LOG_PROBABILITY, LABEL, INPUT_LENGTH, TARGET_LENGTH = (tl.constexpr(int(x)) for x in wire.SequenceViolation)
TOP, OTHERS, REST, STATISTICS = (tl.constexpr(i) for i in range(4))

HEAD_OF_LARGE, HEAD_OF_SMALL = tl.constexpr((1023 + 256) << 20), tl.constexpr((1023 - 256) << 20)  # upper halves
UP, DOWN = tl.constexpr(2.0**512), tl.constexpr(2.0**-512)
NONE = tl.constexpr(-(2**30))  # the exponent of a mass of 0
# 512 log(2), the first part short enough that its product with an exponent is exact.
HIGH, LOW = tl.constexpr(354.8913269042969), tl.constexpr(2.954239512342162e-05)
NEVER = tl.constexpr(-1e300)  # the logarithm of a mass of 0
# Arguments that change from call to call. Triton would compile a kernel of its own for the value 1.
SIZES = ["samples", "frames", "rows", "vocabulary", "blank", "blank_class", "size", "most"]


# ---------------------------------------------------------------------------------------------------------
# Masses


@triton.jit
def scaled(m, d):
    """A mantissa in units of an exponent that is larger by -d."""
    return tl.where(d == 0, m, tl.where(d == -1, m * DOWN, 0.0))


@triton.jit
def add(a, a_e, b, b_e):
    e = tl.maximum(a_e, b_e)
    return scaled(a, a_e - e) + scaled(b, b_e - e), e


@triton.jit
def normal(m, e):
    """A mass with its mantissa back between 2^-256 and 2^256. Integers: comparisons of float64 are slow."""
    bits = m.to(tl.int64, bitcast=True)
    head = (bits >> 32).to(tl.int32)
    up = (head < HEAD_OF_SMALL).to(tl.int32) - (head >= HEAD_OF_LARGE).to(tl.int32)
    m = (bits + (up.to(tl.int64) << 61)).to(tl.float64, bitcast=True)
    e -= up
    gone = (head == 0) | (e < NONE)
    return tl.where(gone, 0.0, m), tl.where(gone, NONE, e)


@triton.jit
def emission(lp):
    """A probability as a mass, from its logarithm."""
    q = libdevice.rint(lp * 0.0028177637517362566)
    q = tl.where(q < -536870912.0, -536870912.0, tl.where(q > 536870912.0, 536870912.0, q))
    m = libdevice.exp((lp - q * HIGH) - q * LOW)
    return m, tl.where(q == q, q, 0.0).to(tl.int32)


@triton.jit
def shifted(a, b, left):
    """Two numbers of one type from the lane before. Both in one exchange, because an exchange costs two barriers."""
    both = tl.gather(tl.reshape(tl.join(a, b), left.shape), left, 0)
    return tl.split(tl.reshape(both, (left.shape[0] // 2, 2)))


@triton.jit
def left_of(W: tl.constexpr):
    """The places from which `shifted` gathers."""
    place = tl.arange(0, 2 * W)
    return tl.where(place < 2, place, place - 2)


@triton.jit
def flow(blank, blank_e, label, label_e, skips, left):
    """The masses that flow into the blanks before labels and into the labels, not yet times the new emissions."""
    last, last_e = shifted(label.to(tl.int64, bitcast=True), label_e.to(tl.int64), left)
    last, last_e = last.to(tl.float64, bitcast=True), last_e.to(tl.int32)
    first = tl.arange(0, label.shape[0]) == 0
    last, last_e = tl.where(first, 0.0, last), tl.where(first, NONE, last_e)
    rising, rising_e = add(blank, blank_e, last, last_e)
    passing, passing_e = tl.where(skips, rising, blank), tl.where(skips, rising_e, blank_e)
    into, into_e = add(label, label_e, passing, passing_e)
    return rising, rising_e, into, into_e


@triton.jit
def keep(m, e, blank_at, label_at, of_blanks, of_labels, blank, blank_e, label, label_e):
    tl.store(m + blank_at, blank, mask=of_blanks)
    tl.store(e + blank_at, blank_e, mask=of_blanks)
    tl.store(m + label_at, label, mask=of_labels)
    tl.store(e + label_at, label_e, mask=of_labels)


@triton.jit
def kept(m, e, blank_at, label_at, of_blanks, of_labels):
    blank, blank_e = tl.load(m + blank_at, mask=of_blanks, other=0.0), tl.load(e + blank_at, mask=of_blanks, other=NONE)
    label, label_e = tl.load(m + label_at, mask=of_labels, other=0.0), tl.load(e + label_at, mask=of_labels, other=NONE)
    return blank, blank_e, label, label_e


@triton.jit
def states(labels, span, backward, W: tl.constexpr):
    """A direction's lanes: the places of labels, of the blanks before them, which of both exist, and whether a label
    may follow the one before without a blank."""
    lane = tl.arange(0, W)
    label_at = tl.where(backward, span - 1 - lane, lane)
    before = tl.where(backward, label_at + 1, label_at - 1)
    blank_at = span + tl.where(backward, span - lane, lane)
    of_labels = lane < span
    own = tl.load(labels + label_at, mask=of_labels, other=-1)
    skips = own != tl.load(labels + before, mask=of_labels & (lane > 0), other=-1)
    return label_at, blank_at, of_labels, lane <= span, skips


@triton.jit
def fetch(m, e, at, places, of_labels, span):
    """The emissions of a frame: the labels' and the blank's."""
    label = tl.load(m + at + places, mask=of_labels, other=0.0)
    label_e = tl.load(e + at + places, mask=of_labels, other=0)
    return label, label_e, tl.load(m + at + span), tl.load(e + at + span)


# ---------------------------------------------------------------------------------------------------------
# Samples


@triton.jit(do_not_specialize=["number", *SIZES])
def read_kernel(
    targets, input_lengths, target_lengths, mask, upstream, record, facts, labels, classes, order,
    number, samples, frames, vocabulary, blank, size, most, row_stride, label_stride, input_stride, target_stride,
    mask_stride,
    CONCATENATED: tl.constexpr, CHECKED: tl.constexpr, REWRITE: tl.constexpr, BLOCK: tl.constexpr, W: tl.constexpr,
):  # fmt: skip
    """A program for each sample: its lengths, its labels, the order of their classes, what is wrong with them."""
    n = tl.program_id(0).to(tl.int64)
    inputs = tl.load(input_lengths + n * input_stride).to(tl.int64)
    length = tl.load(target_lengths + n * target_stride).to(tl.int64)
    counts = inputs == inputs
    if mask is not None:
        counts = tl.load(mask + n * mask_stride) != 0
    own = (length >= 0) & (length <= size)
    fits, adds_up, all_own, before, total = own, own | True, own | True, length * 0, length * 0
    if CONCATENATED:
        for begin in range(0, samples, BLOCK):
            i = begin + tl.arange(0, BLOCK)
            there = i < samples
            each = tl.load(target_lengths + i * target_stride, mask=there, other=0).to(tl.int64)
            outside = (each < 0) | (each > size)
            all_own = all_own & (tl.max(outside.to(tl.int32), 0) == 0)
            fits = fits & (tl.max((outside & (i <= n)).to(tl.int32), 0) == 0)
            each = tl.minimum(tl.maximum(each, -1), size + 1)
            before += tl.sum(tl.where(i < n, each, 0), 0)
            total += tl.sum(each, 0)
        fits = fits & (before + length <= size)
        adds_up = total == size
    good = fits & (inputs >= 0) & (inputs <= frames)
    length = tl.where(fits, length, 0)
    begin = tl.where(fits, before, 0)
    row = targets + (begin * label_stride if CONCATENATED else n.to(tl.int64) * row_stride)
    bad = ~good
    if CHECKED:
        bad = bad | ~adds_up
        at = tl.arange(0, 1)
        raw = tl.load(target_lengths + n * target_stride + at).to(tl.int64)
        short = tl.load(input_lengths + n * input_stride + at).to(tl.int64)
        which = tl.where((raw < 0) | (raw > size), TARGET_LENGTH, 0)
        which = tl.where((short < 0) | (short > frames), INPUT_LENGTH, which)
        found, index = tl.where(which == INPUT_LENGTH, short, raw), at + n
        which = tl.where(counts, which, 0)
        if CONCATENATED:
            of_total = (which == 0) & (at + total != size) & (at + n == 0) & (at + all_own.to(tl.int32) == 1)
            found = tl.where(of_total, total, found)
            index = tl.where(of_total, samples, index)
            which = tl.where(of_total, TARGET_LENGTH, which)
        report(record, which, found, index, number)
    wrong = length * 0
    for start in range(0, tl.where(bad, 0, length), BLOCK):
        j = start + tl.arange(0, BLOCK)
        label = tl.load(row + j * label_stride, mask=j < length, other=0).to(tl.int64)
        outside = (j < length) & ((label < 0) | (label >= vocabulary) | (label == blank))
        wrong += tl.sum(outside.to(tl.int64), 0)
        if CHECKED:
            at_label = n.to(tl.int64) * size + j
            if CONCATENATED:
                at_label = at_label * size + begin + j
            report(record, tl.where(outside, tl.where(counts, LABEL, 0), 0), label, at_label, number)
    bad = bad | (wrong > 0)
    impossible = (length > inputs) | (length >= W)
    status = tl.where(bad, BAD, tl.where(impossible, IMPOSSIBLE, FINE))
    status = tl.where(counts, status, MASKED)
    if REWRITE:
        status = tl.where(tl.load(upstream) == 1.0, ASLEEP, status)
    span = tl.where(status == FINE, length, 0)
    known = facts + n * FACTS
    tl.store(known + STATUS, status)
    tl.store(known + FRAMES, inputs)
    tl.store(known + SPAN, span)
    tl.store(known + LENGTH, length)
    tl.store(known + BEGIN, before if CONCATENATED else n.to(tl.int64) * most)
    tl.store(known + NAN, 0)

    lane = tl.arange(0, W)
    valid = lane < span
    label = tl.load(row + lane * label_stride, mask=valid, other=0).to(tl.int32)
    label = tl.where(valid, label, blank)
    tl.store(labels + n * W + lane, label)
    rank = tl.zeros((W,), tl.int32)
    for start in range(0, span, 16):
        i = start + tl.arange(0, 16)
        other = tl.load(row + i * label_stride, mask=i < span, other=0).to(tl.int32)
        other = tl.where(i < span, other, vocabulary)[:, None]
        earlier = (other < label[None, :]) | ((other == label[None, :]) & (i[:, None] < lane[None, :]))
        rank += tl.sum(earlier.to(tl.int32), 0)
    tl.store(classes + n * W + tl.where(valid, rank, lane), tl.where(valid, label, vocabulary))
    tl.store(order + n * W + tl.where(valid, rank, lane), lane)


# ---------------------------------------------------------------------------------------------------------
# Frames


@triton.jit(do_not_specialize=["number", *SIZES])
def frames_kernel(
    x, facts, labels, classes, statistics, emissions, exponents, record,
    number, samples, frames, rows, vocabulary, blank, frame_stride, sample_stride, class_stride,
    LIMIT: tl.constexpr, SCORES: tl.constexpr, T: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    W: tl.constexpr,
):  # fmt: skip
    """Rows of frames and samples: NaN in them, or what is above the limit of log-probabilities, if there is one; of
    scores the largest, the sum of the others' exponentials below it, and its log1p; the probabilities of the target's
    classes."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = at < rows
    at = tl.minimum(at, rows - 1)  # so that facts are loaded without a mask, with which Triton 3.6 fails to compile
    frame, n = at // samples, at % samples
    known = facts + n * FACTS
    status = tl.load(known + STATUS)
    used = there & (status <= IMPOSSIBLE) & (frame < tl.load(known + FRAMES))
    span = tl.where(used, tl.load(known + SPAN), 0)
    row = x + (frame * frame_stride + n * sample_stride)[:, None]
    seen = tl.zeros((ROWS, BLOCK), tl.int32)
    best = tl.full((ROWS, BLOCK), float("-inf"), T)
    best_at = tl.zeros((ROWS, BLOCK), tl.int32)
    for begin in range(0, vocabulary, BLOCK):
        c = begin + tl.arange(0, BLOCK)
        inside = used[:, None] & (c < vocabulary)[None, :]
        block = tl.load(row + c.to(tl.int64)[None, :] * class_stride, mask=inside, other=float("-inf")).to(T)
        seen = seen | ((block != block) | (block == float("inf"))).to(tl.int32)
        if LIMIT is not None:
            above = inside & (block > LIMIT)
            seen = seen | above.to(tl.int32)
            index = (at * vocabulary)[:, None] + c[None, :]
            which = tl.reshape(above.to(tl.int32) * LOG_PROBABILITY, (ROWS * BLOCK,))
            report(record, which, tl.reshape(block, (ROWS * BLOCK,)), tl.reshape(index, (ROWS * BLOCK,)), number)
        if SCORES:
            best_at = tl.where(block > best, c[None, :], best_at)
            best = tl.where(block > best, block, best)
    nan = tl.max(seen, 1)
    lane = tl.arange(0, W)
    wide, rest = tl.zeros((ROWS,), tl.float64), tl.zeros((ROWS,), tl.float64)
    if SCORES:
        top = tl.max(best, 1)
        pivot = tl.min(tl.where(best == top[:, None], best_at, 2147483647), 1)
        sums = tl.zeros((ROWS, BLOCK), tl.float64)
        for begin in range(0, vocabulary, BLOCK):
            c = begin + tl.arange(0, BLOCK)
            inside = used[:, None] & (c < vocabulary)[None, :]
            block = tl.load(row + c.to(tl.int64)[None, :] * class_stride, mask=inside, other=float("-inf")).to(T)
            e = lk.exp_of_difference(block, top[:, None])
            sums += tl.where(inside & (c[None, :] != pivot[:, None]), e, 0.0).to(tl.float64)
        others = tl.sum(sums, 1)
        wide = top.to(tl.float64)
        if top.dtype == tl.float32:
            sorted_at = classes + (n * W)[:, None] + lane[None, :]
            valid = lane[None, :] < span[:, None]
            c = tl.load(sorted_at, mask=valid, other=0)
            last = tl.load(sorted_at - 1, mask=valid & (lane > 0)[None, :], other=-1)
            valid = valid & (c != last) & (c != pivot[:, None])
            block = tl.load(row + c.to(tl.int64) * class_stride, mask=valid, other=0.0).to(T)
            block = tl.where(valid, block, top[:, None])
            more = libdevice.exp(block.to(tl.float64) - wide[:, None]) - lk.exp_of_difference(block, top[:, None])
            others += tl.sum(tl.where(valid, more, 0.0), 1)
            place = frame * frame_stride + n * sample_stride + blank.to(tl.int64) * class_stride
            of_blank = tl.load(x + place, mask=used, other=0)
            of_blank = tl.where(pivot == blank, top, of_blank.to(T))
            others += libdevice.exp(of_blank.to(tl.float64) - wide) - lk.exp_of_difference(of_blank, top)
        nan = tl.where((others != others) | (top == float("-inf")), 1, nan)
        here = statistics + at * STATISTICS
        tl.store(here + TOP, wide, mask=used)
        tl.store(here + OTHERS, others, mask=used)
        rest = libdevice.log1p(others)
        tl.store(here + REST, rest, mask=used)
    tl.store(known + NAN, nan.to(tl.int64), mask=used & (nan > 0))
    emitted = (used & (status == FINE))[:, None] & (lane[None, :] <= span[:, None])
    c = tl.load(labels + (n * W)[:, None] + lane[None, :], mask=emitted, other=0)
    lp = tl.load(row + c.to(tl.int64) * class_stride, mask=emitted, other=0.0).to(tl.float64)
    m, e = emission((lp - wide[:, None]) - rest[:, None])
    to = frames.to(tl.int64) * (tl.load(known + BEGIN) + n) + frame * (span + 1)
    tl.store(emissions + to[:, None] + lane[None, :], m, mask=emitted)
    tl.store(exponents + to[:, None] + lane[None, :], e, mask=emitted)


# ---------------------------------------------------------------------------------------------------------
# The lattice


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
def share(m, e, inverse, total_e):
    """A mass divided by the total."""
    m, d = m * inverse, e - total_e
    return tl.where(d == 0, m, tl.where(d == -1, m * DOWN, tl.where(d == 1, m * UP, 0.0)))


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
        loss = -((libdevice.log(total) + total_e * LOW) + total_e * HIGH)
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


# ---------------------------------------------------------------------------------------------------------
# Gradients


@triton.jit
def add_runs(a, a_class, b, b_class):
    return tl.where(a_class == b_class, a + b, b), b_class


@triton.jit(do_not_specialize=["divisor", *SIZES])
def gradient_kernel(
    x, facts, classes, order, statistics, masses, losses, sample_weight, each_upstream, upstream, denominator, gradient,
    samples, frames, vocabulary, blank, divisor, frame_stride, sample_stride, class_stride, weight_stride,
    upstream_stride, to_frame, to_sample, to_class,
    SCORES: tl.constexpr, EXACT: tl.constexpr, MEAN: tl.constexpr, T: tl.constexpr, BLOCK: tl.constexpr,
    W: tl.constexpr,
):  # fmt: skip
    """The gradient of a frame: the row of probabilities, then the target's classes over it."""
    n, frame = tl.program_id(0).to(tl.int64) % samples, tl.program_id(0).to(tl.int64) // samples
    known = facts + n * FACTS
    status = tl.load(known + STATUS)
    if status != ASLEEP:
        to = gradient + frame * to_frame + n * to_sample
        factor = factor_of(upstream, denominator, divisor, tl.float64)
        loss = tl.load(losses + n)
        inside = (frame < tl.load(known + FRAMES)) | (status == BAD)
        nan = inside & (loss != loss) & (status != MASKED)
        if denominator is not None:  # a mean over nothing has no gradient
            inside, nan = inside & (factor != 0), nan & (factor != 0)
        live = inside & (status == FINE) & (tl.abs(loss) < float("inf"))
        if live:
            scale = factor
            if MEAN:
                scale = scale / tl.maximum(tl.load(known + LENGTH), 1).to(tl.float64)
            if sample_weight is not None:
                scale *= tl.load(sample_weight + n * weight_stride).to(tl.float64)
            if each_upstream is not None:
                scale *= tl.load(each_upstream + n * upstream_stride).to(tl.float64)
            row = x + frame * frame_stride + n * sample_stride
            top, others = tl.full((), 0.0, tl.float64), tl.full((), 0.0, tl.float64)
            if SCORES:
                here = statistics + (frame * samples + n) * STATISTICS
                top, others = tl.load(here + TOP), tl.load(here + OTHERS)
            unit = 1.0 / (1.0 + others)
            for begin in range(0, vocabulary, BLOCK):
                c = (begin + tl.arange(0, BLOCK)).to(tl.int64)
                if SCORES:
                    block = tl.load(row + c * class_stride, mask=c < vocabulary, other=float("-inf")).to(T)
                    slope = lk.exp_of_difference(block, top.to(T)) * (scale * unit).to(T)
                elif EXACT:
                    slope = tl.zeros((BLOCK,), T)
                else:
                    block = tl.load(row + c * class_stride, mask=c < vocabulary, other=0.0).to(T)
                    slope = libdevice.exp(block) * scale.to(T)
                tl.store(to + c * to_class, slope.to(gradient.dtype.element_ty), mask=c < vocabulary)

            span = tl.load(known + SPAN).to(tl.int32)
            lane = tl.arange(0, W)
            posteriors = masses + frames.to(tl.int64) * (2 * tl.load(known + BEGIN) + n) + frame * (2 * span + 1)
            own = tl.load(classes + n * W + lane)
            following = tl.load(classes + n * W + lane + 1, mask=lane < W - 1, other=-1)
            posterior = tl.load(posteriors + tl.load(order + n * W + lane), mask=lane < span, other=0.0)
            posterior, _ = tl.associative_scan((posterior, own), 0, add_runs)
            valid = (lane < span) & (own != following)
            posterior = tl.where(valid, posterior, 0.0)
            of_blank = tl.sum(tl.load(posteriors + span + lane, mask=lane < span, other=0.0), 0)
            of_blank += tl.load(posteriors + 2 * span)
            at = tl.where(valid, own, blank).to(tl.int64)
            if EXACT and not SCORES:
                slope, slope_blank = -posterior, -of_blank
            else:
                lp = tl.load(row + at * class_stride).to(tl.float64) - top
                lp_blank = tl.load(row + blank.to(tl.int64) * class_stride).to(tl.float64) - top
                p, p_blank = libdevice.exp(lp) * unit, libdevice.exp(lp_blank) * unit
                slope, slope_blank = p - posterior, p_blank - of_blank
                # The likeliest class: p - posterior = (1 - posterior) - (1 - p) without the rounding of 1 - x.
                likely = valid & (p > 0.5)
                likely_blank = p_blank > 0.5
                if tl.sum(likely.to(tl.int32), 0) + likely_blank.to(tl.int32) == 1:
                    rest = tl.sum(tl.where(likely, 0.0, posterior), 0) + tl.where(likely_blank, 0.0, of_blank)
                    if SCORES:
                        rest -= others * unit
                        slope = tl.where(likely, rest, slope)
                        slope_blank = tl.where(likely_blank, rest, slope_blank)
                    else:
                        slope = tl.where(likely, rest + libdevice.expm1(lp), slope)
                        slope_blank = tl.where(likely_blank, rest + libdevice.expm1(lp_blank), slope_blank)
            tl.debug_barrier()  # the row is written by other threads
            tl.store(to + at * to_class, (slope * scale).to(T).to(gradient.dtype.element_ty), mask=valid)
            slope_blank = (slope_blank * scale).to(T).to(gradient.dtype.element_ty)
            tl.store(to + blank.to(tl.int64) * to_class, slope_blank)
        else:
            for begin in range(0, vocabulary, BLOCK):
                c = (begin + tl.arange(0, BLOCK)).to(tl.int64)
                fill = tl.where(nan, float("nan"), tl.zeros((BLOCK,), tl.float32))
                tl.store(to + c * to_class, fill.to(gradient.dtype.element_ty), mask=c < vocabulary)


def why_not(plan: Plan, arguments: Arguments) -> str | None:
    """Why there is no kernel for this call."""
    return None


def run(call: Call, wanted: int, upstream: Tensor | None, into: Sequence[Tensor | None] | None) -> Outputs:
    """Value and gradient; with `upstream`, the gradient only: a new one, or the one in `into` where it is not 1."""
    plan, device = call.plan, call.operands[0].device
    x, targets = call.operands[0], call.operands[1]
    number = number_of(plan, (*x.shape, *targets.shape)) if call.checked else 0
    each, value = plan.reduction == "none", upstream is None
    gradient = into[0] if into else torch.empty_like(x) if wanted else None
    place = gradient
    batched = x.ndim == 3
    if not batched:
        x, targets, place = x.unsqueeze(1), targets.unsqueeze(0), None if place is None else place.unsqueeze(1)
    samples = x.shape[1]
    most = _most(x, targets, call.operands[3])
    # Copied without waiting: safe, because kernels run after the copy.
    lengths = [x.to(device, non_blocking=device.type == "cuda").expand(samples) for x in call.operands[2:]]
    weight, mask, each_upstream = (
        None if extra is None else extra.expand(samples)
        for extra in (call.sample_weight, call.mask, upstream if each else None)
    )
    denominator, divisor = denominator_of(call, samples)
    values = torch.empty(samples, dtype=call.result, device=device) if each and value else None
    sums = torch.empty(samples, dtype=torch.float64, device=device) if value and not each else None
    if samples:
        _launch(call, x, targets, lengths, weight, mask, each_upstream, upstream, denominator, divisor, values, sums,
                place, into is not None, number, most)  # fmt: skip
    if values is not None and not batched:
        values = values.squeeze(0)
    loss = values if sums is None else finish(call, sums, divisor, denominator)
    return Outputs(loss, [gradient, None, None, None])


def _most(x: Tensor, targets: Tensor, lengths: Tensor) -> int:
    """An upper bound of the labels in a lattice, from what the host knows."""
    most = min(targets.shape[-1], x.shape[0])  # a sample with more labels than frames has no alignment
    if lengths.device != x.device and lengths.is_cpu and lengths.numel():
        most = min(most, max(int(lengths.max()), 0))
    return most


def _launch(
    call: Call, x: Tensor, targets: Tensor, lengths: list[Tensor], weight: Tensor | None, mask: Tensor | None,
    each_upstream: Tensor | None, upstream: Tensor | None, denominator: Tensor | None, divisor: int,
    values: Tensor | None, sums: Tensor | None, gradient: Tensor | None, rewrite: bool, number: int,
    most: int,
) -> None:  # fmt: skip
    """All kernels, for at least one sample."""
    plan: Any = call.plan
    frames, samples, vocabulary = x.shape
    size, concatenated = targets.shape[-1], targets.ndim == 1
    width = max(power_of_2(most + 1), 8)
    kind = TYPES[call.compute]

    def empty(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    facts = empty(samples, 6, dtype=torch.int64)
    labels, classes, order = empty(3, samples, width, dtype=torch.int32)
    own_weight = 0 if weight is None else weight.stride(0)
    read_kernel[(samples,)](
        targets, *lengths, mask, upstream if rewrite else None, record_of(x.device), facts, labels, classes, order,
        number, samples, frames, vocabulary, plan.blank, size, most, 0 if concatenated else targets.stride(0),
        targets.stride(-1), lengths[0].stride(0), lengths[1].stride(0), 0 if mask is None else mask.stride(0),
        concatenated, call.checked, rewrite, 128, width, **OPTIONS,
    )  # fmt: skip
    statistics = empty(frames, samples, 3) if plan.scores else facts
    strides = x.stride()
    block = min(power_of_2(vocabulary), 1024)
    # Each frame has a row: of the sample's labels and a blank (emissions), or of its states (masses).
    spans = size if concatenated else most * samples
    emissions, emissions_e = empty(frames * (spans + samples)), empty(frames * (spans + samples), dtype=torch.int32)
    if frames:
        rows = max(1, 1024 // max(block, width))
        frames_kernel[(cdiv(frames * samples, rows),)](
            x, facts, labels, classes, statistics, emissions, emissions_e, record_of(x.device),
            number, samples, frames, frames * samples, vocabulary, plan.blank, *strides,
            log_probability_domain.high if call.checked and not plan.scores else None,
            plan.scores, kind, rows, block, width, **OPTIONS,
        )  # fmt: skip
    count = frames * (2 * spans + samples) if gradient is not None else 0
    masses, masses_e = empty(count), empty(count, dtype=torch.int32)
    ends, ends_e = empty(samples, 2, 2 * width), empty(samples, 2, 2 * width, dtype=torch.int32)
    warps = min(max(width // 32, 1), 16)
    meet_kernel[(samples, 2)](
        facts, labels, emissions, emissions_e, masses, masses_e, ends, ends_e, frames,
        gradient is not None, width, num_warps=warps, **OPTIONS,
    )  # fmt: skip
    losses = empty(samples)
    part_kernel[(samples, 1 if gradient is None else 2)](
        x, facts, labels, statistics, emissions, emissions_e, masses, masses_e, ends, ends_e, weight,
        losses, values, sums, samples, frames, plan.blank, *strides, own_weight,
        plan.scores, gradient is not None, plan.reduction == "mean", plan.zero_infinity,
        2.0**-12 if call.compute == torch.float32 else 1.0, width,
        num_warps=warps, **OPTIONS,
    )  # fmt: skip
    if gradient is not None and frames:
        block = min(power_of_2(vocabulary), 2048)
        gradient_kernel[(frames * samples,)](
            x, facts, classes, order, statistics, masses, losses, weight, each_upstream,
            None if plan.reduction == "none" else upstream, denominator, gradient,
            samples, frames, vocabulary, plan.blank, divisor, *strides, own_weight,
            0 if each_upstream is None else each_upstream.stride(0), *gradient.stride(),
            plan.scores, plan.exact, plan.reduction == "mean", kind, block, width,
            num_warps=min(max(max(block, width) // 256, 1), 8), **OPTIONS,
        )  # fmt: skip
