"""Masses of alignments: how they flow from frame to frame, and how they are kept."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels import wire
from losskit.kernels.gpu.masses import NONE, add, shifted

# The facts of a sample, int64 each: its status, its frames, the labels in its lattice, the length of its target, the
# labels before its own, and whether a NaN was seen.
STATUS, FRAMES, SPAN, LENGTH, BEGIN, NAN, FACTS = (tl.constexpr(i) for i in range(7))
LOG_PROBABILITY, LABEL, INPUT_LENGTH, TARGET_LENGTH = (tl.constexpr(int(x)) for x in wire.SequenceViolation)
TOP, OTHERS, REST, STATISTICS = (tl.constexpr(i) for i in range(4))

NEVER = tl.constexpr(-1e300)  # the logarithm of a mass of 0
# Arguments that change from call to call. Triton would compile a kernel of its own for the value 1.
SIZES = ["samples", "frames", "rows", "vocabulary", "blank", "blank_class", "size", "most"]


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
