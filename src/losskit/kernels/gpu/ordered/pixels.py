"""Pixels with a score for each class: the errors of their probabilities, and the gradient through the softmax.

Of the class of the label the error is the sum of the others' probabilities, which keeps its digits. With l that class,
sums in the gradient are over the others, and over differences of slopes to that of l.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels import wire
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.frame import factor_of
from losskit.kernels.gpu.ordered.keys import key_of
from losskit.kernels.gpu.rows import narrow
from losskit.kernels.gpu.violations import report

TILE = 1024  # numbers that a program takes at once; more where a softmax has more classes
CLASS_INDEX = tl.constexpr(int(wire.OrderedViolation.CLASS_INDEX))


@triton.jit
def errors_of(scores, labels, active, sample, pixel, each, classes, ignored, steps, WHOLE: tl.constexpr,
              T: tl.constexpr, CLASSES: tl.constexpr):  # fmt: skip
    """The errors of pixels, which of them count, their classes, and where each class is that of the label."""
    inside = (pixel < each) & active
    if WHOLE:
        at = labels + (sample * each + pixel) * steps[4]
    else:
        at = labels + sample * steps[3] + pixel * steps[4]
    label = tl.load(at, mask=inside, other=0).to(tl.int64)
    kept = inside & (label != ignored)
    column = tl.arange(0, CLASSES).to(pixel.dtype)
    there = kept[:, None] & (column < classes)[None, :]
    at = scores + sample * steps[0] + (pixel * steps[2])[:, None] + (column * steps[1])[None, :]
    z = tl.load(at, mask=there, other=0).to(T)
    z = tl.where((column < classes)[None, :], z, float("-inf")).to(T)
    top = tl.max(z, 1)[:, None]
    e = tl.where(z == top, 1.0, libdevice.exp(z - top)).to(T)
    e = tl.where(z == z, e, z).to(T)
    own = column[None, :] == label[:, None]
    others = tl.sum(tl.where(own, 0.0, e).to(T), 1)
    total = others + tl.sum(tl.where(own, e, 0.0).to(T), 1)
    share = lk.divide(tl.full(total.shape, 1.0, T), total)
    errors = tl.where(own, others[:, None], e) * share[:, None]
    return errors.to(T), kept, label, own, there


@triton.jit(do_not_specialize=["ignored", "number"])
def errors_kernel(
    scores, labels, mask, upstream, record, keys, lost, classes, each, width, blocks, ignored, number, steps,
    CHECKED: tl.constexpr, WHOLE: tl.constexpr, REWRITE: tl.constexpr, T: tl.constexpr, INDEX: tl.constexpr,
    PIXELS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """The keys of the errors of some pixels, largest first; and whether one of them makes its set NaN."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        sample = (tl.program_id(0) // blocks).to(INDEX)
        pixel = ((tl.program_id(0) % blocks) * PIXELS + tl.arange(0, PIXELS)).to(INDEX)
        column = tl.arange(0, CLASSES).to(INDEX)
        group, within = sample, pixel
        if WHOLE:
            group, within = sample * 0, sample * each + pixel
        active = pixel < each
        if mask is not None:  # the pixels of a set of which no class counts are not read
            counts = tl.load(mask + (group * classes + column) * steps[5], mask=column < classes, other=0)
            active = active & (pixel < tl.where(tl.max((counts != 0).to(tl.int32), 0) > 0, each, 0))
        errors, kept, label, _, there = errors_of(
            scores, labels, active, sample, pixel, each, classes, ignored, steps, WHOLE, T, CLASSES
        )  # fmt: skip
        bad = kept & ((label < 0) | (label >= classes))
        if CHECKED:
            report(record, tl.where(bad, CLASS_INDEX, 0), label, sample * each + pixel, number)
        wrong = tl.max((there & (errors != errors)).to(tl.int32), 1) | bad.to(tl.int32)
        tl.store(lost + tl.program_id(0), tl.max(wrong, 0))
        inside = (pixel < each)[:, None] & (column < classes)[None, :]
        key = tl.where(there, ~key_of(errors), 0).to(keys.dtype.element_ty)
        tl.store(keys + within[:, None] + ((group * classes + column) * width)[None, :], key, mask=inside)


@triton.jit(do_not_specialize=["ignored", "divisor"])
def gradient_kernel(
    scores, labels, upstream, denominator, slopes, factors, gradient, classes, each, width, blocks, ignored, divisor,
    steps,
    WHOLE: tl.constexpr, REWRITE: tl.constexpr, T: tl.constexpr, INDEX: tl.constexpr, PIXELS: tl.constexpr,
    CLASSES: tl.constexpr,
):  # fmt: skip
    """The gradient of some pixels. slopes: by the probabilities, without the factors of their classes."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        sample = (tl.program_id(0) // blocks).to(INDEX)
        pixel = ((tl.program_id(0) % blocks) * PIXELS + tl.arange(0, PIXELS)).to(INDEX)
        column = tl.arange(0, CLASSES).to(INDEX)
        group, within = sample, pixel
        if WHOLE:
            group, within = sample * 0, sample * each + pixel
        factor = factor_of(upstream, denominator, divisor, tl.float64)
        weigh = tl.load(factors + group * classes + column, mask=column < classes, other=0.0)
        learns = weigh != 0
        if denominator is not None:  # a mean over nothing has no gradient
            learns = learns & (column < tl.where(factor == 0, 0, classes))
        active = pixel < tl.where(tl.max(learns.to(tl.int32), 0) > 0, each, 0)
        errors, _, _, own, there = errors_of(
            scores, labels, active, sample, pixel, each, classes, ignored, steps, WHOLE, T, CLASSES
        )  # fmt: skip
        at = slopes + within[:, None] + ((group * classes + column) * width)[None, :]
        slope = tl.load(at, mask=there & learns[None, :], other=0.0).to(tl.float64) * (weigh * factor)[None, :]
        slope = tl.where(learns[None, :], slope, 0.0).to(tl.float64)
        slope -= tl.sum(tl.where(own, slope, 0.0).to(tl.float64), 1)[:, None]
        wide = errors.to(tl.float64)
        pull = tl.sum(tl.where(own, 0.0, wide * slope).to(tl.float64), 1)[:, None]
        result = tl.where(own, (1.0 - wide) * -pull, wide * (slope - pull))
        result = tl.where(there, result, 0.0).to(tl.float64)
        inside = (pixel < each)[:, None] & (column < classes)[None, :]
        at = gradient + sample * classes * each + pixel[:, None] + (column * each)[None, :]
        tl.store(at, narrow(result, gradient), mask=inside)
