"""The chain family on a GPU: all chains of tags against the right one, forward and backward, a program for each sample.

1. Masses are relative to the right chain's, step by step: the score of its tag and of its move is subtracted from a
   step's scores before their exponentials are taken. The mass of the right chain is then 1, and is not stored; what is
   stored is the mass of the chains that have left it. The loss is log1p of that, with all digits however small.
2. A mass has an exponent of its own (`masses`): scores that contradict each other by thousands need no other way.
3. Latency dominates a step. So the exponentials of transitions and scores are computed before, for all steps at once
   (`matrix_kernel`, `steps_kernel`), and loads are issued two steps ahead: a step is a product of a vector and a matrix
   of masses. Up to 64 tags the matrix stays in registers; of more it is read in columns, and a step's masses are
   exchanged through memory.
4. `forward_kernel` leaves the masses before each step, `backward_kernel` the emissions' gradient and the masses after a
   step, in the place of the step's own. The transitions' gradient is a sum of products of both over all steps, which no
   longer depend on each other: `pairs_kernel` takes a tile of the matrix for a group of samples. Groups are added in
   their order.
5. The gradient by the score of the right tag is minus the sum of the other tags', not p - 1.
6. How many samples have a loss is known when all lengths are read, so the mean divides in a launch between the two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit.kernels.gpu.crf.chains import backward_kernel, forward_kernel
from losskit.kernels.gpu.crf.pairs import add_kernel, pairs_kernel
from losskit.kernels.gpu.crf.steps import matrix_kernel, steps_kernel
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.sequences import divide
from losskit.kernels.gpu.shared import cdiv, power_of_2

Masses = tuple[Tensor, Tensor]  # numbers and their exponents
WHOLE = 4096  # exponentials of transitions that stay in registers
TILE = 32  # of the transitions' gradient, rows and columns
GROUPS = 128  # of samples; a number of the card's would give other bits on another card
MOST = 512  # tags: with 1,024 a thread holds more than its registers


def why_not(plan: Any, arguments: Any) -> str | None:
    tags = arguments.operands[0].shape[-1]
    return f"the GPU kernel takes at most {MOST} tags, and there are {tags}" if tags > MOST else None


def passes(plan: Any) -> str:
    """How the kernels go over the operands, in words."""
    return "several passes"


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradients."""
    call, plan = frame.call, frame.call.plan
    x = call.operands[0]
    batched = x.ndim == 3
    samples = x.shape[0] if batched else 1
    frame.write(wanted & plan.gradients, [x, *(y.shape for y in call.operands[1:])], (samples,))
    frame.add_up(samples)
    alike = "lengths" not in plan.names and call.mask is None and call.sample_weight is None
    divide(frame, samples, alike)  # samples without steps do not count
    gradients = dict(zip(plan.names, frame.gradients, strict=True))
    if samples:
        _launch(frame, samples, dict(zip(plan.names, call.operands, strict=True)), gradients)
    else:
        for gradient in gradients.values():
            if gradient is not None:
                gradient.zero_()
    if frame.values is not None and not batched:
        frame.values = frame.values.squeeze(0)
    return frame.outputs()


