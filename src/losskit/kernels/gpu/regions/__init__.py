"""The regions family on a GPU: sums over the pixels of a class, a formula of them, and the gradient by every score.

1. Three kernels: a program of the first adds up its pixels of a sample, for a tile of classes; the second adds what the
   programs left in their order, evaluates the formula in double, and leaves what a region's gradient is made of; the
   third reads the scores once more and writes the gradient. The denominator of a mean depends on which regions have a
   pixel, and is known after the second.
2. Terms are floats and are added in double, each lane by itself: lanes are combined once, after the loop.
3. A softmax needs all classes at once, and a pooled region all their sums: both take up to LONGEST classes. Otherwise
   classes are tiles of their own.
4. p and 1 - p are computed each with its digits; the gradient through a softmax is relative to the slope of the class
   with the largest score (the pivot), so that nothing cancels where that class has nearly all.
5. Pixels are in the order of the tensor's dimensions. A tensor whose pixels are not all the same distance apart is
   copied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit.domains import slack_of
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.regions.formula import regions_kernel
from losskit.kernels.gpu.regions.pixels import SUMS, gradient_kernel, sums_kernel
from losskit.kernels.gpu.shared import TYPES, cdiv, index_type, power_of_2
from losskit.plan import Arguments

LONGEST = 2048  # classes of a softmax, and of a pooled region
TILE = 1024  # numbers that a program takes at once, eight for each thread; more where a softmax has many classes
PROGRAMS = 2048  # about; each leaves the sums of its pixels
PLACES = 5  # for operands of the formula


def why_not(plan: Any, arguments: Arguments) -> str | None:
    """Why there is no kernel for this call."""
    classes = arguments.operands[0].shape[1]
    if classes > LONGEST and (plan.activation == "softmax" or plan.pooled):
        return f"regions whose classes depend on each other are taken for up to {LONGEST} classes"
    return None


class Tile(NamedTuple):
    """What a program takes at a time: pixels, classes of each, and by how many warps."""

    pixels: int
    classes: int
    warps: int


def tile_of(classes: int, pixels: int, together: bool, along: bool, double: bool) -> Tile:
    """together: all classes in one tile. along: pixels lie side by side in memory, not classes."""
    block = power_of_2(classes) if together else min(power_of_2(classes), 8 if along else 64)
    number = max(1, TILE // block)
    if along:  # half a cache line
        number = min(max(number, 16), max(1, 8192 // block))
    number = max(1, min(number >> double, power_of_2(pixels)))
    return Tile(number, block, min(max(number * block >> (7 if double else 8), 1), 32))


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradient."""
    call, plan = frame.call, frame.call.plan
    input, target, *others = call.operands
    samples, classes, *space = input.shape
    each, units = torch.Size(space).numel(), plan.unreduced_shape(call.operands)
    # Dense, in the order of the input's memory where its pixels can be walked with one step there.
    like = input if _evenly(torch.empty_like(input, device="meta")) else input.shape
    frame.write(wanted & 1, [like, *(x.shape for x in call.operands[1:])], units)
    if not input.numel() or not units.numel():
        return frame.of_no_units()
    pool = others.pop() if plan.pooled else None
    pixels = others[0] if others else None
    soft = target.ndim == input.ndim
    gradient = frame.gradients[0]
    placed = [_placed(x, input.ndim, each) for x in (input, gradient, target, pixels)]
    (scores, _), _, (targets, _), (counted, _) = placed
    steps = tuple(step for _, own in placed for step in own)
    extras = [None if x is None else x.expand(units) for x in (call.mask, call.sample_weight, frame.each_upstream)]
    unit_steps = tuple(step for x in extras for step in _steps(x, plan.batch, plan.pooled))
    double = call.compute == torch.float64
    tile = tile_of(classes, each, plan.activation == "softmax", steps[1] != 1, double)
    of_classes, tiles = cdiv(classes, tile.classes), cdiv(each, tile.pixels)
    tiles_each = cdiv(tiles, min(tiles, max(1, PROGRAMS // (samples * of_classes))))
    blocks = cdiv(tiles, tiles_each)
    sizes = samples - 1, classes - 1, each - 1
    reach = [sum(n * step for n, step in zip(sizes, own, strict=True)) for _, own in placed]
    reach += [samples * a + classes * b for a, b in zip(unit_steps[::2], unit_steps[1::2], strict=True)]
    index = index_type(max(*reach, samples * blocks * int(SUMS) * classes, samples * classes * each))
    background, regions = plan.first, 1 if plan.batch else samples
    all_blocks = samples * blocks // regions
    partial = frame.empty((samples * blocks, int(SUMS), classes), torch.float64)
    seen = frame.empty((samples * blocks,), torch.int32)
    activation = int(wire.Activation[plan.activation.upper()])
    slacks = [slack_of(x.dtype) for x in (input, target)]
    shared = {"ACTIVATION": activation, "SQUARES": plan.squares, "SMALLER": plan.smaller and soft, "SOFT": soft,
              "REWRITE": frame.rewrite, "T": TYPES[call.compute], "INDEX": index, "PIXELS": tile.pixels,
              "CLASSES": tile.classes, "num_warps": tile.warps}  # fmt: skip
    frame.launch(
        sums_kernel, (samples * blocks, of_classes),
        scores, targets, counted, extras[0], frame.upstream, frame.record, partial, seen,
        classes, background, each, blocks, tiles_each, int(plan.ignored), frame.number(input.shape), steps,
        unit_steps,
        CHECKED=call.checked, INPUT_SLACK=slacks[0], TARGET_SLACK=slacks[1], **shared,
    )  # fmt: skip
    block = power_of_2(classes) if plan.pooled else min(power_of_2(classes), 64)
    lanes = max(1, min(power_of_2(all_blocks), 1024 // block))
    grid = regions, cdiv(classes, block)
    frame.add_up(grid[0] * grid[1])
    _divide(frame, grid[0] * grid[1], units.numel(), soft and pixels is None)
    slopes = None if gradient is None else frame.empty((regions, int(SUMS), classes), torch.float64)
    weight = call.weight
    frame.launch(
        regions_kernel, grid,
        partial, seen, pool, weight, extras[1], extras[0], extras[2], frame.upstream, frame.numbers,
        frame.values, frame.sums, frame.counts, slopes,
        classes, background, all_blocks, _steps(pool, plan.batch, False), 0 if weight is None else weight.stride(0),
        unit_steps,
        formulas.functions(plan.formula, PLACES).evaluate, wire.REGIONS.statistics(plan.formula.operands),
        plan.squares, frame.rewrite, index, lanes, block, num_warps=min(max(lanes * block // 128, 1), 16),
    )  # fmt: skip
    frame.finish()
    if gradient is not None:
        frame.launch(
            gradient_kernel, (samples * blocks, of_classes),
            scores, targets, counted, frame.upstream, frame.denominator, slopes, gradient,
            classes, each, blocks, tiles_each, int(plan.ignored), frame.divisor, steps, BATCH=plan.batch, **shared,
        )  # fmt: skip
    return frame.outputs()


def _divide(frame: Frame, programs: int, units: int, every: bool) -> None:
    """Find the denominator of a mean. every: all pixels count."""
    call = frame.call
    weights = (call.weight, call.sample_weight, call.mask)
    if call.plan.reduction != "mean":
        return
    if call.normalizer is not None:
        frame.denominator = call.normalizer
    elif every and not call.plan.pooled and all(x is None for x in weights):
        frame.divisor = units
    else:
        frame.count(programs)


def _evenly(x: Tensor) -> bool:
    """Whether the pixels of a sample are walked with one step."""
    sizes, steps = x.shape[2:], x.stride()[2:]
    return all(steps[i] == sizes[i + 1] * steps[i + 1] for i in range(len(sizes) - 1))


def _placed(x: Tensor | None, ndim: int, each: int) -> tuple[Tensor | None, tuple[int, ...]]:
    """A tensor as a kernel takes it, copied where its pixels are not the same distance apart; and how far it is from
    one sample, class and pixel to the next."""
    if x is None:
        return None, (0, 0, 0)
    whole = x if x.ndim == ndim else x.unsqueeze(1)
    flat = whole.reshape(*whole.shape[:2], each)
    return x if flat.data_ptr() == x.data_ptr() else flat, flat.stride()


def _steps(x: Tensor | None, batch: bool, pooled: bool) -> tuple[int, int]:
    """From one region of samples to the next, and from one class to the next, of a number for each loss."""
    if x is None:
        return 0, 0
    return 0 if batch else x.stride(0), 0 if pooled else x.stride(-1)
