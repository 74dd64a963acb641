"""Sets of pixels in the order of their errors, and what each adds to the Jaccard loss of its set.

1. A unit is a set of pixels, or a class of a set. Of one score for each pixel, the score with the sign of the label is
   sorted; of a score for each class, the error of its probability, class after class.
2. A step is a fraction of the sizes of intersection and union before it: whole numbers, so that a long row is many
   programs'. The first kernel after the sort counts, the second knows what all blocks before its own have.
3. What the programs of a unit leave is put together by a kernel of units, which leaves the unit's factor. The last one
   multiplies the slopes by it, and takes those of classes through the softmax (`pixels`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.dtypes import compute_dtype
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.ordered import pixels
from losskit.kernels.gpu.ordered.keys import keys_kernel
from losskit.kernels.gpu.ordered.layout import flat, keys_of, reach_of, steps_of, tile_of
from losskit.kernels.gpu.ordered.steps import codes_kernel, signs_kernel, steps_kernel, units_kernel
from losskit.kernels.gpu.rows import per_row, step_of
from losskit.kernels.gpu.shared import TYPES, cdiv, index_type, power_of_2

PLACES = 2  # for operands of the formula
BLOCK = 1024  # pixels that a program takes
BLOCKS = 1024  # of them whose counts are added at once


def run(frame: Frame, wanted: int, told: dict[str, Any]) -> Outputs:
    """Value and gradient."""
    call, plan = frame.call, frame.call.plan
    input = call.operands[0]
    shape = torch.Size(plan.unreduced_shape(call.operands))
    units = shape.numel()
    classes = input.shape[1] if told["classes"] else 1
    sets = 1 if told["whole"] else units // classes
    frame.write(wanted & 1, [x.shape for x in call.operands], shape)
    if not units or not input.numel():
        return frame.of_no_units()
    width = input.numel() // units
    labels, *masks = [flat(x, sets, width) for x in call.operands[1:]]
    items = masks[0] if masks else None
    extras = [per_row(x, shape) for x in (call.mask, call.sample_weight, frame.each_upstream)]
    unit_steps = tuple(step_of(x) for x in extras)
    compute = compute_dtype([input])
    keys = keys_of(frame, compute, units, width)
    reach = [reach_of(labels), reach_of(items), units * width, *(units * step for step in unit_steps)]
    way = _Classes if told["classes"] else _Signs
    scores = way(frame, told, labels, items, extras, (sets, classes, width), max(reach))
    lost = scores.keys(keys)

    ordered, places = frame.sort(keys)
    block = min(power_of_2(width), BLOCK)
    blocks = cdiv(width, block)
    index = index_type(max(*reach, units * width) + block)
    steps = (*steps_of(labels), *steps_of(items))
    shared = {"CLASSES": told["classes"], "REWRITE": frame.rewrite, "INDEX": index, "BLOCK": block,
              "num_warps": min(max(block // 128, 1), 8)}  # fmt: skip
    codes = frame.empty((units, width), torch.int8)
    counts = frame.empty((2, units, blocks), torch.int32)
    frame.launch(
        codes_kernel, (units * blocks,),
        labels, items, frame.upstream, places, codes, counts, units, width, blocks, classes, int(plan.ignored), steps,
        **shared,
    )  # fmt: skip
    totals = frame.empty((units, blocks), torch.float64)
    slopes = None if frame.gradients[0] is None else frame.empty((units, width), compute)
    many = min(power_of_2(blocks), BLOCKS)
    frame.launch(
        steps_kernel, (units * blocks,),
        ordered, places, codes, counts, frame.upstream, frame.numbers, totals, slopes, units, width, blocks,
        EVALUATE=formulas.functions(plan.formula, PLACES).evaluate,
        ORDER=wire.ORDERED.statistics(plan.formula.operands), BLOCKS=many, **shared,
    )  # fmt: skip
    frame.add_up(units)
    if plan.reduction == "mean":
        if call.normalizer is None:
            frame.count(units)
        else:
            frame.denominator = call.normalizer
    factors = None if slopes is None else frame.empty((units,), torch.float64)
    frame.launch(
        units_kernel, (units,),
        totals, counts, lost, *extras, frame.upstream, factors, frame.values, frame.sums, frame.counts,
        units, blocks, lost.numel() // sets, classes, unit_steps,
        EVERY=told["absent"] or not told["classes"], REWRITE=frame.rewrite, INDEX=index, BLOCKS=many,
        num_warps=min(max(many // 128, 1), 4),
    )  # fmt: skip
    frame.finish()
    if slopes is not None and factors is not None:
        scores.gradient(slopes, factors)
    return frame.outputs()


class _Signs:
    """One score for each pixel."""

    def __init__(
        self, frame: Frame, told: dict[str, Any], labels: Tensor, items: Tensor | None, extras: list[Tensor | None],
        sizes: tuple[int, int, int], reach: int,
    ) -> None:  # fmt: skip
        self.frame, self.labels, self.items, self.mask = frame, labels, items, extras[0]
        self.sets, _, self.width = sizes
        self.input = input = flat(frame.call.operands[0], self.sets, self.width)
        tile = tile_of(self.sets, self.width)
        self.steps = (*steps_of(input), *steps_of(labels), 0, 0, *steps_of(items), step_of(self.mask))
        self.grid, self.blocks = (cdiv(self.sets, tile.rows) * tile.blocks,), tile.blocks
        index = index_type(max(reach, reach_of(input)) + tile.rows * self.width + tile.block)
        self.shared = {"REWRITE": frame.rewrite, "INDEX": index, "ROWS": tile.rows, "BLOCK": tile.block,
                       "num_warps": tile.warps}  # fmt: skip

    def keys(self, keys: Tensor) -> Tensor:
        """Write what is sorted. Which blocks of a set make it NaN."""
        frame, call = self.frame, self.frame.call
        lost = frame.empty((self.sets, self.blocks), torch.int32)
        frame.launch(
            keys_kernel, self.grid,
            self.input, self.labels, None, self.items, self.mask, frame.upstream, frame.record, keys, None, lost,
            self.sets, self.width, self.blocks, frame.number(call.operands[0].shape), self.steps,
            SIGNS=True, DESCENDING=False, CHECKED=call.checked, **self.shared,
        )  # fmt: skip
        return lost

    def gradient(self, slopes: Tensor, factors: Tensor) -> None:
        """Multiply the slopes by the factors of their sets."""
        frame = self.frame
        frame.launch(
            signs_kernel, self.grid,
            self.items, frame.upstream, frame.denominator, slopes, factors, frame.gradients[0], self.sets, self.width,
            self.blocks, frame.divisor, self.steps, **self.shared,
        )  # fmt: skip


class _Classes:
    """A score for each class of a pixel."""

    def __init__(
        self, frame: Frame, told: dict[str, Any], labels: Tensor, items: Tensor | None, extras: list[Tensor | None],
        sizes: tuple[int, int, int], reach: int,
    ) -> None:  # fmt: skip
        self.frame, self.labels, self.mask = frame, labels, extras[0]
        self.sets, self.classes, self.width = sizes
        input = frame.call.operands[0]
        self.samples = input.shape[0]
        self.each = input[0, 0].numel()
        self.scores = input.reshape(self.samples, self.classes, self.each)
        block = power_of_2(self.classes)
        number = min(power_of_2(self.each), max(1, pixels.TILE // block))
        self.blocks = cdiv(self.each, number)
        self.grid = (self.samples * self.blocks,)
        self.steps = (*self.scores.stride(), *steps_of(labels), step_of(self.mask))
        far = sum((n - 1) * step for n, step in zip(self.scores.shape, self.scores.stride(), strict=True))
        self.shared = {
            "WHOLE": told["whole"], "REWRITE": frame.rewrite, "T": TYPES[compute_dtype([input])],
            "INDEX": index_type(max(far, reach) + number + block), "PIXELS": number, "CLASSES": block,
            "num_warps": min(max(number * block // 128, 1), 16),
        }  # fmt: skip

    def keys(self, keys: Tensor) -> Tensor:
        """Write what is sorted. Which blocks of a set make it NaN."""
        frame = self.frame
        lost = frame.empty((self.samples, self.blocks), torch.int32)
        frame.launch(
            pixels.errors_kernel, self.grid,
            self.scores, self.labels, self.mask, frame.upstream, frame.record, keys, lost, self.classes, self.each,
            self.width, self.blocks, int(frame.call.plan.ignored), frame.number(frame.call.operands[0].shape),
            self.steps, CHECKED=frame.call.checked, **self.shared,
        )  # fmt: skip
        return lost

    def gradient(self, slopes: Tensor, factors: Tensor) -> None:
        """Take the slopes by errors through the softmax."""
        frame = self.frame
        frame.launch(
            pixels.gradient_kernel, self.grid,
            self.scores, self.labels, frame.upstream, frame.denominator, slopes, factors, frame.gradients[0],
            self.classes, self.each, self.width, self.blocks, int(frame.call.plan.ignored), frame.divisor, self.steps,
            **self.shared,
        )  # fmt: skip
