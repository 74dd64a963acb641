"""The embeddings family on a GPU: sums over rows, the formula of their statistics, gradients by the embeddings.

1. A program takes a few rows and holds them in registers: memory is read once and the gradients are written. Rows
   longer than LONGEST are read in blocks, once for each pass over them.
2. Differences and gradients of float32 are float32. Sums are float64: squares of float32 neither overflow it nor
   exhaust its digits. What is computed per row is float64 too. The extra conversions are hidden by memory latency.
   Halves are computed in float32 throughout, general powers in float64.
3. Numbers whose squares could leave their range are scaled by a power of two. Where sums have the dtype of the elements
   it comes from the row's largest magnitude, before the sum; else from the sum, before the gradients.
4. Near cosine 1 the cosine has no digits left for 1 - cosine, nor floats for the gradient: both come from
   w = x - |x|/|y| y, by fused multiply-adds: 1 - cosine = |w|^2 / (2 |x|^2). An error of |x|/|y| counts only squared.
5. Roots, divisions and the formula must run once for each row. A sum leaves the same result in every thread that holds
   a part of the row. So rows are redistributed over the threads before their arithmetic.
6. Where a slope is 0 so is the gradient, whatever is in the row.
"""

from __future__ import annotations

import math

import torch
import triton.language as tl
from torch import Tensor

from losskit.dtypes import HALVES
from losskit.kernels import wire
from losskit.kernels.gpu import formulas
from losskit.kernels.gpu.embeddings.kernel import embeddings_kernel
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.rows import alignment, per_row, step_of, tile_of
from losskit.kernels.gpu.shared import cdiv, index_type

LONGEST = 8192  # elements of a row in registers (float64: half as many); longer rows are read in blocks of half of it


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradients."""
    call, operands = frame.call, frame.call.operands
    plan, shape, width = call.plan, operands[0].shape[:-1], operands[0].shape[-1]
    rows = shape.numel()
    pairs = 0 if {"cosine", "cosine_distance"} & set(plan.formula.operands) else plan.embeddings - 1 + plan.swap
    squares, general = not pairs or plan.p == 2.0, pairs > 0 and plan.p not in (0.0, 1.0, 2.0, math.inf)
    doubles = call.compute == torch.float64
    halves = not doubles and all(x.dtype in HALVES for x in operands[: plan.embeddings])
    of_elements = tl.float64 if doubles or (general and not halves) else tl.float32
    of_sums = tl.float32 if halves else tl.float64
    units = general or (pairs > 0 and plan.p == math.inf) or (squares and of_elements == of_sums)
    tile = tile_of(rows, width, LONGEST, 16, registers=2 if of_elements == tl.float64 else 1)
    programs = cdiv(rows, tile.rows)
    frame.divide_by(rows)
    frame.write(wanted, [x.shape for x in operands], shape)
    frame.add_up(programs)
    if rows:
        embeddings = [_as_rows(x, rows, width) for x in operands[: plan.embeddings]]
        gradients = frame.gradients
        target, by_target = [*operands, None][plan.embeddings], [*gradients, None][plan.embeddings]
        extras = [target, call.sample_weight, call.mask, frame.each_upstream]
        missing = [None] * (3 - plan.embeddings)
        inputs = [*embeddings, *missing, *(per_row(x, shape) for x in extras)]
        evaluate, violation, _ = formulas.functions(plan.formula)
        code = wire.EMBEDDINGS.statistics(plan.formula.operands)
        checked = call.checked and any(not domain.everything for domain in plan.formula.required)
        row_steps = [step_of(x) for x in inputs[:3]]
        aligned = alignment(width, *row_steps)
        reach = max((rows - 1) * max(step_of(x) for x in inputs), rows * width) + tile.block
        frame.launch(
            embeddings_kernel, (programs,),
            *inputs, frame.upstream, frame.denominator, frame.numbers, frame.record,
            frame.values, frame.sums, *gradients[: plan.embeddings], *missing, by_target,
            rows, width // aligned, frame.divisor, frame.number(shape) if checked else 0,
            tuple(step // aligned for step in row_steps), tuple(step_of(x) for x in inputs[3:]),
            evaluate, violation, code, pairs, plan.p, plan.eps, of_elements, of_sums, units, checked,
            frame.rewrite, index_type(reach), width <= tile.block, tile.rows, tile.block, aligned,
            num_warps=tile.warps,
        )  # fmt: skip
    return frame.outputs()


def _as_rows(x: Tensor, rows: int, width: int) -> Tensor:
    """An embedding as a matrix; a copy where its rows are not dense, or their distances are not all the same."""
    dense = x if x.stride(-1) == 1 or width <= 1 else x.contiguous()
    return dense.reshape(rows, width)
