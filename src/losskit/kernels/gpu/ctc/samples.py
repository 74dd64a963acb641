"""Samples: their lengths and labels, and what is wrong with them."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels.gpu.ctc.masses import (
    BEGIN,
    FACTS,
    FRAMES,
    INPUT_LENGTH,
    LABEL,
    LENGTH,
    NAN,
    SIZES,
    SPAN,
    STATUS,
    TARGET_LENGTH,
)
from losskit.kernels.gpu.masses import ASLEEP, BAD, FINE, IMPOSSIBLE, MASKED
from losskit.kernels.gpu.violations import report


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
