"""The class-scores family on a GPU: statistics of a row, the formula of them, and the gradient by every score.

1. A program takes a tile of rows and classes. A row that fits into registers is read once; a longer one is read in
   blocks, once for the statistics and once more, from its end, for the gradient, so that the L2 cache still holds what
   was read last. Shares of every class (probabilities, smoothing of weighted classes) of a long row take one more pass.
2. Memory is read along the classes where they lie side by side, and along the positions for (N, C, H, W): a tile has
   the rows of one stretch of positions. Other layouts are copied, see `layouts`.
3. The pivot is the largest score, d_c the distances to it, `others` the sum of exp(d_c) without the pivot's own 1. The
   exponential corrects the rounding error of d_c (halves have none). A log-probability is d_c - log1p(others). One
   minus the pivot's probability is others / (1 + others), so nothing cancels. If the sum of all exponentials is 2 or
   more (scores tie with the pivot), subtracting 1 loses no digit; below 2 the others are summed again.
4. In a long row each lane keeps its own pivot and the sum relative to it. Lanes are combined once, after the loop, so
   they never synchronise inside it. When a lane meets a larger score, the old pivot joins the sum.
5. The gradient of a row is a_c - p_c (G - L + M) + M / C with a_c = share_c df_c/dlog_probability, G their sum, and L
   and M the sums for log_sum_exp and mean_log_probability. Where p_c > 1/2, G - a_c is the sum of the others' terms.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import torch

from losskit.domains import log_probability, slack_of
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.class_scores.kernel import class_scores_kernel
from losskit.kernels.gpu.class_scores.layouts import Layout, placed
from losskit.kernels.gpu.class_scores.picked import count_kernel, picked_kernel
from losskit.kernels.gpu.frame import SUMS, Frame, Outputs, finish_kernel
from losskit.kernels.gpu.shared import TYPES, cdiv, index_type, limits_of, power_of_2
from losskit.plan import Arguments

ROW = 32768  # float32 numbers that the registers of a program hold
# Float32 numbers of a long row that a program reads at once, four times as many halves: of 4,096 to 16,384 numbers the
# fastest on an H200, by 5 %.
BLOCK = 4096
PROGRAMS = 8192  # at most, about: few sums must be left to `finish`
COUNTED = 8192  # rows that one program counts for the denominator
BY_EACH = 256  # rows that every program counts for itself, which saves a launch


def why_not(plan: Any, arguments: Arguments) -> str | None:
    """Why there is no kernel for this call."""
    if plan.log_probabilities and plan.smoothing:
        return "there is no kernel for label smoothing of log-probabilities"
    if plan.log_probabilities and plan.statistics != ["log_probability"]:
        return "there is no kernel for other statistics of log-probabilities"
    return None


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradients."""
    call, operands = frame.call, frame.call.operands
    plan, soft = call.plan, operands[1].is_floating_point()
    shift = operands[2].contiguous() if len(operands) > 2 else None
    # A float cannot hold a score of 1e6 and the digits of its shift.
    compute = torch.float64 if shift is not None else call.compute
    weight = call.weight.contiguous() if call.weight is not None else None
    layout, tensors = placed(call, frame.each_upstream)
    x, like, target, sample_weight, mask, each_upstream = tensors
    frame.write(wanted, [like] * len(operands), layout.sizes, zero=plan.log_probabilities)
    smoothed = plan.smoothing != 0 and not soft and weight is None and plan.formula is None
    shared = soft or (plan.smoothing != 0 and not smoothed)
    tile = _tile(layout, x.element_size(), compute == torch.float64, shared, plan.log_probabilities)
    alone = not plan.log_probabilities and tile.warps < 32  # rows that long leave no registers for more
    count = _divide(frame, weight, layout, target, sample_weight, mask, alone)
    if layout.rows:
        divided = layout.outer > 1 and layout.inner < tile.rows
        tiles = cdiv(layout.rows if divided else layout.inner, tile.rows)
        total = tiles if divided else tiles * layout.outer
        of_mean = smoothed or (plan.formula is not None and "mean_log_probability" in plan.statistics)
        simple = not (shared or plan.log_probabilities or shift is not None)
        ahead = _ahead(tile, x.element_size(), frame.device) if simple else 1
        resident = limits_of(frame.device).multiprocessors if ahead > 1 and not tile.long else PROGRAMS
        blocks = cdiv(total, resident)
        programs = cdiv(total, blocks)
        frame.add_up(programs, alone)
        order = 0 if plan.formula is None else wire.CLASS_SCORES.statistics(plan.statistics)
        taken = [
            x, target, shift, weight, sample_weight, mask, each_upstream, frame.upstream, frame.denominator,
            frame.numbers, frame.record, frame.values, frame.sums,
        ]  # fmt: skip
        number = frame.number([*operands[0].shape, *layout.order])
        sizes = tiles, layout.outer, layout.inner, layout.classes, blocks, frame.divisor, number, int(plan.ignored)
        constants = {
            "EVALUATE": None if plan.formula is None else formulas.functions(plan.formula).evaluate, "ORDER": order,
            "T": TYPES[compute], "CHECKED": call.checked, "REWRITE": frame.rewrite, "DIVIDED": divided,
            "INDEX": index_type(layout.reach), "ROWS": tile.rows, "num_warps": tile.warps,
        }  # fmt: skip
        if plan.log_probabilities:
            frame.launch(
                picked_kernel, (programs,),
                *taken, frame.gradients[0], *sizes, layout.strides, layout.class_strides,
                LIMIT=log_probability.high, **constants,
            )  # fmt: skip
        else:
            frame.launch(
                class_scores_kernel, (programs,),
                *taken, frame.loss, *frame.gradients[:2], *sizes, _bits(plan.smoothing), layout.strides,
                layout.class_strides,
                SOFT=soft, SLACK=slack_of(target.dtype), SHARED=shared, SMOOTHED=smoothed, MEAN=of_mean,
                EXACT=x.element_size() == 2 and shift is None, LONG=tile.long, ALONG=layout.along,
                ALIGNED=layout.aligned, AHEAD=1 if tile.long else ahead, STREAM=ahead if tile.long else 1,
                SPAN=index_type(layout.span), CLASSES=tile.classes, COUNT=count,
                EMPTY="" if frame.loss is None else frame.of_nothing(), **constants,
            )  # fmt: skip
    elif not frame.each and frame.forward:
        frame.sums = frame.empty((1,), torch.float64, zero=True)
    if frame.values is not None and layout.order != tuple(sorted(layout.order)):
        by_dimension = [layout.order.index(d) for d in sorted(layout.order)]
        frame.values = frame.values.permute(by_dimension).contiguous()
    return frame.outputs()


