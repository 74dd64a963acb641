"""Masses of alignments: numbers whose exponents never end, and how they flow from frame to frame."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra import libdevice

from losskit.kernels import wire

# The facts of a sample, int64 each: its status, its frames, the labels in its lattice, the length of its target, the
# labels before its own, and whether a NaN was seen. ASLEEP: the upstream gradient is 1, so nothing is rewritten.
STATUS, FRAMES, SPAN, LENGTH, BEGIN, NAN, FACTS = (tl.constexpr(i) for i in range(7))
FINE, IMPOSSIBLE, MASKED, BAD, ASLEEP = (tl.constexpr(i) for i in range(5))
LOG_PROBABILITY, LABEL, INPUT_LENGTH, TARGET_LENGTH = (tl.constexpr(int(x)) for x in wire.SequenceViolation)
TOP, OTHERS, REST, STATISTICS = (tl.constexpr(i) for i in range(4))

HEAD_OF_LARGE, HEAD_OF_SMALL = tl.constexpr((1023 + 256) << 20), tl.constexpr((1023 - 256) << 20)  # upper halves
UP, DOWN = tl.constexpr(2.0**512), tl.constexpr(2.0**-512)
NONE = tl.constexpr(-(2**30))  # the exponent of a mass of 0
# 512 log(2), the first part short enough that its product with an exponent is exact.
HIGH, LOW = tl.constexpr(354.8913269042969), tl.constexpr(2.954239512342162e-05)
NEVER = tl.constexpr(-1e300)  # the logarithm of a mass of 0
# Arguments that change from call to call. Triton would compile a kernel of its own for the value 1.
SIZES = ["samples", "frames", "rows", "vocabulary", "blank", "blank_class", "size", "most"]


@triton.jit
def scaled(m, d):
    """A mantissa in units of an exponent that is larger by -d."""
    return tl.where(d == 0, m, tl.where(d == -1, m * DOWN, 0.0))


@triton.jit
def add(a, a_e, b, b_e):
    e = tl.maximum(a_e, b_e)
    return scaled(a, a_e - e) + scaled(b, b_e - e), e


@triton.jit
def normal(m, e):
    """A mass with its mantissa back between 2^-256 and 2^256. Integers: comparisons of float64 are slow."""
    bits = m.to(tl.int64, bitcast=True)
    head = (bits >> 32).to(tl.int32)
    up = (head < HEAD_OF_SMALL).to(tl.int32) - (head >= HEAD_OF_LARGE).to(tl.int32)
    m = (bits + (up.to(tl.int64) << 61)).to(tl.float64, bitcast=True)
    e -= up
    gone = (head == 0) | (e < NONE)
    return tl.where(gone, 0.0, m), tl.where(gone, NONE, e)


@triton.jit
def emission(lp):
    """A probability as a mass, from its logarithm."""
    q = libdevice.rint(lp * 0.0028177637517362566)
    q = tl.where(q < -536870912.0, -536870912.0, tl.where(q > 536870912.0, 536870912.0, q))
    m = libdevice.exp((lp - q * HIGH) - q * LOW)
    return m, tl.where(q == q, q, 0.0).to(tl.int32)


@triton.jit
def shifted(a, b, left):
    """Two numbers of one type from the lane before. Both in one exchange, because an exchange costs two barriers."""
    both = tl.gather(tl.reshape(tl.join(a, b), left.shape), left, 0)
    return tl.split(tl.reshape(both, (left.shape[0] // 2, 2)))


@triton.jit
def left_of(W: tl.constexpr):
    """The places from which `shifted` gathers."""
    place = tl.arange(0, 2 * W)
    return tl.where(place < 2, place, place - 2)


@triton.jit
def flow(blank, blank_e, label, label_e, skips, left):
    """The masses that flow into the blanks before labels and into the labels, not yet times the new emissions."""
    last, last_e = shifted(label.to(tl.int64, bitcast=True), label_e.to(tl.int64), left)
    last, last_e = last.to(tl.float64, bitcast=True), last_e.to(tl.int32)
    first = tl.arange(0, label.shape[0]) == 0
    last, last_e = tl.where(first, 0.0, last), tl.where(first, NONE, last_e)
    rising, rising_e = add(blank, blank_e, last, last_e)
    passing, passing_e = tl.where(skips, rising, blank), tl.where(skips, rising_e, blank_e)
    into, into_e = add(label, label_e, passing, passing_e)
    return rising, rising_e, into, into_e


@triton.jit
def keep(m, e, blank_at, label_at, of_blanks, of_labels, blank, blank_e, label, label_e):
    tl.store(m + blank_at, blank, mask=of_blanks)
    tl.store(e + blank_at, blank_e, mask=of_blanks)
    tl.store(m + label_at, label, mask=of_labels)
    tl.store(e + label_at, label_e, mask=of_labels)


@triton.jit
def kept(m, e, blank_at, label_at, of_blanks, of_labels):
    blank, blank_e = tl.load(m + blank_at, mask=of_blanks, other=0.0), tl.load(e + blank_at, mask=of_blanks, other=NONE)
    label, label_e = tl.load(m + label_at, mask=of_labels, other=0.0), tl.load(e + label_at, mask=of_labels, other=NONE)
    return blank, blank_e, label, label_e


@triton.jit
def states(labels, span, backward, W: tl.constexpr):
    """A direction's lanes: the places of labels, of the blanks before them, which of both exist, and whether a label
    may follow the one before without a blank."""
    lane = tl.arange(0, W)
    label_at = tl.where(backward, span - 1 - lane, lane)
    before = tl.where(backward, label_at + 1, label_at - 1)
    blank_at = span + tl.where(backward, span - lane, lane)
    of_labels = lane < span
    own = tl.load(labels + label_at, mask=of_labels, other=-1)
    skips = own != tl.load(labels + before, mask=of_labels & (lane > 0), other=-1)
    return label_at, blank_at, of_labels, lane <= span, skips


@triton.jit
def fetch(m, e, at, places, of_labels, span):
    """The emissions of a frame: the labels' and the blank's."""
    label = tl.load(m + at + places, mask=of_labels, other=0.0)
    label_e = tl.load(e + at + places, mask=of_labels, other=0)
    return label, label_e, tl.load(m + at + span), tl.load(e + at + span)
