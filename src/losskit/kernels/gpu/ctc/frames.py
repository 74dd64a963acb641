"""Frames: their log-softmax, NaN in them, and the probabilities of the target's classes."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.ctc.masses import (
    BEGIN,
    FACTS,
    FRAMES,
    LOG_PROBABILITY,
    NAN,
    OTHERS,
    REST,
    SIZES,
    SPAN,
    STATISTICS,
    STATUS,
    TOP,
)
from losskit.kernels.gpu.masses import FINE, IMPOSSIBLE, emission
from losskit.kernels.gpu.violations import report


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
