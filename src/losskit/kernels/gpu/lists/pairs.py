"""Passes over the pairs of a list: ranks and gains, then values and slopes."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels import wire
from losskit.kernels.gpu.shared import entry
from losskit.kernels.gpu.violations import report

LOG_2, PER_LOG_2 = tl.constexpr(0.6931471805599453), tl.constexpr(1.4426950408889634)
RELEVANCE = tl.constexpr(int(wire.ListsViolation.RELEVANCE))
(DIFFERENCE, RELEVANCE_DIFFERENCE, GAIN_DIFFERENCE, DISCOUNT_DIFFERENCE, DISTANCE_DISCOUNT, RANK, OTHER_RANK) = (
    tl.constexpr(int(x)) for x in wire.ListsStatistic
)
COUNTS, WRONG = tl.constexpr(1), tl.constexpr(2)  # bits of a list: it has a pair, or what may be one; it is NaN


@triton.jit
def items_of(scores, relevance, items, row, column, there, steps, T: tl.constexpr):
    """Scores and relevance of a list's items, and which items there are."""
    if items is not None:
        there = there & (tl.load(items + row * steps[4] + column * steps[5], mask=there, other=0) != 0)
    score = tl.load(scores + row * steps[0] + column * steps[1], mask=there, other=0).to(T)
    grade = tl.load(relevance + row * steps[2] + column * steps[3], mask=there, other=0)
    if relevance.dtype.element_ty == tl.int1:
        grade = grade.to(tl.int32)  # as a bit, 1 is less than 0
    elif relevance.dtype.element_ty.is_floating() and relevance.dtype.element_ty.primitive_bitwidth == 16:
        grade = grade.to(tl.float32)
    return score, grade, there


# ---------------------------------------------------------------------------------------------------------
# Ranks and gains


@triton.jit
def discount_of(rank):
    """The reciprocal of the binary logarithm of 1 + rank."""
    return 1.0 / (libdevice.log(1.0 + rank.to(tl.float64)) * PER_LOG_2)


