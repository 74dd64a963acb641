"""Lists of scores in the order of a key: the share of each in the exponentials of those from it on.

1. Three kernels after the sort. From the end of a list on, the first adds up what comes after each element. From the
   beginning on, the second computes shares and the formula, and adds up what the shares before an element take from it.
   The third multiplies by what the mean divides by, and brings slopes to the places of their elements.
2. A sum of exponentials is that of distances to the largest score in it, which changes along the list: so scores may be
   as far apart as they like. Own exponentials are left out of sums, not subtracted from them.
3. Tied elements share the sums of their tie. What it has in all is known at its first element, from the end on, and at
   its last one, from the beginning on; an element looks there. Without ties each element is both.
4. With Efron's method the event at place l of d counts 1 - l/d of each tied event.
"""

from __future__ import annotations

from typing import Any

import torch

from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.ordered.keys import keys_kernel
from losskit.kernels.gpu.ordered.layout import flat, keys_of, reach_of, steps_of, tile_of
from losskit.kernels.gpu.ordered.scans import after_kernel, before_kernel, gradient_kernel
from losskit.kernels.gpu.rows import per_row, step_of
from losskit.kernels.gpu.shared import cdiv, index_type

PLACES = 2  # for operands of the formula


def run(frame: Frame, wanted: int, told: dict[str, Any]) -> Outputs:
    """Value and gradient."""
    call, plan = frame.call, frame.call.plan
    shape, width = call.operands[0].shape[:-1], call.operands[0].shape[-1]
    rows = shape.numel()
    frame.write(wanted & 1, [x.shape for x in call.operands], shape)
    if not rows or not width:
        return frame.of_no_units()
    input, key, *others = [flat(x, rows, width) for x in call.operands]
    items = others.pop() if told["masks"] else None
    events = others.pop() if told["events"] else None
    extras = [per_row(x, shape) for x in (call.mask, call.sample_weight, frame.each_upstream)]
    steps = (*steps_of(input), *steps_of(key), *steps_of(events), *steps_of(items), *(step_of(x) for x in extras))
    tile = tile_of(rows, width)
    programs = cdiv(rows, tile.rows)
    reach = [reach_of(x) for x in (input, key, events, items)] + [rows * step_of(x) for x in extras]
    index = index_type(max(*reach, rows * width) + tile.rows * width + tile.block)
    shared = {"REWRITE": frame.rewrite, "INDEX": index, "ROWS": tile.rows, "BLOCK": tile.block,
              "num_warps": tile.warps}  # fmt: skip
    keys = keys_of(frame, key.dtype, rows, width)
    many, lost = (frame.empty((rows, tile.blocks), torch.int32) for _ in range(2))
    frame.launch(
        keys_kernel, (programs * tile.blocks,),
        input, key, events, items, extras[0], frame.upstream, frame.record, keys, many, lost, rows, width, tile.blocks,
        frame.number(call.operands[0].shape), steps,
        SIGNS=False, DESCENDING=told["descending"], CHECKED=call.checked, **shared,
    )  # fmt: skip
    ordered, places = frame.sort(keys)
    elements = frame.empty((3 if told["tied"] else 2, rows, width), torch.float64)
    groups = frame.empty((2, rows, width), torch.int32) if told["tied"] else None
    frame.launch(
        after_kernel, (programs,),
        input, events, items, frame.upstream, ordered, places, elements, groups, rows, width, steps,
        TIED=told["tied"], **shared,
    )  # fmt: skip
    frame.add_up(programs)
    if plan.reduction == "mean":
        if call.normalizer is None:
            frame.count(programs)
        else:
            frame.denominator = call.normalizer
    gradient = flat(frame.gradients[0], rows, width)
    learns = gradient is not None
    slopes = frame.empty((5 if told["tied"] else 1, rows, width), torch.float64) if learns else None
    factors = frame.empty((rows,), torch.float64) if learns else None
    frame.launch(
        before_kernel, (programs,),
        input, events, items, *extras[1:], frame.upstream, frame.numbers, ordered, places, elements, groups, many, lost,
        slopes, factors, frame.values, frame.sums, frame.counts, rows, width, tile.blocks, steps,
        EVALUATE=formulas.functions(plan.formula, PLACES).evaluate, TIED=told["tied"], EFRON=told["efron"], **shared,
    )  # fmt: skip
    frame.finish()
    if learns:
        frame.launch(
            gradient_kernel, (programs * tile.blocks,),
            events, items, frame.upstream, frame.denominator, places, groups, slopes, factors, gradient, rows, width,
            tile.blocks, frame.divisor, steps, TIED=told["tied"], **shared,
        )  # fmt: skip
    return frame.outputs()
