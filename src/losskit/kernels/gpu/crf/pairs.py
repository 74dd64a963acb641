"""The gradient by transitions: how probable the move from a tag to another is, in all steps of all samples."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels.gpu.crf.chains import row_of, with_right
from losskit.kernels.gpu.crf.steps import FACTS, SIZES, STATUS, STEPS
from losskit.kernels.gpu.masses import ASLEEP, DOWN, FINE, NONE, UP
from losskit.kernels.gpu.rows import narrow


@triton.jit(do_not_specialize=["samples", *SIZES])
def pairs_kernel(
    target, matrix, matrix_e, facts, before, before_e, after, after_e, scales, out, samples, steps, tags, several,
    target_step, TILE: tl.constexpr,
):  # fmt: skip
    """A tile of the gradient, of a group of samples."""
    group, groups = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    j, k = tl.program_id(1) * TILE + tl.arange(0, TILE), tl.program_id(2) * TILE + tl.arange(0, TILE)
    there = (j < tags)[:, None] & (k < tags)[None, :]
    at = j[:, None] * tags + k[None, :]
    if tl.load(facts + STATUS) != ASLEEP:
        total = tl.zeros((TILE, TILE), tl.float64)
        for n in range(group * samples // groups, (group + 1) * samples // groups):
            status, scale = tl.load(facts + n * FACTS + STATUS), tl.load(scales + n)
            if scale != scale:
                total += scale
            elif (status == FINE) & (scale != 0):
                length = tl.load(facts + n * FACTS + STEPS).to(tl.int32)
                here = target + n * target_step[0]
                move = tl.load(matrix + n * several * tags * tags + at, mask=there, other=0.0)
                move_e = tl.load(matrix_e + n * several * tags * tags + at, mask=there, other=NONE)
                part = tl.zeros((TILE, TILE), tl.float64)
                for t in range(1, length):
                    last = tl.load(here + (n * 0 + t - 1) * target_step[1]).to(tl.int32)
                    right = tl.load(here + (n * 0 + t) * target_step[1]).to(tl.int32)
                    of_last, of_right = (n * steps + t - 1) * tags + j, (n * steps + t) * tags + k
                    m, e = row_of(before, before_e, of_last, j < tags)
                    m, e = with_right(m, e, j == last)
                    follows, follows_e = row_of(after, after_e, of_right, k < tags)
                    p, d = (m[:, None] * move) * follows[None, :], (e[:, None] + move_e) + follows_e[None, :]
                    p = tl.where(d == 0, p, tl.where(d == -1, p * DOWN, tl.where(d == 1, p * UP, 0.0)))
                    part += tl.where((j == last)[:, None] & (k == right)[None, :], p - 1.0, p)
                total += part * scale
        tl.store(out + group * tags * tags + at, narrow(total, out), mask=there)


@triton.jit(do_not_specialize=["rows", "count"])
def add_kernel(parts, upstream, gradient, rows, count, BLOCK: tl.constexpr):
    """The gradient by what samples share: rows of parts, added in their order."""
    needed = True
    if upstream is not None:
        needed = tl.load(upstream) != 1.0
    if needed:
        column = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float64)
        for row in range(0, rows):
            total += tl.load(parts + (column * 0 + row) * count + column, mask=column < count, other=0.0)
        tl.store(gradient + column, narrow(total, gradient), mask=column < count)