@triton.jit(do_not_specialize=["most"])
def ranks_kernel(
    scores, relevance, items, upstream, ranks, discounts, gains, best, distances, width, tiles, most, steps,
    T: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The ranks of some items and their discounts; gains, and each program's part of the largest DCG; and what one rank
    more changes in a discount, by distance."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) // tiles
        own = (tl.program_id(0) % tiles).to(INDEX) * ROWS + tl.arange(0, ROWS)
        score, grade, there = items_of(scores, relevance, items, row, own, own < width, steps, T)
        rank, place = tl.zeros((ROWS,), tl.int32), tl.zeros((ROWS,), tl.int32)
        highest = tl.full((), float("-inf"), tl.float64)
        for start in range(0, width, BLOCK):
            other = (start + tl.arange(0, BLOCK)).to(INDEX)
            theirs, worth, present = items_of(scores, relevance, items, row, other, other < width, steps, T)
            earlier = other[None, :] < own[:, None]
            before = (theirs[None, :] > score[:, None]) | ((theirs[None, :] == score[:, None]) & earlier)
            rank += tl.sum((before & present[None, :]).to(tl.int32), 1)
            if gains is not None:
                better = (worth[None, :] > grade[:, None]) | ((worth[None, :] == grade[:, None]) & earlier)
                place += tl.sum((better & present[None, :]).to(tl.int32), 1)
                highest = tl.maximum(highest, tl.max(tl.where(present, worth.to(tl.float64), float("-inf")), 0))
        at = row * width + own
        tl.store(ranks + at, rank + 1, mask=own < width)
        if discounts is not None:
            tl.store(discounts + at, discount_of(rank + 1), mask=own < width)
        if gains is not None:  # all are times a power of two, so that 2^relevance may overflow
            exponent = tl.where(there, grade.to(tl.float64) - highest, 0.0)
            gain = libdevice.pow(tl.full((ROWS,), 2.0, tl.float64), exponent)
            gain = tl.where(there, gain * -libdevice.expm1(grade.to(tl.float64) * -LOG_2), 0.0)
            tl.store(gains + at, gain, mask=own < width)
            tl.store(best + tl.program_id(0), tl.sum(tl.where(place < most, gain * discount_of(place + 1), 0.0), 0))
        if distances is not None:
            apart, alone = tl.maximum(own, 1), tl.where(row == 0, width, 0)
            tl.store(distances + own, discount_of(apart) - discount_of(apart + 1), mask=own < alone)


# ---------------------------------------------------------------------------------------------------------
# Pairs


@triton.jit
def spoken(
    difference, relevance, gain, discount, other_gain, other_discount, distances, rank, other_rank, first, pairs,
    K: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """What a statistic is of pairs; 1 where there is none. first: the program's item is the more relevant one."""
    if K == RELEVANCE_DIFFERENCE:
        x = relevance.to(T)
    elif K == GAIN_DIFFERENCE:
        x = tl.abs(gain[:, None] - other_gain[None, :]).to(T)
    elif K == DISCOUNT_DIFFERENCE:
        x = tl.abs(discount[:, None] - other_discount[None, :]).to(T)
    elif K == DISTANCE_DISCOUNT:
        x = tl.load(distances + tl.abs(rank[:, None] - other_rank[None, :]), mask=pairs, other=1.0).to(T)
    elif K == RANK:
        x = tl.where(first, rank[:, None], other_rank[None, :]).to(T)
    elif K == OTHER_RANK:
        x = tl.where(first, other_rank[None, :], rank[:, None]).to(T)
    else:
        x = difference
    return tl.where(pairs, x, 1.0).to(T)


@triton.jit
def pairs_of(
    scores, relevance, items, ranks, discounts, gains, distances, numbers, row, own, there, score, grade, rank,
    discount, gain, largest, width, most, steps,
    EVALUATE: tl.constexpr, ORDER: tl.constexpr, T: tl.constexpr, S: tl.constexpr, INDEX: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """For each of some items: the values of the pairs in which it is the more relevant one, its slope in all, how many
    the first ones are, and whether some other item differs in relevance."""
    total, slopes = tl.zeros(own.shape, tl.float64), tl.zeros(own.shape, tl.float64)
    number, differs = tl.zeros(own.shape, tl.int32), tl.zeros(own.shape, tl.int32)
    for start in range(0, width, BLOCK):
        other = (start + tl.arange(0, BLOCK)).to(INDEX)
        theirs, worth, present = items_of(scores, relevance, items, row, other, other < width, steps, T)
        first = grade[:, None] > worth[None, :]
        pairs = (first | (grade[:, None] < worth[None, :])) & there[:, None] & present[None, :]
        differs = differs | tl.max(pairs.to(tl.int32), 1)
        their_rank, their_discount, their_gain = rank, discount, gain
        if ranks is not None:
            their_rank = tl.load(ranks + row * width + other, mask=present, other=1)
            pairs = pairs & (rank <= most)[:, None] & (their_rank <= most)[None, :]
        if discounts is not None:
            their_discount = tl.load(discounts + row * width + other, mask=present, other=1.0)
        if gains is not None:
            their_gain = tl.load(gains + row * width + other, mask=present, other=0.0) / largest
        apart = score.to(T)[:, None] - theirs[None, :]
        apart = tl.where(first, apart, -apart)
        graded = tl.abs(grade.to(tl.float64)[:, None] - worth.to(tl.float64)[None, :])
        o0 = spoken(
            apart, graded, gain, discount, their_gain, their_discount, distances, rank, their_rank, first, pairs,
            entry(ORDER, 0), T,
        )  # fmt: skip
        o1 = spoken(
            apart, graded, gain, discount, their_gain, their_discount, distances, rank, their_rank, first, pairs,
            entry(ORDER, 1), T,
        )  # fmt: skip
        o2 = spoken(
            apart, graded, gain, discount, their_gain, their_discount, distances, rank, their_rank, first, pairs,
            entry(ORDER, 2), T,
        )  # fmt: skip
        o3 = spoken(
            apart, graded, gain, discount, their_gain, their_discount, distances, rank, their_rank, first, pairs,
            entry(ORDER, 3), T,
        )  # fmt: skip
        o4 = spoken(
            apart, graded, gain, discount, their_gain, their_discount, distances, rank, their_rank, first, pairs,
            entry(ORDER, 4), T,
        )  # fmt: skip
        o5 = spoken(
            apart, graded, gain, discount, their_gain, their_discount, distances, rank, their_rank, first, pairs,
            entry(ORDER, 5), T,
        )  # fmt: skip
        o6 = spoken(
            apart, graded, gain, discount, their_gain, their_discount, distances, rank, their_rank, first, pairs,
            entry(ORDER, 6), T,
        )  # fmt: skip
        value, slope, _, _, _, _, _, _ = EVALUATE(o0, o1, o2, o3, o4, o5, o6, numbers, T)
        total += tl.sum(tl.where(pairs & first, value, 0.0).to(S), 1).to(tl.float64)
        slopes += tl.sum(tl.where(pairs, tl.where(first, slope, -slope), 0.0).to(S), 1).to(tl.float64)
        number += tl.sum((pairs & first).to(tl.int32), 1)
    return total, slopes, number, differs


@triton.jit(do_not_specialize=["most", "number"])
def pairs_kernel(
    scores, relevance, items, mask, upstream, numbers, record, ranks, discounts, gains, best, distances,
    totals, counts, states, slopes, width, tiles, most, number, steps,
    EVALUATE: tl.constexpr, ORDER: tl.constexpr, T: tl.constexpr, S: tl.constexpr, CHECKED: tl.constexpr,
    REWRITE: tl.constexpr, INDEX: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The pairs of some items of a list: the sum of their values, how many they are, what the list is, and each item's
    slope. T, S: the types of differences and of sums."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) // tiles
        own = (tl.program_id(0) % tiles).to(INDEX) * ROWS + tl.arange(0, ROWS)
        inside, kept = own < width, width
        if mask is not None:  # what the mask hides is not read
            kept = tl.where(tl.load(mask + row * steps[6]) != 0, width, 0)
        score, grade, there = items_of(scores, relevance, items, row, own, own < kept, steps, T)
        at = row * width + own
        rank, discount, gain, largest = tl.zeros((ROWS,), tl.int32), grade, grade, 1.0
        if ranks is not None:
            rank = tl.load(ranks + at, mask=there, other=1)
        if discounts is not None:
            discount = tl.load(discounts + at, mask=there, other=1.0)
        if gains is not None:
            part = tl.zeros((TILES,), tl.float64)
            for start in range(0, tiles, TILES):
                which = start + tl.arange(0, TILES)
                part += tl.load(best + row * tiles + which, mask=which < tiles, other=0.0)
            largest = tl.sum(part, 0)
            largest = tl.where(largest > 0, largest, 1.0)
            gain = tl.load(gains + at, mask=there, other=0.0) / largest
        total, slope, pairs, differs = pairs_of(
            scores, relevance, items, ranks, discounts, gains, distances, numbers, row, own, there, score, grade, rank,
            discount, gain, largest, kept, most, steps, EVALUATE, ORDER, T, S, INDEX, BLOCK,
        )  # fmt: skip
        if score.dtype == tl.float32:
            finite = tl.abs(total) + tl.abs(slope) < float("inf")
            if tl.min(finite.to(tl.int32), 0) == 0:
                total, slope, _, _ = pairs_of(
                    scores, relevance, items, ranks, discounts, gains, distances, numbers, row, own, there, score,
                    grade, rank, discount, gain, largest, kept, most, steps, EVALUATE, ORDER, tl.float64, tl.float64,
                    INDEX, BLOCK,
                )  # fmt: skip
        nan = there & (grade != grade)
        bad = there & (own < 0)
        if CHECKED:
            bad = there & (grade < 0)
            report(record, bad.to(tl.int32) * RELEVANCE, grade, at, number)
        wrong = nan | bad | (there & (score != score))
        state = tl.where((differs != 0) | nan | bad, COUNTS, 0) | tl.where(wrong, WRONG, 0)
        tl.store(totals + tl.program_id(0), tl.sum(total, 0))
        tl.store(counts + tl.program_id(0), tl.sum(pairs, 0).to(tl.int32))
        tl.store(states + tl.program_id(0), tl.max(state & COUNTS, 0) | tl.max(state & WRONG, 0))
        if slopes is not None:
            tl.store(slopes + at, tl.where(there, slope, 0.0), mask=inside)
