"""Integers by which rows are sorted, and what is known of a row before: what counts in it, and whether it is NaN."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels import wire
from losskit.kernels.gpu.shared import MAX_INT32
from losskit.kernels.gpu.violations import report

LABEL = tl.constexpr(int(wire.OrderedViolation.LABEL))
NONE = tl.constexpr(MAX_INT32)  # no column


@triton.jit
def key_of(x):
    """A number as a signed integer of the same order; -0 and 0 are alike. NaN has a place, too."""
    if x.dtype == tl.float64:
        bits = tl.where(x == 0, 0.0, x).to(tl.float64).to(tl.int64, bitcast=True)
        key = bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    elif x.dtype.is_floating():
        bits = tl.where(x == 0, 0.0, x).to(tl.float32).to(tl.int32, bitcast=True)
        key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    else:
        key = x
    return key


@triton.jit
def number_of(key):
    """The floating-point number of a key."""
    if key.dtype == tl.int64:
        number = (key ^ ((key >> 63) & 0x7FFFFFFFFFFFFFFF)).to(tl.float64, bitcast=True)
    else:
        number = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True).to(tl.float64)
    return number


@triton.jit
def known(x):
    """Loaded numbers, of a dtype that can be compared: halves as floats, bits as integers (as a bit, 1 is below 0)."""
    if x.dtype == tl.int1:
        x = x.to(tl.int32)
    elif x.dtype.is_floating() & (x.dtype.primitive_bitwidth == 16):
        x = x.to(tl.float32)
    return x


@triton.jit(do_not_specialize=["number"])
def keys_kernel(
    input, key, events, items, mask, upstream, record, keys, many, lost, rows, width, blocks, number, steps,
    SIGNS: tl.constexpr, DESCENDING: tl.constexpr, CHECKED: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The keys of a block of some rows; how many elements of it have a loss, and whether one makes its row NaN.

    SIGNS: what is sorted is the input with the sign of the label, which is `key`; else it is `key` itself.
    """
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = (tl.program_id(0) // blocks).to(INDEX) * ROWS + tl.arange(0, ROWS)
        column = ((tl.program_id(0) % blocks) * BLOCK + tl.arange(0, BLOCK)).to(INDEX)
        kept = row < rows
        if mask is not None:  # what the mask hides is not read
            kept = kept & (tl.load(mask + row * steps[8], mask=kept, other=0) != 0)
        there = kept[:, None] & (column < width)[None, :]
        if items is not None:
            at = items + (row * steps[6])[:, None] + (column * steps[7])[None, :]
            there = there & (tl.load(at, mask=there, other=0) != 0)
        at = input + (row * steps[0])[:, None] + (column * steps[1])[None, :]
        x = known(tl.load(at, mask=there, other=0))
        by = known(tl.load(key + (row * steps[2])[:, None] + (column * steps[3])[None, :], mask=there, other=0))
        wrong = there & ((x != x) | (by != by))
        counts = there
        if SIGNS or events is not None:
            label = by
            if events is not None:
                at = events + (row * steps[4])[:, None] + (column * steps[5])[None, :]
                label = known(tl.load(at, mask=there, other=0))
                counts = there & (label != 0)
            wrong = wrong | (there & (label != label))
            if CHECKED:
                bad = there & (label != 0) & (label != 1) & (label == label)
                first = tl.min(tl.where(bad, column[None, :], NONE).to(INDEX), 1)
                here = (column[None, :] == first[:, None]) & bad
                found = tl.sum(tl.where(here, label.to(tl.float64), 0.0), 1)
                report(record, tl.where(first < NONE, LABEL, 0), found, row * width + first, number)
                wrong = wrong | bad
        if SIGNS:
            result = key_of(tl.where(by != 0, x, -x))
        else:
            result = key_of(by)
        if DESCENDING:
            result = ~result
        inside = (row < rows)[:, None] & (column < width)[None, :]
        at = keys + (row * width)[:, None] + column[None, :]
        tl.store(at, tl.where(there, result, 0).to(keys.dtype.element_ty), mask=inside)
        at = row * blocks + tl.program_id(0) % blocks
        if many is not None:
            tl.store(many + at, tl.sum(counts.to(tl.int32), 1), mask=row < rows)
        tl.store(lost + at, tl.max(wrong.to(tl.int32), 1), mask=row < rows)
