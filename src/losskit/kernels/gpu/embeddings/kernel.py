"""The kernel of a few rows: sums, statistics, the formula, gradients."""

from __future__ import annotations

import triton
import triton.language as tl

from losskit.kernels.gpu import primitives as lk
from losskit.kernels.gpu.embeddings.numbers import (
    APART,
    COSINE,
    NEGATIVE,
    POSITIVE,
    TARGET,
    choice,
    distance_of,
    magnitude_of,
    pull_of,
    pulled,
    scale_of_root,
    slope_of,
    spread,
    unit_of,
)
from losskit.kernels.gpu.embeddings.sums import apart_of, block_of, passed
from losskit.kernels.gpu.frame import factor_of
from losskit.kernels.gpu.rows import narrow
from losskit.kernels.gpu.violations import report


@triton.jit(do_not_specialize=["divisor", "number"])
def embeddings_kernel(
    x0, x1, x2, target, sample_weight, mask, each_upstream, upstream, denominator, numbers, record,
    values, sums, g0, g1, g2, by_target,
    rows, width, divisor, number, row_steps, steps,
    EVALUATE: tl.constexpr, VIOLATION: tl.constexpr, CODE: tl.constexpr, PAIRS: tl.constexpr,
    P: tl.constexpr, EPS: tl.constexpr, T: tl.constexpr, S: tl.constexpr, UNITS: tl.constexpr,
    CHECKED: tl.constexpr, REWRITE: tl.constexpr, INDEX: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """PAIRS: the number of distances, 0 for a cosine. CODE: the formula's operands, three bits each. T, S: the types of
    elements and of sums. `width` and `row_steps` come divided by ALIGNED."""
    width *= ALIGNED
    starts = (row_steps[0] * ALIGNED, row_steps[1] * ALIGNED, row_steps[2] * ALIGNED)
    needed = True
    if REWRITE:
        needed = tl.load(upstream) != 1.0
    if needed:
        row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)
        kept = row < rows
        if mask is not None:
            kept = kept & (tl.load(mask + row * steps[2], mask=kept, other=0) != 0)
        column = tl.arange(0, BLOCK)
        a, b, c = kept, kept, kept
        if WHOLE:
            a = block_of(x0, starts[0], row, kept, column, width, T)
            b = block_of(x1, starts[1], row, kept, column, width, T)
            if PAIRS > 1:
                c = block_of(x2, starts[2], row, kept, column, width, T)

        # Sums
        k0 = tl.full((ROWS,), 1.0, T)
        k1, k2 = k0, k0
        u0 = tl.full((ROWS,), 1.0, S)
        u1, u2 = u0, u0
        if UNITS:
            k0, k1, k2 = passed(x0, x1, x2, starts, row, kept, width, a, b, c, k0, k0, k0,
                                "largest", PAIRS, P, EPS, T, S, WHOLE, BLOCK)  # fmt: skip
            k0, k1, k2 = unit_of(k0, PAIRS, P), unit_of(k1, PAIRS, P), unit_of(k2, PAIRS, P)
            u0, u1, u2 = spread(k0.to(S)), spread(k1.to(S)), spread(k2.to(S))
        s0, s1, s2 = passed(x0, x1, x2, starts, row, kept, width, a, b, c, k0, k1, k2,
                            "sums", PAIRS, P, EPS, T, S, WHOLE, BLOCK)  # fmt: skip
        s0, s1, s2 = spread(s0), spread(s1), spread(s2)
        if T != S:
            if PAIRS == 0:
                u0, u1 = scale_of_root(s0), scale_of_root(s1)
                s0, s1, s2 = s0 * u0 * u0, s1 * u1 * u1, s2 * u0 * u1
            elif P == 2.0:
                u0, u1, u2 = scale_of_root(s0), scale_of_root(s1), scale_of_root(s2)
                s0, s1, s2 = s0 * u0 * u0, s1 * u1 * u1, s2 * u2 * u2
            k0, k1, k2 = u0.to(T), u1.to(T), u2.to(T)

        # Statistics
        cosine, apart, positive, negative = s0, s0, s0, s0
        root, ratio, along_x, along_y = s0, s0, s0, s0
        own, other = s0, s0  # the distances of the negative
        zero = s0 * s1 == 0
        near = zero
        if PAIRS == 0:
            root = lk.sqrt(tl.where(zero, 1.0, s0 * s1).to(S))
            cosine = tl.where(zero, 0.0, lk.clamp(lk.divide(s2, root), -1.0, 1.0)).to(S)
            ratio = lk.sqrt(lk.divide(s0, tl.where(zero, 1.0, s1).to(S)))
            ratio = tl.where(cosine < 0, -ratio, ratio)
            apart = 1.0 - cosine
            along_x = 1.0 - tl.abs(cosine)
            along_y = -ratio * along_x
            near = along_x < 0.5
            close = along_x < (0.5 if T == S else 1e-6)
            if tl.max(close.to(tl.int32), 0) > 0:
                ww, wx, wy = passed(x0, x1, x2, starts, row, kept, width, a, b, c, k0, k1, ratio,
                                    "apart", PAIRS, P, EPS, T, S, WHOLE, BLOCK)  # fmt: skip
                apart = tl.where(close & (cosine > 0), lk.divide(spread(ww), 2.0 * s0), apart)
                along_x = tl.where(close, lk.divide(spread(wx), s0), along_x)
                along_y = tl.where(close, lk.divide(spread(wy), s1), along_y)
        else:
            positive = distance_of(s0, u0, P)
            if PAIRS > 1:
                own = distance_of(s1, u1, P)
                negative = own
                if PAIRS > 2:
                    other = distance_of(s2, u2, P)
                    negative = lk.minimum(own, other)
                # If both overflow, only their order can be decided: the larger stays infinite, the smaller becomes 0.
                both = (positive == float("inf")) & (negative == float("inf"))
                if tl.max(both.to(tl.int32), 0) > 0:
                    size, far = magnitude_of(s0, u0, P), magnitude_of(s1, u1, P)
                    if PAIRS > 2:
                        far = tl.minimum(far, magnitude_of(s2, u2, P))
                    both = both & (tl.maximum(size, far) < float("inf"))
                    positive = tl.where(both & (size <= far), 0.0, positive).to(S)
                    negative = tl.where(both & (far <= size), 0.0, negative).to(S)
        label = s0
        if target is not None:
            label = tl.load(target + row * steps[0], mask=kept, other=0).to(S)

        # The formula
        o0 = choice(cosine, apart, positive, negative, label, CODE % 8)
        o1 = choice(cosine, apart, positive, negative, label, (CODE >> 3) % 8)
        o2 = choice(cosine, apart, positive, negative, label, (CODE >> 6) % 8)
        o3 = choice(cosine, apart, positive, negative, label, (CODE >> 9) % 8)
        value, d0, d1, d2, d3 = EVALUATE(o0, o1, o2, o3, numbers, S)
        weigh = tl.full((ROWS,), 1.0, S)
        if CHECKED:
            which, found = VIOLATION(o0, o1, o2, o3)
            which = tl.where(kept, which, 0)
            report(record, which, found, row, number)
            weigh = tl.where(which > 0, float("nan"), 1.0).to(S)
        if sample_weight is not None:
            weigh *= tl.load(sample_weight + row * steps[1], mask=kept, other=0).to(S)
        value = tl.where(kept, value * weigh, 0.0).to(S)
        if values is not None:
            tl.store(values + row, narrow(value, values), mask=row < rows)
        if sums is not None:
            tl.store(sums + tl.program_id(0), tl.sum(value.to(tl.float64), 0))

        # What the gradients are made of
        factor = factor_of(upstream, denominator, divisor, S)
        weigh *= factor
        if each_upstream is not None:
            weigh *= tl.load(each_upstream + row * steps[3], mask=kept, other=0).to(S)
        pushed = kept
        if denominator is not None:  # a mean over nothing has no gradient
            pushed = kept & (row < tl.where(factor == 0, 0, rows))
        if by_target is not None:
            slope = tl.where(pushed, slope_of(d0, d1, d2, d3, CODE, TARGET) * weigh, 0.0)
            tl.store(by_target + row, narrow(slope.to(S), by_target), mask=row < rows)
        if (g0 is not None) or (g1 is not None) or (g2 is not None):
            ab, ac, bc = s0, s0, s0  # slopes by the distances
            px, qx, py, qy = s0, s0, s0, s0  # gx = (px (y or w) + qx x) ab, gy = (py (x or w) + qy y) ab
            if PAIRS == 0:
                slope = slope_of(d0, d1, d2, d3, CODE, COSINE) - slope_of(d0, d1, d2, d3, CODE, APART)
                ab = tl.where(pushed, slope * weigh, 0.0).to(S)
                one = tl.full((ROWS,), 1.0, S)
                by_x = lk.divide(one, tl.where(zero, 1.0, s0).to(S))
                by_y = lk.divide(one, tl.where(zero, 1.0, s1).to(S))
                across = tl.where(zero, 0.0, lk.divide(one, root)).to(S)
                sign = tl.where(cosine < 0, -1.0, 1.0).to(S)
                back = lk.divide(one, tl.where(near, tl.abs(ratio), 1.0).to(S))
                px = tl.where(near, -sign * by_x, across)
                qx = tl.where(near, sign * along_x, -cosine) * by_x
                py = tl.where(near, back * by_y, across)
                qy = tl.where(near, -back * along_y, -cosine) * by_y
            else:
                slope = slope_of(d0, d1, d2, d3, CODE, POSITIVE)
                ab = pull_of(tl.where(pushed, slope * weigh, 0.0).to(S), s0, positive, P)
                if PAIRS > 1:
                    slope = tl.where(pushed, slope_of(d0, d1, d2, d3, CODE, NEGATIVE) * weigh, 0.0).to(S)
                    if PAIRS > 2:
                        share = tl.where(own < other, 0.0, tl.where(own > other, 1.0, 0.5)).to(S)
                        bc = pull_of(slope * share, s2, other, P)
                        slope = slope * (1.0 - share)
                    ac = pull_of(slope, s1, own, P)

            px, qx, py, qy = px.to(T), qx.to(T), py.to(T), qy.to(T)
            flat = (ab == 0)[:, None]
            ab, ac, bc = ab.to(T), ac.to(T), bc.to(T)

            # The gradients
            for start in range(0, width, BLOCK):
                there = start + column < width
                inside = (row < rows)[:, None] & there[None, :]
                at = (row * width)[:, None] + (start + column)[None, :]
                if WHOLE:
                    x, y, z = a, b, c
                else:
                    x = block_of(x0, starts[0], row, kept, start + column, width, T)
                    y = block_of(x1, starts[1], row, kept, start + column, width, T)
                    z = x
                    if PAIRS > 1:
                        z = block_of(x2, starts[2], row, kept, start + column, width, T)
                if PAIRS == 0:
                    u, v = x * k0[:, None], y * k1[:, None]
                    w = apart_of(u, v, ratio)
                    if g0 is not None:
                        by = (px[:, None] * tl.where(near[:, None], w, v) + qx[:, None] * u) * ab[:, None]
                        tl.store(g0 + at, narrow(tl.where(flat, 0.0, by * k0[:, None]).to(T), g0), mask=inside)
                    if g1 is not None:
                        by = (py[:, None] * tl.where(near[:, None], w, u) + qy[:, None] * v) * ab[:, None]
                        tl.store(g1 + at, narrow(tl.where(flat, 0.0, by * k1[:, None]).to(T), g1), mask=inside)
                else:
                    first = pulled(x, y, there, ab, k0, P, EPS)
                    second, third = tl.zeros_like(first), tl.zeros_like(first)
                    if PAIRS > 1:
                        second = pulled(x, z, there, ac, k1, P, EPS)
                    if PAIRS > 2:
                        third = pulled(y, z, there, bc, k2, P, EPS)
                    if g0 is not None:
                        tl.store(g0 + at, narrow(first + second, g0), mask=inside)
                    if g1 is not None:
                        tl.store(g1 + at, narrow(third - first, g1), mask=inside)
                    if g2 is not None:
                        tl.store(g2 + at, narrow(-second - third, g2), mask=inside)
