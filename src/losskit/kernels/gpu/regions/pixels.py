"""Passes over pixels: what the scores are made, the sums of them, and the gradient."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels import wire
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.frame import factor_of
from losskit.kernels.gpu.rows import narrow
from losskit.kernels.gpu.shared import MAX_INT32
from losskit.kernels.gpu.violations import report

# Sums of a region: p t, p (1 - t), (1 - p) t; or the smaller of p and t, and what each has more than the other; or,
# with squares, p t, p^2, t^2, (p - t)^2.
SUMS = tl.constexpr(4)
PROBABILITY, CLASS_INDEX, TARGET = (tl.constexpr(int(x)) for x in wire.RegionsViolation)
SIGMOID, SOFTMAX = (tl.constexpr(int(x)) for x in (wire.Activation.SIGMOID, wire.Activation.SOFTMAX))
NONE = tl.constexpr(MAX_INT32)  # no class


@triton.jit
def activated(z, column, ACTIVATION: tl.constexpr, T: tl.constexpr):
    """The probabilities of scores, what is missing to 1, and which class is a softmax's pivot."""
    is_pivot = column[None, :] == NONE
    if ACTIVATION == SOFTMAX:
        largest = tl.max(z, 1)
        pivot = tl.min(tl.where(z == largest[:, None], column[None, :], NONE), 1)
        is_pivot = column[None, :] == pivot[:, None]
        e = tl.where(is_pivot, 0.0, libdevice.exp(z - largest[:, None])).to(T)
        rest = tl.sum(e, 1)
        share = lk.divide(tl.full(rest.shape, 1.0, T), 1.0 + rest)
        p = tl.where(is_pivot, share[:, None], e * share[:, None]).to(T)
        q = tl.where(is_pivot, (rest * share)[:, None], 1.0 - p).to(T)
    elif ACTIVATION == SIGMOID:
        e = libdevice.exp(-tl.abs(z))
        large = lk.divide_unit(tl.full(e.shape, 1.0, T), 1.0 + e)
        small = e * large
        p, q = tl.where(z < 0, small, large).to(T), tl.where(z < 0, large, small).to(T)
    else:
        p, q = z, 1.0 - z
    return p, q, is_pivot


@triton.jit
def labels_of(target, pixels, sample, pixel, inside, classes, ignored, steps, SOFT: tl.constexpr):
    """Which pixels count, their classes, and which of these are none."""
    kept = inside
    if pixels is not None:
        kept = kept & (tl.load(pixels + sample * steps[9] + pixel * steps[11], mask=kept, other=0) != 0)
    label, bad = tl.zeros(pixel.shape, tl.int64), tl.zeros(pixel.shape, tl.int1)
    if not SOFT:
        label = tl.load(target + sample * steps[6] + pixel * steps[8], mask=kept, other=0).to(tl.int64)
        kept = kept & (label != ignored)
        bad = kept & ((label < 0) | (label >= classes))
    return kept, label, bad


@triton.jit
def shares_of(target, sample, pixel, column, there, label, steps, SOFT: tl.constexpr, T: tl.constexpr):
    """How much of each pixel is of each class."""
    if SOFT:
        at = target + sample * steps[6] + (pixel * steps[8])[:, None] + (column.to(pixel.dtype) * steps[7])[None, :]
        share = tl.load(at, mask=there, other=0).to(T)
    else:
        share = (label[:, None] == column[None, :]).to(T)
    return share


@triton.jit
def scores_of(scores, sample, pixel, column, there, classes, steps, T: tl.constexpr):
    """Scores of some classes of some pixels; -inf where there is no class, zeros where none is to be read."""
    at = scores + sample * steps[0] + (pixel * steps[2])[:, None] + (column.to(pixel.dtype) * steps[1])[None, :]
    z = tl.load(at, mask=there, other=0).to(T)
    return tl.where((column < classes)[None, :], z, float("-inf")).to(T)


