"""Passes along lists that are sorted, from the end and from the beginning (`lists` explains them)."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.frame import factor_of
from losskit.kernels.gpu.rows import narrow

MOST = tl.constexpr(1.7976931348623157e308)  # stands for infinity: the difference of two such scores is 0
SMALL = tl.constexpr(1e-290)  # an exponential that has lost its digits, or is 0


@triton.jit
def power(x, top):
    """exp(x - top), of a score and one that is not below it."""
    return tl.where(x == top, 1.0, lk.exp_of_difference(x, top)).to(tl.float64)


@triton.jit
def entry_of(x, here):
    """A row's number in one column, as a column."""
    return tl.sum(tl.where(here, x, 0).to(x.dtype), 1)[:, None]


@triton.jit
def elements_of(input, events, items, places, row, column, inside, width, steps, INDEX: tl.constexpr):
    """Elements in their order: places, scores, which of them count, and which have a loss."""
    place = tl.load(places + (row * width)[:, None] + column[None, :], mask=inside, other=0).to(INDEX)
    there = inside
    if items is not None:
        there = there & (tl.load(items + (row * steps[6])[:, None] + place * steps[7], mask=there, other=0) != 0)
    event = there
    if events is not None:
        event = there & (tl.load(events + (row * steps[4])[:, None] + place * steps[5], mask=there, other=0) != 0)
    x = tl.load(input + (row * steps[0])[:, None] + place * steps[1], mask=there, other=0).to(tl.float64)
    return place, x, there, event


@triton.jit
def tied_to(ordered, row, column, inside, width, STEP: tl.constexpr):
    """Whether an element has the key of the next one (STEP 1) or of the one before (-1)."""
    other = column + STEP
    present = inside & ((other >= 0) & (other < width))[None, :]
    at = ordered + (row * width)[:, None]
    own = tl.load(at + column[None, :], mask=inside, other=0)
    return present & (own == tl.load(at + other[None, :], mask=present, other=0))


# ---------------------------------------------------------------------------------------------------------
# From the end


@triton.jit
def after(
    closed, top, others, events, later, rest, many, end, own_closed, own_top, own_others, own_events, own_later,
    own_rest, own_many, own_end,
):  # fmt: skip
    """What elements and those before them (`own`) have together, of exponentials less the largest score: in the tie of
    the first of them those without and with a loss, of these all but the first, and how many they are; what comes after
    that tie, and where it ends. closed: a tie ends among them."""
    small = power(tl.minimum(top, own_top), tl.maximum(top, own_top))
    ours = tl.where(top >= own_top, 1.0, small).to(tl.float64)
    theirs = tl.where(own_top >= top, 1.0, small).to(tl.float64)
    same = tl.where(own_closed != 0, 0.0, ours).to(tl.float64)
    ended = ours - same
    return (
        closed | own_closed,
        tl.maximum(top, own_top),
        own_others * theirs + others * same,
        own_events * theirs + events * same,
        own_later * theirs + events * same,
        own_rest * theirs + rest * ours + (others + events) * ended,
        own_many + tl.where(own_closed != 0, 0, many).to(tl.int32),
        tl.where(own_closed != 0, own_end, end).to(tl.int32),
    )


