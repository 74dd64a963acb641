"""The lists family on a GPU: a formula of the pairs of items in a list of which the first is more relevant.

1. A program takes a few items of a list, and goes over all items in blocks, the second ones of the pairs; no pair is
   stored. It evaluates each pair from both sides, so that an item's gradient is one sum, in one order: nothing is added
   atomically.
2. Where the formula or `k` asks for ranks or gains, a kernel before counts what comes before each item, by score and
   by relevance. Gains and discounts are doubles, and so are their differences, rounded once.
3. Scores are subtracted as floats, and values and slopes are added in double. Where a sum is not finite, the pairs of
   the program's items are computed once more in double, where intermediate results do not overflow.
4. What the programs of a list leave is put together by a kernel of lists, which leaves the list's factor; a last one
   multiplies the items' sums by it. How many lists count is known between these two.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from losskit.dtypes import HALVES, compute_dtype
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.lists.losses import gradient_kernel, lists_kernel
from losskit.kernels.gpu.lists.pairs import pairs_kernel, ranks_kernel
from losskit.kernels.gpu.rows import per_row, step_of
from losskit.kernels.gpu.shared import TYPES, cdiv, index_type, power_of_2

TILE = 1024  # pairs that a program takes at once, eight for each thread: twice as many spill registers
ACROSS = 128  # of them with one first item, at most
PLACES = 7  # for operands of the formula
LISTS = 32  # that a program of the last two kernels takes


def passes(plan: Any) -> str:
    """How the kernels go over the operands, in words."""
    return "several passes"


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradient."""
    call, plan = frame.call, frame.call.plan
    input, relevance, *others = call.operands
    shape, width = input.shape[:-1], input.shape[-1]
    rows, items = shape.numel(), others[0] if others else None
    like = input if input.is_contiguous() else torch.empty_like(input, device="meta")
    frame.write(wanted & 1, [like, *(x.shape for x in call.operands[1:])], shape)
    programs = cdiv(rows, LISTS)
    frame.add_up(programs)
    _divide(frame, programs)
    if rows:
        gradient = frame.gradients[0]
        extras = [per_row(x, shape) for x in (call.mask, call.sample_weight, frame.each_upstream)]
        steps = (*_steps(input), *_steps(relevance), *_steps(items), *(step_of(x) for x in extras))
        block = min(power_of_2(max(width, 1)), ACROSS)
        own = min(power_of_2(max(width, 1)), max(1, TILE // block))
        tiles = max(1, cdiv(width, own))
        reach = [sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True)) for x in call.operands]
        index = index_type(max(*reach, rows * width, *(rows * step_of(x) for x in extras)) + own + block)
        spoken = set(plan.spoken)
        most = min(plan.k or width, width)
        gained = "gain_difference" in spoken
        ranked = most < width or gained or bool(spoken - {"difference", "relevance_difference"})

        def numbers(there: bool, dtype: torch.dtype, each: int = width, lists: int = rows) -> Tensor | None:
            return frame.empty((lists, each), dtype) if there else None

        ranks = numbers(ranked, torch.int32)
        discounts = numbers("discount_difference" in spoken, torch.float64)
        gains, best = numbers(gained, torch.float64), numbers(gained, torch.float64, tiles)
        distances = numbers("distance_discount" in spoken, torch.float64, lists=1)
        shared = {
            "T": TYPES[compute_dtype([input])], "REWRITE": frame.rewrite, "INDEX": index, "ROWS": own, "BLOCK": block,
            "num_warps": min(max(own * block // 256, 1), 4),
        }  # fmt: skip
        if ranked:
            frame.launch(
                ranks_kernel, (rows * tiles,),
                input, relevance, items, frame.upstream, ranks, discounts, gains, best, distances, width, tiles, most,
                steps, **shared,
            )  # fmt: skip
        totals, counts, states = (
            frame.empty((rows, tiles), dtype) for dtype in (torch.float64, torch.int32, torch.int32)
        )
        slopes = numbers(gradient is not None, torch.float64)
        frame.launch(
            pairs_kernel, (rows * tiles,),
            input, relevance, items, extras[0], frame.upstream, frame.numbers, frame.record, ranks, discounts, gains,
            best, distances, totals, counts, states, slopes, width, tiles, most, frame.number(input.shape), steps,
            EVALUATE=formulas.functions(plan.formula, PLACES).evaluate, ORDER=wire.LISTS.statistics(plan.spoken),
            S=tl.float32 if input.dtype in HALVES else tl.float64, CHECKED=call.checked,
            TILES=min(power_of_2(tiles), 128), **shared,
        )  # fmt: skip
        factors = numbers(gradient is not None, torch.float64, 1)
        frame.launch(
            lists_kernel, (programs,),
            extras[1], extras[2], frame.upstream, totals, counts, states, factors, frame.values, frame.sums,
            frame.counts, rows, tiles, steps, plan.averaged, frame.rewrite, index, LISTS, num_warps=1,
        )  # fmt: skip
        frame.finish()
        if gradient is not None:
            frame.launch(
                gradient_kernel, (programs,),
                items, frame.upstream, frame.denominator, factors, slopes, gradient, rows, width, frame.divisor, steps,
                _steps(gradient), frame.rewrite, index, LISTS, min(block, 64),
            )  # fmt: skip
    return frame.outputs()


def _divide(frame: Frame, programs: int) -> None:
    """Find the denominator of a mean, which lists without a pair are no part of."""
    if frame.call.plan.reduction == "mean":
        if frame.call.normalizer is not None:
            frame.denominator = frame.call.normalizer
        elif programs:
            frame.count(programs)
        else:
            frame.divisor = 0


def _steps(x: Tensor | None) -> tuple[int, int]:
    """From one list to the next, and from one item to the next."""
    if x is None:
        return 0, 0
    return (x.stride(0) if x.ndim > 1 else 0), x.stride(-1)
