"""What kernels of samples that are sequences share: which samples have a loss, how it is written, and its factor."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels.gpu.frame import Frame, factor_of
from losskit.kernels.gpu.masses import BAD, FINE, MASKED
from losskit.kernels.gpu.rows import narrow


def divide(frame: Frame, samples: int, alike: bool) -> None:
    """Find the denominator of a mean. alike: every sample counts as one; else kernels find out which have a loss."""
    if frame.call.plan.reduction == "mean" and frame.call.normalizer is None and samples and not alike:
        frame.count(samples)
    else:
        frame.divide_by(samples)


@triton.jit
def weight_of(sample_weight, at):
    weigh = tl.full((), 1.0, tl.float64)
    if sample_weight is not None:
        weigh = tl.load(sample_weight + at).to(tl.float64)
    return weigh


@triton.jit
def write_loss(loss, weigh, n, counted, values, sums, counts):
    """Write a sample's loss, or its parts of the sum and of the denominator."""
    value = tl.where(counted, loss * weigh, 0.0)
    if counts is not None:
        tl.store(counts + n, tl.where(counted, weigh, 0.0))
    if sums is not None:
        tl.store(sums + n, value)
    if values is not None:
        tl.store(values + n, narrow(value, values))


@triton.jit
def scale_of(status, weigh, each_upstream, at, upstream, denominator, divisor):
    """What a sample's gradient is multiplied by: 0 where it has none, NaN where its loss is. A mean over nothing has no
    gradient."""
    factor = factor_of(upstream, denominator, divisor, tl.float64)
    if denominator is not None:
        status = tl.where(factor == 0, MASKED, status)
    scale = factor * weigh
    if each_upstream is not None:
        scale *= tl.load(each_upstream + at).to(tl.float64)
    return tl.where(status == FINE, scale, tl.where(status == BAD, float("nan"), 0.0)), status == FINE
