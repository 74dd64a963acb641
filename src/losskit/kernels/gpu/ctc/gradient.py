"""The gradient of each frame."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.ctc.masses import (
    BEGIN,
    FACTS,
    FRAMES,
    LENGTH,
    OTHERS,
    SIZES,
    SPAN,
    STATISTICS,
    STATUS,
    TOP,
)
from losskit.kernels.gpu.frame import factor_of
from losskit.kernels.gpu.masses import ASLEEP, BAD, FINE, MASKED


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
