"""The formula of statistics of a row, its terms for classes with a share of their own, the gradient by scores."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels import wire
from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.shared import MAX_INT32, entry

OF_LOG, OF_LSE, OF_MEAN = (tl.constexpr(int(x)) for x in wire.ClassScoresStatistic)
NONE = tl.constexpr(MAX_INT32)  # no class


@triton.jit
def operand(logs, lse, mean, K: tl.constexpr):
    if K == OF_LSE:
        x = lse
    elif K == OF_MEAN:
        x = mean
    else:
        x = logs
    return x


@triton.jit
def derivative(value, a, b, c, ORDER: tl.constexpr, K: tl.constexpr):
    """The derivative by statistic K."""
    if entry(ORDER, 0) == K:
        found = a
    elif entry(ORDER, 1) == K:
        found = b
    elif entry(ORDER, 2) == K:
        found = c
    else:
        found = tl.zeros_like(value)
    return found


@triton.jit
def evaluated(logs, lse, mean, numbers, EVALUATE: tl.constexpr, ORDER: tl.constexpr, T: tl.constexpr):
    """The formula of blocks of statistics and its three derivatives. ORDER: the statistics it takes; 0 is -logs."""
    if ORDER == 0:
        value = -logs
        by_log = tl.full(logs.shape, -1.0, T)
        by_lse, by_mean = tl.zeros_like(logs), tl.zeros_like(logs)
    else:
        first = operand(logs, lse, mean, entry(ORDER, 0))
        second = operand(logs, lse, mean, entry(ORDER, 1))
        third = operand(logs, lse, mean, entry(ORDER, 2))
        value, a, b, c, _ = EVALUATE(first, second, third, first, numbers, T)
        by_log = derivative(value, a, b, c, ORDER, OF_LOG)
        by_lse = derivative(value, a, b, c, ORDER, OF_LSE)
        by_mean = derivative(value, a, b, c, ORDER, OF_MEAN)
    return value, by_log, by_lse, by_mean


@triton.jit
def shares_of(target, weight, own, at, c, there, classes, keep, even, stride, SOFT: tl.constexpr, SLACK: tl.constexpr,
              T: tl.constexpr, SPAN: tl.constexpr):  # fmt: skip
    """The share of each class of a block, and for each class its number if its probability is bad, else NONE."""
    if SOFT:
        q = tl.load(target + at[:, None] + (c.to(SPAN) * stride)[None, :], mask=there, other=0).to(T)
        outside = tl.where((q < -SLACK) | (q - 1.0 > SLACK), c[None, :], NONE)
        share = tl.where(there, q * keep + even, 0.0)
    else:
        outside = tl.full(there.shape, NONE, tl.int32)
        share = tl.where(there, tl.where(c[None, :] == own[:, None], keep + even, even), 0.0)
    if weight is not None:
        share = share * tl.load(weight + c, mask=c < classes, other=0).to(T)[None, :]
    return share.to(T), outside


@triton.jit
def terms_of(share, d, lse, mean, rest, there, numbers, EVALUATE: tl.constexpr, ORDER: tl.constexpr, T: tl.constexpr):
    """The formula of each class of a block, its shares of the value, and of the three derivatives."""
    logs = d - rest[:, None]
    like = tl.zeros_like(logs)
    value, by_log, by_lse, by_mean = evaluated(
        logs, lse[:, None] + like, mean[:, None] + like, numbers, EVALUATE, ORDER, T
    )
    term = tl.where(there, lk.times(share, value), 0.0).to(T)
    by_log = tl.where(there, lk.times(share, by_log), 0.0).to(T)
    by_lse = tl.where(there, lk.times(share, by_lse), 0.0).to(T)
    by_mean = tl.where(there, lk.times(share, by_mean), 0.0).to(T)
    return value, term, by_log, by_lse, by_mean


@triton.jit
def slopes_of(by_log, e, tops, rest, by_lse, by_mean, mean_slope, others, inverse, ORDER: tl.constexpr):
    """The gradient of a block of classes by their scores. tops, rest: sums of by_log at the pivot and elsewhere."""
    total = tops + rest
    p = e * inverse[:, None]
    of_pivot = ((by_log - tops[:, None]) - rest[:, None]) + (total * others * inverse)[:, None]
    slope = tl.where(p > 0.5, of_pivot, by_log - p * total[:, None])
    if ORDER != 0:
        slope += p * (by_lse - by_mean)[:, None] + mean_slope[:, None]
    return slope