@triton.jit
def beyond(record, x, tensor, at, there, place, column, which: tl.constexpr, number, SLACK: tl.constexpr):
    """Which numbers are no probabilities; the first one is recorded. `at` and `place`: of a pixel's class 0, in memory
    and in the order of the dimensions; each a pair with the distance between classes."""
    bad = there & ((x < -SLACK) | (x - 1.0 > SLACK))
    first = tl.min(tl.where(bad, column[None, :], NONE), 1)
    some = first < NONE
    if tl.max(some.to(tl.int32), 0) > 0:
        found = tl.load(tensor + at[0] + first.to(at[0].dtype) * at[1], mask=some, other=0)
        report(record, tl.where(some, which, 0), found, place[0] + first.to(tl.int64) * place[1], number)
    return bad


@triton.jit(do_not_specialize=["ignored", "number", "tiles"])
def sums_kernel(
    scores, target, pixels, units, upstream, record, partial, seen,
    classes, background, each, blocks, tiles, ignored, number, steps, unit_steps,
    ACTIVATION: tl.constexpr, SQUARES: tl.constexpr, SMALLER: tl.constexpr, SOFT: tl.constexpr, CHECKED: tl.constexpr,
    INPUT_SLACK: tl.constexpr, TARGET_SLACK: tl.constexpr, REWRITE: tl.constexpr, T: tl.constexpr,
    INDEX: tl.constexpr, PIXELS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """The sums of `tiles` tiles of a sample's pixels, for some classes. units: which losses are masked."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        part = tl.program_id(0).to(INDEX)
        sample = part // blocks
        column = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
        real = (column < classes) & (column >= background)
        if units is not None:
            own = sample * unit_steps[0] + (column - background).to(INDEX) * unit_steps[1]
            real = real & (tl.load(units + own, mask=real, other=0) != 0)
        first = part % blocks * tiles * PIXELS
        end = tl.minimum(first + tiles * PIXELS, each)
        end = tl.where(tl.max(real.to(tl.int32), 0) > 0, end, first)  # what the mask hides is not read
        a0 = tl.zeros((PIXELS, CLASSES), tl.float64)
        a1, a2, a3 = a0, a0, a0
        some = tl.zeros((PIXELS,), tl.int32)
        for start in range(first, end, PIXELS):
            pixel = (start + tl.arange(0, PIXELS)).to(INDEX)
            kept, label, bad = labels_of(
                target, pixels, sample, pixel, pixel < each, classes, ignored, steps, SOFT
            )  # fmt: skip
            some = some | kept.to(tl.int32)
            there = kept[:, None] & (column < classes)[None, :]
            z = scores_of(scores, sample, pixel, column, there, classes, steps, T)
            t = shares_of(target, sample, pixel, column, there, label, steps, SOFT, T)
            p, q, _ = activated(z, column, ACTIVATION, T)
            wrong = bad[:, None] & (column < NONE)[None, :]
            if CHECKED:
                if not SOFT:
                    report(record, bad.to(tl.int32) * CLASS_INDEX, label, sample * each + pixel, number)
                counted = kept[:, None] & real[None, :]
                place = (sample * classes * each + pixel).to(tl.int64), each
                if (ACTIVATION != SIGMOID) & (ACTIVATION != SOFTMAX):
                    at = sample * steps[0] + pixel * steps[2], steps[1]
                    wrong = wrong | beyond(
                        record, z, scores, at, counted, place, column, PROBABILITY, number, INPUT_SLACK
                    )  # fmt: skip
                if SOFT:
                    at = sample * steps[6] + pixel * steps[8], steps[7]
                    wrong = wrong | beyond(record, t, target, at, counted, place, column, TARGET, number, TARGET_SLACK)
            p, q = tl.where(wrong, float("nan"), p).to(T), tl.where(wrong, float("nan"), q).to(T)
            apart = p * (1.0 - t) - q * t
            both = p * t
            if SMALLER:
                both = tl.where(apart < 0, p, t)
            a0 += tl.where(there, both, 0.0).to(T).to(tl.float64)
            if SMALLER:  # not maximum(): a NaN stays
                a1 += tl.where(there & ~(apart < 0), apart, 0.0).to(T).to(tl.float64)
                a2 += tl.where(there & ~(apart > 0), -apart, 0.0).to(T).to(tl.float64)
            elif SQUARES:
                a1 += tl.where(there, p * p, 0.0).to(T).to(tl.float64)
                a2 += tl.where(there, t * t, 0.0).to(T).to(tl.float64)
                a3 += tl.where(there, apart * apart, 0.0).to(T).to(tl.float64)
            else:
                a1 += tl.where(there, p * (1.0 - t), 0.0).to(T).to(tl.float64)
                a2 += tl.where(there, q * t, 0.0).to(T).to(tl.float64)
        at = partial + part * SUMS * classes + column
        tl.store(at, tl.sum(a0, 0), mask=column < classes)
        tl.store(at + classes, tl.sum(a1, 0), mask=column < classes)
        tl.store(at + 2 * classes, tl.sum(a2, 0), mask=column < classes)
        tl.store(at + 3 * classes, tl.sum(a3, 0), mask=column < classes)
        if tl.program_id(1) == 0:
            tl.store(seen + part, tl.max(some, 0))


@triton.jit(do_not_specialize=["ignored", "tiles", "divisor"])
def gradient_kernel(
    scores, target, pixels, upstream, denominator, slopes, gradient,
    classes, each, blocks, tiles, ignored, divisor, steps,
    ACTIVATION: tl.constexpr, SQUARES: tl.constexpr, SMALLER: tl.constexpr, SOFT: tl.constexpr, BATCH: tl.constexpr,
    REWRITE: tl.constexpr, T: tl.constexpr, INDEX: tl.constexpr, PIXELS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        part = tl.program_id(0).to(INDEX)
        sample = part // blocks
        column = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
        inside = column < classes
        factor = factor_of(upstream, denominator, divisor, tl.float64)
        at = slopes + column
        if not BATCH:
            at += sample * SUMS * classes
        f0 = (tl.load(at, mask=inside, other=0.0) * factor).to(T)[None, :]
        f1 = (tl.load(at + classes, mask=inside, other=0.0) * factor).to(T)[None, :]
        f2 = (tl.load(at + 2 * classes, mask=inside, other=0.0) * factor).to(T)[None, :]
        alive = tl.load(at + 3 * classes, mask=inside, other=0.0) != 0
        if denominator is not None:  # a mean over nothing has no gradient
            alive = alive & (column < tl.where(factor == 0, 0, classes))
        learns = alive
        if ACTIVATION == SOFTMAX:  # all classes, if one of them
            learns = column < tl.where(tl.max(alive.to(tl.int32), 0) > 0, classes, 0)
        first = part % blocks * tiles * PIXELS
        for start in range(first, tl.minimum(first + tiles * PIXELS, each), PIXELS):
            pixel = (start + tl.arange(0, PIXELS)).to(INDEX)
            kept, label, _ = labels_of(target, pixels, sample, pixel, pixel < each, classes, ignored, steps, SOFT)
            there = kept[:, None] & learns[None, :]
            z = scores_of(scores, sample, pixel, column, there, classes, steps, T)
            t = shares_of(target, sample, pixel, column, there, label, steps, SOFT, T)
            p, q, is_pivot = activated(z, column, ACTIVATION, T)
            apart = p * (1.0 - t) - q * t
            if SQUARES:
                slope = f0 * t + f1 * p + f2 * apart
            elif SMALLER:
                slope = tl.where(apart < 0, f0, tl.where(apart > 0, f1, 0.5 * (f0 + f1)))
            else:
                slope = t * f0 + (1.0 - t) * f1
            if ACTIVATION == SIGMOID:
                slope = slope * (p * q)
            if ACTIVATION == SOFTMAX:
                slope = tl.where(alive[None, :], slope, 0.0).to(T)
                slope -= tl.sum(tl.where(is_pivot, slope, 0.0).to(T), 1)[:, None]
                pull = tl.where(inside[None, :], p * slope, 0.0).to(T)
                slope = p * (slope - tl.sum(pull, 1)[:, None])
            place = gradient + sample * steps[3] + (pixel * steps[5])[:, None]
            place += (column.to(INDEX) * steps[4])[None, :]
            result = tl.where(there, slope, 0.0).to(T)
            tl.store(place, narrow(result, gradient), mask=(pixel < each)[:, None] & inside[None, :])