def _bits(value: float) -> int:
    """A float64 as an integer: Triton would round a Python float to float32."""
    return int(struct.unpack("q", struct.pack("d", value))[0])


def _divide(frame: Frame, weight: Any, layout: Layout, target: Any, sample_weight: Any, mask: Any,
            by_each: bool) -> int:  # fmt: skip
    """Find the denominator of a mean; where it depends on data it is summed on the device. by_each: every program may
    do so by itself. Returns for how many rows it does, 0 where it does not."""
    call, soft = frame.call, frame.call.operands[1].is_floating_point()
    if call.plan.reduction != "mean":
        return 0
    if call.normalizer is not None:
        frame.denominator = call.normalizer
        return 0
    if soft and call.sample_weight is None and call.mask is None:
        frame.divisor = layout.rows
        return 0
    tiles = cdiv(layout.rows, 1024)
    blocks = tiles if layout.rows <= COUNTED else cdiv(tiles, 1024)
    programs = cdiv(tiles, max(blocks, 1))
    frame.denominator = total = frame.empty((), torch.float64, zero=programs == 0)
    if programs == 0:
        return 0
    if by_each and layout.rows <= BY_EACH:
        return power_of_2(layout.rows)
    sums = total if programs == 1 else frame.empty((programs,), torch.float64)
    frame.launch(
        count_kernel, (programs,),
        target, weight, sample_weight, mask, sums, layout.outer, layout.inner, layout.classes, blocks,
        int(call.plan.ignored), layout.strides, soft, index_type(layout.reach), 1024,
    )  # fmt: skip
    if programs > 1:
        frame.launch(finish_kernel, (1,), sums, None, programs, 1, None, total, "", SUMS)
    return 0


class Tile(NamedTuple):
    """The rows and classes that a program takes at once, its warps, and whether a row takes several such steps."""

    rows: int
    classes: int
    warps: int
    long: bool


def _tile(layout: Layout, size: int, double: bool, shared: bool, picked: bool) -> Tile:
    """The tile for scores of `size` bytes: what a thread holds is bounded by its registers."""
    if picked:
        return Tile(256, 1, 4, False)
    most = 32 >> double >> shared  # numbers that a thread holds, if the program has all 32 warps
    limit = ROW * most // 32
    classes = power_of_2(layout.classes)
    rows = max(1, min(1024 // classes, 32))
    if layout.along:  # a cache line of positions; a sector of one if the classes leave no room
        rows = min(max(1024 // classes, 128 // size), 128)
        rows = max(8, limit // classes) if rows * classes > limit else rows
    long = rows * classes > limit
    rows = min(32 if long and layout.along else rows, power_of_2(layout.rows))
    if long:
        return Tile(rows, max(1, (BLOCK * most // 32 << 2 * (size == 2)) // rows), 32, True)
    return Tile(rows, classes, max(1, min(32, rows * classes // (32 * most))), False)


def _ahead(tile: Tile, size: int, device: torch.device) -> int:
    """The stages of the loop that reads tiles of scores of `size` bytes; 1: no tile is loaded ahead.

    A program that fills a multiprocessor would leave memory idle while it computes, so the next tile is loaded into
    shared memory meanwhile. Smaller programs share a multiprocessor and hide each other's latency.
    """
    if tile.warps < 32:
        return 1
    room = limits_of(device).shared_memory - 8192
    return max(1, min(3 if tile.long else 2, 1 + room // (tile.rows * tile.classes * size)))
