"""A sample's chains: forward to the loss, and backward to the gradient by its emissions and ends."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels.gpu.crf.steps import (
    FACTS,
    FARTHEST,
    IMPROBABLE,
    NO_TAG,
    SIZES,
    STATUS,
    STEPS,
    STRANGE,
    UPSTREAM,
    WEIGHT,
    sample_of,
)
from losskit.kernels.gpu.masses import (
    ASLEEP,
    BAD,
    DOWN,
    FINE,
    IMPOSSIBLE,
    MASKED,
    NONE,
    add,
    logarithm,
    normal,
    scaled,
    share,
)
from losskit.kernels.gpu.rows import narrow
from losskit.kernels.gpu.sequences import scale_of, weight_of, write_loss


@triton.jit
def aligned(m, d):
    """A product of two mantissas in units of an exponent that is larger by -d."""
    return tl.where(d == 0, m, tl.where(d == -1, m * DOWN, tl.where(d == -2, (m * DOWN) * DOWN, 0.0)))


@triton.jit
def product(m, e, matrix, matrix_e):
    """The sum, over the first dimension, of masses times those of a matrix."""
    m, e = m * matrix, e + matrix_e
    most = tl.max(e, 0)
    return normal(tl.sum(aligned(m, e - most[None, :]), 0), most)


@triton.jit
def with_right(m, e, here):
    """Masses of the chains that have left the right one, and the right one's, which is 1."""
    m, e = add(m, e, tl.where(here, 1.0, 0.0).to(tl.float64), tl.where(here, 0, NONE))
    return normal(m, e)


@triton.jit
def tile_of(matrix, matrix_e, tags, begin, TURNED: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr):
    """Columns of the transitions' masses, or rows turned into columns."""
    i, j = tl.arange(0, K)[:, None], begin + tl.arange(0, COLUMNS)[None, :]
    at = j * tags + i if TURNED else i * tags + j
    inside = (i < tags) & (j < tags)
    return tl.load(matrix + at, mask=inside, other=0.0), tl.load(matrix_e + at, mask=inside, other=NONE)


@triton.jit
def row_of(m, e, at, inside):
    return tl.load(m + at, mask=inside, other=0.0), tl.load(e + at, mask=inside, other=NONE)


@triton.jit
def keep(to, to_e, at, m, e, inside):
    tl.store(to + at, m, mask=inside)
    tl.store(to_e + at, e, mask=inside)


@triton.jit
def times(m, e, own, own_e):
    """A mass times another. A sum of exponents, over many steps, might end beyond an int32."""
    return normal(m * own, tl.minimum(e + own_e, -NONE))