@triton.jit
def after_kernel(
    input, events, items, upstream, ordered, places, elements, groups, rows, width, steps,
    TIED: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of each element: the largest score from it on; in units of its exponential what comes after the element's tie,
    with what the tie has without a loss; those of the tie with a loss that come later. Of its tie: how many have a loss
    from it on, and where it ends."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
        size = tl.cast(rows, tl.int64) * width
        none, nothing = tl.zeros((ROWS, 1), tl.int32), tl.zeros((ROWS, 1), tl.float64)
        c0, c1, c2, c3, c4, c5, c6, c7 = none, nothing - MOST, nothing, nothing, nothing, nothing, none, none
        for start in range(0, width, BLOCK):
            column = (width - 1 - start - tl.arange(0, BLOCK)).to(INDEX)
            inside = (row < rows)[:, None] & (column >= 0)[None, :]
            _, x, there, event = elements_of(
                input, events, items, places, row, column, inside, width, steps, INDEX
            )  # fmt: skip
            last = tl.full((ROWS, BLOCK), 1, tl.int32)
            if TIED:
                last = 1 - tied_to(ordered, row, column, inside, width, 1).to(tl.int32)
            top = tl.where(there, tl.minimum(tl.maximum(x, -MOST), MOST), -MOST).to(tl.float64)
            zero = tl.zeros((ROWS, BLOCK), tl.float64)
            other = (there & ~event).to(tl.float64)
            own = event.to(tl.int32)
            end = column[None, :].to(tl.int32) + tl.zeros((ROWS, BLOCK), tl.int32)
            s0, s1, s2, s3, s4, s5, s6, s7 = tl.associative_scan(
                (last, top, other, own.to(tl.float64), zero, zero, own, end), 1, after
            )  # fmt: skip
            s0, s1, s2, s3, s4, s5, s6, s7 = after(
                c0, c1, c2, c3, c4, c5, c6, c7, s0, s1, s2, s3, s4, s5, s6, s7
            )  # fmt: skip
            at = (row * width)[:, None] + column[None, :]
            tl.store(elements + at, s1, mask=inside)
            tl.store(elements + size + at, s2 + s5, mask=inside)
            if TIED:
                tl.store(elements + 2 * size + at, s4, mask=inside)
                tl.store(groups + at, s6, mask=inside)
                tl.store(groups + size + at, s7, mask=inside)
            here = (tl.arange(0, BLOCK) == BLOCK - 1)[None, :]
            c0, c1, c2, c3 = entry_of(s0, here), entry_of(s1, here), entry_of(s2, here), entry_of(s3, here)
            c4, c5, c6, c7 = entry_of(s4, here), entry_of(s5, here), entry_of(s6, here), entry_of(s7, here)


# ---------------------------------------------------------------------------------------------------------
# From the beginning


@triton.jit
def later_one(a, b):
    return tl.maximum(a, b)


@triton.jit
def earlier_events(events, before, many, opened, own_events, own_before, own_many, own_opened):
    """Exponentials of the elements with a loss in the tie of the last one, with and without it; how many they are."""
    same = tl.where(own_opened != 0, 0.0, events).to(tl.float64)
    return (
        own_events + same,
        own_before + same,
        own_many + tl.where(own_opened != 0, 0, many).to(tl.int32),
        opened | own_opened,
    )


@triton.jit
def taken_so_far(opened, top, before, all, kept, own_opened, own_top, own_before, own_all, own_kept):
    """What the shares of some elements take: those before the tie of the last one, in units of its exponential; those
    in the tie, from elements without a loss and from ones with a loss."""
    new = own_opened != 0
    smaller = power(tl.minimum(top, own_top), top)
    return (
        opened | own_opened,
        tl.where(new, own_top, top).to(tl.float64),
        tl.where(new, own_before + (before + all) * smaller, before).to(tl.float64),
        own_all + tl.where(new, 0.0, all).to(tl.float64),
        own_kept + tl.where(new, 0.0, kept).to(tl.float64),
    )


@triton.jit
def before_kernel(
    input, events, items, sample_weight, each_upstream, upstream, numbers, ordered, places, elements, groups, many,
    lost, slopes, factors, values, sums, weights, rows, width, blocks, steps,
    EVALUATE: tl.constexpr, TIED: tl.constexpr, EFRON: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The losses of lists. Of each element: its slope as far as the elements before its tie make it; with ties its
    exponential, what its own share takes from the tie, and what the shares up to it take, from elements without a loss
    and from ones with a loss. Of a list: what slopes are multiplied by."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
        size = tl.cast(rows, tl.int64) * width
        total = tl.zeros((ROWS,), tl.float64)
        none, nothing = tl.zeros((ROWS, 1), tl.int32), tl.zeros((ROWS, 1), tl.float64)
        e0, e1, e2, e3 = nothing, nothing, none, none
        t0, t1, t2, t3, t4 = none, nothing + MOST, nothing, nothing, nothing
        begun = none
        for start in range(0, width, BLOCK):
            column = (start + tl.arange(0, BLOCK)).to(INDEX)
            inside = (row < rows)[:, None] & (column < width)[None, :]
            here = (column == start + BLOCK - 1)[None, :]
            line, at = (row * width)[:, None], (row * width)[:, None] + column[None, :]
            _, x, there, event = elements_of(
                input, events, items, places, row, column, inside, width, steps, INDEX
            )  # fmt: skip
            opens = tl.full((ROWS, BLOCK), 1, tl.int32)
            first = at
            kept = tl.full((ROWS, BLOCK), 1.0, tl.float64)
            if TIED:
                opens = 1 - tied_to(ordered, row, column, inside, width, -1).to(tl.int32)
                begin = tl.where(opens != 0, column[None, :], 0).to(tl.int32)
                begun = tl.maximum(begun, tl.associative_scan(begin, 1, later_one))
                first = line + begun.to(INDEX)
                begun = entry_of(begun, here)
            top = tl.load(elements + first, mask=inside, other=0.0)
            after_it = tl.load(elements + size + first, mask=inside, other=1.0)
            bounded = tl.where(there, tl.minimum(tl.maximum(x, -MOST), MOST), -MOST).to(tl.float64)
            own = tl.where(there, power(tl.minimum(bounded, top), top), 0.0).to(tl.float64)
            if TIED:
                own_top = tl.load(elements + at, mask=inside, other=0.0)
                later = tl.load(elements + 2 * size + at, mask=inside, other=0.0)
                later *= power(tl.minimum(own_top, top), top)
                number = tl.load(groups + first, mask=inside, other=1)
                of_event = tl.where(event, own, 0.0).to(tl.float64)
                s0, s1, s2, s3 = tl.associative_scan(
                    (of_event, tl.zeros_like(of_event), event.to(tl.int32), opens), 1, earlier_events
                )
                s0, s1, s2, s3 = earlier_events(e0, e1, e2, e3, s0, s1, s2, s3)
                e0, e1, e2, e3 = entry_of(s0, here), entry_of(s1, here), entry_of(s2, here), entry_of(s3, here)
                if EFRON:
                    place = (s2 - 1).to(tl.float64)
                    kept = tl.where(event, 1.0 - place / tl.maximum(number, 1).to(tl.float64), 1.0).to(tl.float64)
                after_it += kept * (later + s1)
            left = kept * own
            sum_of = after_it + left
            far = libdevice.log(tl.where(event, sum_of, 1.0).to(tl.float64))
            near = libdevice.log1p(after_it / tl.where(left > SMALL, left, 1.0)) + libdevice.log(kept)
            distance = tl.where(x == top, 0.0, x - top)
            share = tl.where(left > SMALL, -near, distance - far)
            share = tl.where(event, share, 0.0).to(tl.float64)
            value, slope, _ = EVALUATE(share, share, numbers, tl.float64)
            total += tl.sum(tl.where(event, value, 0.0).to(tl.float64), 1)
            if slopes is not None:
                taken = tl.where(event, slope / tl.where(event, sum_of, 1.0), 0.0).to(tl.float64)
                kept_of = kept * taken
                s0, s1, s2, s3, s4 = tl.associative_scan(
                    (opens, top, tl.zeros_like(top), taken, kept_of), 1, taken_so_far
                )
                s0, s1, s2, s3, s4 = taken_so_far(t0, t1, t2, t3, t4, s0, s1, s2, s3, s4)
                t0, t1, t2 = entry_of(s0, here), entry_of(s1, here), entry_of(s2, here)
                t3, t4 = entry_of(s3, here), entry_of(s4, here)
                tl.store(slopes + at, after_it * taken - own * s2, mask=inside)
                if TIED:
                    tl.store(slopes + size + at, own, mask=inside)
                    tl.store(slopes + 2 * size + at, kept_of, mask=inside)
                    tl.store(slopes + 3 * size + at, s3, mask=inside)
                    tl.store(slopes + 4 * size + at, s4, mask=inside)
        found, wrong = tl.zeros((ROWS,), tl.int32), tl.zeros((ROWS,), tl.int32)
        for block in range(0, blocks):
            found += tl.load(many + row * blocks + block, mask=row < rows, other=0)
            wrong = wrong | tl.load(lost + row * blocks + block, mask=row < rows, other=0)
        if events is None:
            found = (found > 1).to(tl.int32)
        kept_row = found > 0
        share_of = tl.where(wrong != 0, float("nan"), 1.0).to(tl.float64)
        weigh = tl.full((ROWS,), 1.0, tl.float64)
        if sample_weight is not None:
            weigh = tl.load(sample_weight + row * steps[9], mask=kept_row, other=0).to(tl.float64)
        value_of = tl.where(kept_row, tl.where(wrong != 0, 0.0, total) * share_of * weigh, 0.0).to(tl.float64)
        if values is not None:
            tl.store(values + row, narrow(value_of, values), mask=row < rows)
        if sums is not None:
            tl.store(sums + tl.program_id(0), tl.sum(value_of, 0))
        if weights is not None:
            counted = tl.where(kept_row, weigh * found.to(tl.float64), 0.0).to(tl.float64)
            tl.store(weights + tl.program_id(0), tl.sum(counted, 0))
        if factors is not None:
            if each_upstream is not None:
                weigh *= tl.load(each_upstream + row * steps[10], mask=kept_row, other=0).to(tl.float64)
            tl.store(factors + row, tl.where(kept_row, share_of * weigh, 0.0).to(tl.float64), mask=row < rows)


@triton.jit(do_not_specialize=["divisor"])
def gradient_kernel(
    events, items, upstream, denominator, places, groups, slopes, factors, gradient, rows, width, blocks, divisor,
    steps,
    TIED: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The gradient of a block of some lists."""
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = (tl.program_id(0) // blocks).to(INDEX) * ROWS + tl.arange(0, ROWS)
        column = ((tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)).to(INDEX)
        size = tl.cast(rows, tl.int64) * width
        inside = (row < rows)[:, None] & (column < width)[None, :]
        factor = factor_of(upstream, denominator, divisor, tl.float64)
        weigh = tl.load(factors + row, mask=row < rows, other=0.0)
        learns = (row < rows) & (weigh != 0)
        if denominator is not None:  # a mean over nothing has no gradient
            learns = learns & (row < tl.where(factor == 0, 0, rows))
        weigh *= factor
        there = inside & learns[:, None]
        line, at = (row * width)[:, None], (row * width)[:, None] + column[None, :]
        place = tl.load(places + at, mask=inside, other=0).to(INDEX)
        if items is not None:
            there = there & (tl.load(items + (row * steps[6])[:, None] + place * steps[7], mask=there, other=0) != 0)
        slope = tl.load(slopes + at, mask=there, other=0.0)
        if TIED:
            event = there
            if events is not None:
                own = events + (row * steps[4])[:, None] + place * steps[5]
                event = there & (tl.load(own, mask=there, other=0) != 0)
            last = line + tl.load(groups + size + at, mask=inside, other=0).to(INDEX)
            of_events = tl.load(slopes + 4 * size + last, mask=there, other=0.0)
            of_events -= tl.load(slopes + 2 * size + at, mask=there, other=0.0)
            of_all = tl.load(slopes + 3 * size + last, mask=there, other=0.0)
            slope -= tl.load(slopes + size + at, mask=there, other=0.0) * tl.where(event, of_events, of_all)
        result = tl.where(there, slope * weigh[:, None], 0.0).to(tl.float64)
        tl.store(gradient + line + place, narrow(result, gradient), mask=inside)
