"""What does not depend on the steps before: the masses of transitions and of each step's tags, and what is wrong."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels import wire
from losskit.kernels.gpu.masses import emission, normal
from losskit.kernels.gpu.violations import report

TAG, LENGTH = (tl.constexpr(int(x)) for x in wire.ChainViolation)
# The facts of a sample, int64 each: what becomes of it, the steps that its gradient speaks of; then 1 where it has a
# tag that is none, a score that is NaN or infinite, a right tag or move that is impossible.
STATUS, STEPS, NO_TAG, STRANGE, IMPROBABLE, FACTS = (tl.constexpr(i) for i in range(6))
LENGTHS, MASK, WEIGHT, UPSTREAM = (tl.constexpr(i) for i in range(4))  # places in `extra_step`
FARTHEST = tl.constexpr(1e11)  # a right chain whose scores lie so much below another's counts as impossible
SIZES = ["steps", "tags"]  # Triton would compile a kernel of its own for the value 1


@triton.jit
def numbers_of(x, there):
    """Scores in float64, none where there is nothing."""
    return tl.load(x, mask=there, other=float("-inf")).to(tl.float64)


@triton.jit
def wild(x, there):
    return there & ((x != x) | (x == float("inf")))


@triton.jit
def known(score):
    """A right tag's score, to subtract: 0 where it is impossible."""
    return tl.where(score == float("-inf"), 0.0, score)


@triton.jit
def any_of(x):
    return tl.max(tl.max(x.to(tl.int32), 1), 0)


@triton.jit
def sample_of(n, lengths, mask, steps, extra_step):
    """Whether a sample counts, its length, and whether that is none."""
    length = n * 0 + steps
    counted = length == length
    if mask is not None:
        counted = tl.load(mask + n * extra_step[MASK]) != 0
    if lengths is not None:
        length = tl.load(lengths + n * extra_step[LENGTHS]).to(tl.int64)
        counted = counted & (length != 0)
    return counted, length, (length < 0) | (length > steps)


@triton.jit(do_not_specialize=["tags"])
def matrix_kernel(
    transitions, matrix, matrix_e, tops, tags, move_step, K: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """The exponentials of transitions less the largest; the largest, and whether one is NaN or infinite."""
    n = tl.program_id(0).to(tl.int64)
    k, inside = tl.arange(0, K), tl.arange(0, K) < tags
    here = transitions + n * move_step[0]
    top, bad = tl.full((), float("-inf"), tl.float64), tl.full((), 0, tl.int32)
    for begin in range(0, tags, ROWS):
        j = begin + tl.arange(0, ROWS)
        there = (j < tags)[:, None] & inside[None, :]
        at = j.to(tl.int64)[:, None] * move_step[1] + k.to(tl.int64)[None, :] * move_step[2]
        x = numbers_of(here + at, there)
        bad = tl.maximum(bad, any_of(wild(x, there)))
        top = tl.maximum(top, tl.max(tl.max(tl.where(x == x, x, float("-inf")), 1), 0))
    top = tl.where(tl.abs(top) < float("inf"), top, 0.0)
    for begin in range(0, tags, ROWS):
        j = begin + tl.arange(0, ROWS)
        there = (j < tags)[:, None] & inside[None, :]
        at = j.to(tl.int64)[:, None] * move_step[1] + k.to(tl.int64)[None, :] * move_step[2]
        m, e = emission(numbers_of(here + at, there) - top)
        to = n * tags * tags + j[:, None] * tags + k[None, :]
        tl.store(matrix + to, m, mask=there)
        tl.store(matrix_e + to, e, mask=there)
    tl.store(tops + 2 * n, top)
    tl.store(tops + 2 * n + 1, bad.to(tl.float64))


@triton.jit(do_not_specialize=["number", "blocks", *SIZES])
def steps_kernel(
    x, target, lengths, transitions, start, end, mask, upstream, record, tops, facts, own, own_e,
    number, steps, tags, blocks, several, x_step, target_step, move_step, start_step, end_step, extra_step,
    CHECKED: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Some steps of a sample: the masses of tags beside the right one, with the moves and ends that belong to them."""
    needed = True
    if upstream is not None:
        needed = tl.load(upstream) != 1.0
    if needed:
        n, block = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks
        counted, length, bad = sample_of(n, lengths, mask, steps, extra_step)
        if CHECKED and lengths is not None:
            one = tl.arange(0, 1)
            which = tl.where((one + block == 0) & bad & counted, LENGTH, 0)
            report(record, which, one + length, one + n, number)
        used = tl.where(bad | (counted == 0), 0, length).to(tl.int32)
        t = block * ROWS + tl.arange(0, ROWS)
        there = t < used
        right_at = target + n * target_step[0] + t.to(tl.int64) * target_step[1]
        right = tl.load(right_at, mask=there, other=0).to(tl.int64)
        last = tl.load(right_at - target_step[1], mask=there & (t > 0), other=0).to(tl.int64)
        outside = there & ((right < 0) | (right >= tags))
        if CHECKED:
            report(record, tl.where(outside, TAG, 0), right, n * steps + t, number)
        there = there & (right >= 0) & (right < tags) & (last >= 0) & (last < tags)
        moves = there & (t > 0)

        own_matrix = n * several
        k, inside = tl.arange(0, K), tl.arange(0, K) < tags
        row = x + n * x_step[0] + t.to(tl.int64) * x_step[1]
        scores = numbers_of(row[:, None] + k.to(tl.int64)[None, :] * x_step[2], there[:, None] & inside[None, :])
        strange = wild(scores, there[:, None] & inside[None, :])
        if block == 0:
            strange = strange | (tl.load(tops + 2 * own_matrix + 1) + (t * 0.0)[:, None] > 0) & (used > 1)
        score = tl.load(row + right * x_step[2], mask=there, other=0).to(tl.float64)
        move_at = transitions + own_matrix * move_step[0] + last * move_step[1] + right * move_step[2]
        move = tl.load(move_at, mask=moves, other=0).to(tl.float64)
        none = (score == float("-inf")) | (move == float("-inf"))
        shift = tl.where(moves, tl.load(tops + 2 * own_matrix) - known(move), 0.0) - known(score)
        lp = scores + shift[:, None]
        for side in tl.static_range(2):
            ends, step = (start, start_step) if side == 0 else (end, end_step)
            if ends is not None:
                here = there & (t == (0 if side == 0 else used - 1))
                at = ends + n * step[0]
                score = tl.load(at + right * step[1], mask=here, other=0).to(tl.float64)
                none = none | (score == float("-inf"))
                scores = numbers_of(at + k.to(tl.int64) * step[1], inside)
                strange = strange | (here[:, None] & wild(scores, inside)[None, :])
                lp = tl.where(here[:, None], lp + (scores[None, :] - known(score)[:, None]), lp)
        m, e = emission(lp)
        m, e = normal(m, e)
        place = (n * steps + t)[:, None] * tags + k[None, :]
        tl.store(own + place, m, mask=there[:, None] & inside[None, :])
        tl.store(own_e + place, e, mask=there[:, None] & inside[None, :])
        # Several programs may write such a fact: all write 1.
        known_facts = facts + n * FACTS
        tl.store(known_facts + NO_TAG, 1, mask=tl.max(outside.to(tl.int32), 0) > 0)
        tl.store(known_facts + STRANGE, 1, mask=any_of(strange) > 0)
        tl.store(known_facts + IMPROBABLE, 1, mask=(tl.max(none.to(tl.int32), 0) > 0) | (any_of(lp > FARTHEST) > 0))