@triton.jit
def into(m, e, every, every_e, tile, tile_e, last, right, c, K: tl.constexpr):
    """The masses that flow into some columns. Of what comes from the right tag to the next right one, only that counts
    which had left the right chain before."""
    stays = (tl.arange(0, K) == last)[:, None] & (c == right)[None, :]
    weights = tl.where(stays, m[:, None], every[:, None])
    return product(weights, tl.where(stays, e[:, None], every_e[:, None]), tile, tile_e)


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    target, lengths, mask, sample_weight, upstream, matrix, matrix_e, facts, own, own_e, before, before_e,
    row, row_e, totals, totals_e, values, sums, counts, steps, tags, several, target_step, extra_step,
    KEEP: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """A sample's loss, what becomes of it, and the masses of the chains that have left the right one."""
    n = tl.program_id(0).to(tl.int64)
    counted, length, bad = sample_of(n, lengths, mask, steps, extra_step)
    bad = bad | (tl.load(facts + n * FACTS + NO_TAG) != 0)
    used = tl.where(bad | (counted == 0), 0, length).to(tl.int32)
    asleep = n < 0
    if upstream is not None:
        asleep = tl.load(upstream) == 1.0
    loss = tl.full((), float("nan"), tl.float64)
    spoken = tl.where(bad, steps, used).to(tl.int64)
    status = tl.where(bad, BAD, FINE)
    if (used > 0) & (asleep == 0):
        k, inside = tl.arange(0, K), tl.arange(0, K) < tags
        matrix += n * several * tags * tags
        matrix_e += n * several * tags * tags
        place = n * steps * tags + k
        target += n * target_step[0]
        ahead = used.to(tl.int64) * 0 + tl.where(used > 1, 1, 0)
        right = tl.load(target).to(tl.int32)
        m, e = row_of(own, own_e, place, inside)
        m, e = tl.where(k == right, 0.0, m), tl.where(k == right, NONE, e)
        # Loads are issued two steps ahead.
        right1 = tl.load(target + ahead * target_step[1]).to(tl.int32)
        p1, p1_e = row_of(own, own_e, place + ahead * tags, inside)
        ahead += tl.where(used > 2, 1, 0)
        right2 = tl.load(target + ahead * target_step[1]).to(tl.int32)
        p2, p2_e = row_of(own, own_e, place + ahead * tags, inside)
        if KEEP:
            keep(before, before_e, place, m, e, inside)
        if COLUMNS == K:
            tile, tile_e = tile_of(matrix, matrix_e, tags, 0, False, K, K)
        for t in range(1, used):
            last, right, p, p_e = right, right1, p1, p1_e
            right1, p1, p1_e = right2, p2, p2_e
            ahead += tl.where(t + 2 < used, 1, 0)
            right2 = tl.load(target + ahead * target_step[1]).to(tl.int32)
            p2, p2_e = row_of(own, own_e, n * steps * tags + k + ahead * tags, inside)
            every, every_e = with_right(m, e, k == last)
            if COLUMNS == K:
                m, e = into(m, e, every, every_e, tile, tile_e, last, right, k, K)
            else:
                for begin in range(0, tags, COLUMNS):
                    c = begin + tl.arange(0, COLUMNS)
                    tile, tile_e = tile_of(matrix, matrix_e, tags, begin, False, K, COLUMNS)
                    some, some_e = into(m, e, every, every_e, tile, tile_e, last, right, c, K)
                    keep(row, row_e, n * tags + c, some, some_e, c < tags)
                tl.debug_barrier()  # other threads have written the columns
                m, e = row_of(row, row_e, n * tags + k, inside)
                tl.debug_barrier()
            m, e = times(m, e, p, p_e)
            place += tags
            if KEEP:
                keep(before, before_e, place, m, e, inside)
        most = tl.max(e, 0)
        rest, rest_e = normal(tl.sum(scaled(m, e - most), 0), most)
        far = rest_e > 0
        loss = tl.where(far, logarithm(tl.where(far, rest, 1.0), rest_e), libdevice.log1p(scaled(rest, rest_e)))
        none = (tl.load(facts + n * FACTS + IMPROBABLE) != 0) | (loss > FARTHEST)
        loss = tl.where(none, float("inf"), loss)
        loss = tl.where(tl.load(facts + n * FACTS + STRANGE) != 0, float("nan"), loss)
        status = tl.where(loss != loss, BAD, tl.where(none, IMPOSSIBLE, FINE))
        total, total_e = with_right(rest, rest_e, rest_e == rest_e)
        tl.store(totals + n, total)
        tl.store(totals_e + n, total_e)
    status = tl.where(counted, status, MASKED)
    status = tl.where(asleep, ASLEEP, status)
    tl.store(facts + n * FACTS + STATUS, status.to(tl.int64))
    tl.store(facts + n * FACTS + STEPS, spoken)
    write_loss(loss, weight_of(sample_weight, n * extra_step[WEIGHT]), n, counted, values, sums, counts)