def _launch(frame: Frame, samples: int, given: dict[str, Tensor], gradients: dict[str, Tensor | None]) -> None:
    """All kernels, for at least one sample."""
    call = frame.call
    number = frame.number(given["emissions"].shape)
    x, target = (given[name] if given["emissions"].ndim == 3 else given[name].unsqueeze(0)
                 for name in ("emissions", "target"))  # fmt: skip
    steps, tags = x.shape[1:]
    lengths = given.get("lengths")
    if lengths is not None:  # copied without waiting: safe, because kernels run after the copy
        lengths = lengths.reshape(-1).to(frame.device, non_blocking=frame.device.type == "cuda")
    moves, start, end = given["transitions"], given.get("start"), given.get("end")
    weight, mask, each_upstream = (
        None if y is None else y.expand(samples) for y in (call.sample_weight, call.mask, frame.each_upstream)
    )
    width = max(power_of_2(tags), 4)
    columns = width if width * width <= WHOLE else max(WHOLE // 2 // width, 1)
    wants = any(y is not None for y in gradients.values())

    def masses(count: int) -> Masses:
        return frame.empty((count,), torch.float64), frame.empty((count,), torch.int32)

    several = int(moves.ndim == 3)
    matrices = samples if several else 1
    matrix, tops = masses(matrices * tags * tags), frame.empty((matrices, 2), torch.float64)
    facts = frame.empty((samples, 5), torch.int64, zero=True)
    own, before = masses(samples * steps * tags), masses(samples * steps * tags if wants else 1)
    row, totals = masses(samples * tags if columns < width else 1), masses(samples)
    x_step, target_step = x.stride(), target.stride()
    move_step, start_step, end_step = (
        (0,) if y is None else y.stride() if y.ndim > dims else (0, *y.stride())
        for y, dims in ((moves, 2), (start, 1), (end, 1))
    )
    extra_step = tuple(0 if y is None else y.stride(0) for y in (lengths, mask, weight, each_upstream))
    upstream = frame.upstream if frame.rewrite else None
    warps = min(max(width * columns // 512, 1), 8)
    rows = max(1, 1024 // width)
    blocks = cdiv(steps, rows)
    frame.launch(
        matrix_kernel, (matrices,), moves, *matrix, tops, tags, move_step, width, columns, num_warps=warps
    )  # fmt: skip
    frame.launch(
        steps_kernel, (samples * blocks,),
        x, target, lengths, moves, start, end, mask, upstream, frame.record, tops, facts, *own,
        number, steps, tags, blocks, several, x_step, target_step, move_step, start_step, end_step, extra_step,
        call.checked, width, rows,
    )  # fmt: skip
    frame.launch(
        forward_kernel, (samples,),
        target, lengths, mask, weight, upstream, *matrix, facts, *own, *before, *row, *totals, frame.values,
        frame.sums, frame.counts, steps, tags, several, target_step, extra_step, wants, width, columns, num_warps=warps,
    )  # fmt: skip
    frame.finish()
    if wants:
        kept = _Kept(target, weight, each_upstream, matrix, facts, own, before, row, totals, target_step, extra_step)
        _launch_backward(frame, given, gradients, kept, (samples, steps, tags, several), (width, columns, warps))


class _Kept(NamedTuple):
    """What the kernels of gradients take from those of the loss."""

    target: Tensor
    weight: Tensor | None
    each_upstream: Tensor | None
    matrix: Masses
    facts: Tensor
    own: Masses
    before: Masses
    row: Masses
    totals: Masses
    target_step: tuple[int, ...]
    extra_step: tuple[int, ...]


def _launch_backward(
    frame: Frame, given: dict[str, Tensor], gradients: dict[str, Tensor | None], kept: _Kept,
    sizes: tuple[int, int, int, int], tile: tuple[int, int, int],
) -> None:  # fmt: skip
    """The kernels of the gradients."""
    (samples, steps, tags, several), (width, columns, warps) = sizes, tile
    # What samples share has a gradient that is added up from theirs, in order.
    parts: list[tuple[Tensor, Tensor]] = []
    by_sides = []
    for name in ("start", "end"):
        gradient = gradients.get(name)
        if gradient is not None and given[name].ndim == 1:
            part = frame.empty((samples, tags), torch.float64)
            parts.append((part, gradient))
            gradient = part
        by_sides.append(gradient)
    by_x = gradients["emissions"]
    gradient_step: tuple[int, ...] = (0, 0, 0)
    if by_x is not None:
        by_x = by_x if by_x.ndim == 3 else by_x.unsqueeze(0)
        gradient_step = by_x.stride()
    scales = frame.empty((samples,), torch.float64)
    frame.launch(
        backward_kernel, (samples,),
        kept.target, kept.weight, kept.each_upstream, frame.upstream, frame.denominator, *kept.matrix, kept.facts,
        *kept.own, *kept.before, *kept.row, *kept.totals, scales, by_x, *by_sides, frame.divisor, steps, tags, several,
        kept.target_step, kept.extra_step, gradient_step, gradients["transitions"] is not None, width, columns,
        num_warps=warps,
    )  # fmt: skip
    by_moves = gradients["transitions"]
    if by_moves is not None:
        groups = samples if several else min(samples, GROUPS)
        tiles = cdiv(tags, TILE)
        out = by_moves
        if not several:
            out = frame.empty((groups, tags * tags), torch.float64)
            parts.append((out, by_moves))
        frame.launch(
            pairs_kernel, (groups, tiles, tiles),
            kept.target, *kept.matrix, kept.facts, *kept.before, *kept.own, scales, out, samples, steps, tags, several,
            kept.target_step,
            TILE=min(max(power_of_2(tags), 4), TILE),
        )  # fmt: skip
    for part, gradient in parts:
        count = gradient.numel()
        upstream = frame.upstream if frame.rewrite else None
        frame.launch(add_kernel, (cdiv(count, 128),), part, upstream, gradient, part.shape[0], count, BLOCK=128)