@triton.jit(do_not_specialize=["divisor", *SIZES])
def backward_kernel(
    target, sample_weight, each_upstream, upstream, denominator, matrix, matrix_e, facts, own, own_e, before, before_e,
    row, row_e, totals, totals_e, scales, gradient, by_start, by_end, divisor, steps, tags, several,
    target_step, extra_step, gradient_step,
    PAIRS: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The gradient of a sample's emissions and ends. What follows a move takes the place of the masses of its step."""
    n = tl.program_id(0).to(tl.int64)
    status, spoken = tl.load(facts + n * FACTS + STATUS), tl.load(facts + n * FACTS + STEPS)
    if status != ASLEEP:
        k, inside = tl.arange(0, K), tl.arange(0, K) < tags
        across = n * gradient_step[0] + k.to(tl.int64) * gradient_step[2]
        weigh = weight_of(sample_weight, n * extra_step[WEIGHT])
        scale, live = scale_of(
            status, weigh, each_upstream, n * extra_step[UPSTREAM], upstream, denominator, divisor
        )  # fmt: skip
        tl.store(scales + n, scale)
        length = tl.where(live, spoken, 0).to(tl.int32)
        if length > 0:
            matrix += n * several * tags * tags
            matrix_e += n * several * tags * tags
            total, total_e = tl.load(totals + n), tl.load(totals_e + n)
            inverse = 1.0 / total
            target += n * target_step[0]
            place, ahead = n * steps * tags + k, spoken - 1
            here = place + ahead * tags
            m, e = tl.where(inside, 1.0, 0.0).to(tl.float64), tl.where(inside, 0, NONE)
            right1 = tl.load(target + ahead * target_step[1]).to(tl.int32)
            p1, p1_e = row_of(own, own_e, here, inside)
            q1, q1_e = row_of(before, before_e, here, inside)
            ahead -= tl.where(ahead > 0, 1, 0)
            right2 = tl.load(target + ahead * target_step[1]).to(tl.int32)
            p2, p2_e = row_of(own, own_e, place + ahead * tags, inside)
            q2, q2_e = row_of(before, before_e, place + ahead * tags, inside)
            if COLUMNS == K:
                tile, tile_e = tile_of(matrix, matrix_e, tags, 0, True, K, K)
            for back in range(length):
                t = spoken - 1 - back
                right, p, p_e, q, q_e = right1, p1, p1_e, q1, q1_e
                right1, p1, p1_e, q1, q1_e = right2, p2, p2_e, q2, q2_e
                ahead -= tl.where(ahead > 0, 1, 0)
                right2 = tl.load(target + ahead * target_step[1]).to(tl.int32)
                p2, p2_e = row_of(own, own_e, place + ahead * tags, inside)
                q2, q2_e = row_of(before, before_e, place + ahead * tags, inside)
                on, on_e = normal(q * m, q_e + e)
                slope = share(on, on_e, inverse, total_e)
                slope = tl.where(k == right, 0.0, slope)
                slope = tl.where(k == right, -tl.sum(slope, 0), slope) * scale
                if gradient is not None:
                    tl.store(gradient + t * gradient_step[1] + across, narrow(slope, gradient), mask=inside)
                if by_start is not None:
                    tl.store(by_start + n * tags + k, narrow(slope, by_start), mask=inside & (t == 0))
                if by_end is not None:
                    tl.store(by_end + n * tags + k, narrow(slope, by_end), mask=inside & (back == 0))
                m, e = times(m, e, p, p_e)
                if PAIRS:
                    follows, follows_e = normal(m * inverse, e - total_e)
                    keep(own, own_e, here, follows, follows_e, inside)
                    here -= tags
                if COLUMNS == K:
                    m, e = product(m[:, None], e[:, None], tile, tile_e)
                else:
                    for begin in range(0, tags, COLUMNS):
                        c = begin + tl.arange(0, COLUMNS)
                        tile, tile_e = tile_of(matrix, matrix_e, tags, begin, True, K, COLUMNS)
                        some, some_e = product(m[:, None], e[:, None], tile, tile_e)
                        keep(row, row_e, n * tags + c, some, some_e, c < tags)
                    tl.debug_barrier()
                    m, e = row_of(row, row_e, n * tags + k, inside)
                    tl.debug_barrier()
        fill = tl.zeros((K,), tl.float64) + tl.where(scale != scale, scale, 0.0)
        if gradient is not None:
            for step in range(length, steps):
                t = n * 0 + step
                value = tl.where(t < spoken, fill, 0.0)
                tl.store(gradient + t * gradient_step[1] + across, narrow(value, gradient), mask=inside)
        if by_start is not None:
            tl.store(by_start + n * tags + k, narrow(fill, by_start), mask=inside & (length == 0))
        if by_end is not None:
            tl.store(by_end + n * tags + k, narrow(fill, by_end), mask=inside & (length == 0))
