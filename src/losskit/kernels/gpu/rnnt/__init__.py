"""The transducer family on a GPU: the log-softmax of all nodes, the lattice of each sample, the gradient of all nodes.

1. Memory decides: the scores (N, T, U + 1, C) are read once for the log-softmax of the nodes (`nodes_kernel`) and once
   for the gradient (`gradient_kernel`), which is written once; no softmax is stored.
2. Between the two the lattice needs two numbers of each node, the probabilities of its arcs. They lie along
   anti-diagonals t + u, so that a step of `lattice_kernel` loads neighbours. A program walks forward through a sample's
   diagonals, a lane for each u, and another one backward at the same time; loads are issued two diagonals ahead.
3. A mass has an exponent of its own (`masses`): nothing in a step waits for an exponential or a logarithm, and scores
   that contradict each other by thousands need no other way.
4. When the total mass is close to 1, minus its logarithm has no digits. What is missing to 1 is the sum of what leaves
   the lattice at each node: the mass that comes there, times the probability of classes that lead nowhere. That is a
   sum of positive numbers, and the loss is -log1p of minus it.
5. The gradient of the two classes that lead on is a difference of two products of positive numbers, none of which is
   1 - p by subtraction, as in csrc/rnnt.h.
6. How many samples have a loss is known when all lengths are read, so the mean divides in a launch between the two.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, float64, int32, int64

from losskit.domains import log_probability as log_probability_domain
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.rnnt.gradient import gradient_kernel
from losskit.kernels.gpu.rnnt.lattice import lattice_kernel
from losskit.kernels.gpu.rnnt.nodes import nodes_kernel
from losskit.kernels.gpu.sequences import divide
from losskit.kernels.gpu.shared import TYPES, cdiv, power_of_2

ELEMENTS = 1024  # scores that a program takes at once


def passes(plan: Any) -> str:
    """How the kernels go over the operands, in words."""
    return "several passes"


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradient."""
    call = frame.call
    x = call.operands[0]
    batched = x.ndim == 4
    samples = x.shape[0] if batched else 1
    frame.write(wanted & 1, [x, *(y.shape for y in call.operands[1:])], (samples,))
    frame.add_up(samples)
    divide(frame, samples, alike=False)
    if samples:
        _launch(frame, samples)
    if frame.values is not None and not batched:
        frame.values = frame.values.squeeze(0)
    return frame.outputs()


def _launch(frame: Frame, samples: int) -> None:
    """All kernels, for at least one sample."""
    call, plan = frame.call, frame.call.plan
    x, targets, *lengths = call.operands
    number, gradient = frame.number(x.shape), frame.gradients[0]
    if x.ndim == 3:
        x, targets = x.unsqueeze(0), targets.unsqueeze(0)
        gradient = None if gradient is None else gradient.unsqueeze(0)
    # Copied without waiting: safe, because kernels run after the copy.
    on_gpu = frame.device.type == "cuda"
    inputs, outputs = (y.reshape(-1).to(frame.device, non_blocking=on_gpu) for y in lengths)
    weight, mask, each_upstream = (
        None if y is None else y.expand(samples) for y in (call.sample_weight, call.mask, frame.each_upstream)
    )
    frames, columns, classes = x.shape[1:]
    blank = plan.blank % classes
    nodes, diagonals = samples * frames * columns, samples * (frames + columns) * columns
    kind, upstream = TYPES[call.compute], frame.upstream if frame.rewrite else None
    x_step, target_step = x.stride(), targets.stride()
    extra_step = tuple(0 if y is None else y.stride(0) for y in (inputs, outputs, mask, weight, each_upstream))

    def masses() -> tuple[Tensor, Tensor]:
        return frame.empty((diagonals,), float64), frame.empty((diagonals,), int32)

    facts = frame.empty((samples, 5), int64, zero=True)
    of_blank, of_label, lost = masses(), masses(), frame.empty((diagonals,), float64)
    statistics = frame.empty((nodes, 3) if plan.scores else (1,), float64)
    block = min(power_of_2(classes), 1024)
    rows = max(1, ELEMENTS // block)
    if nodes:
        frame.launch(
            nodes_kernel, (cdiv(nodes, rows),),
            x, targets, inputs, outputs, mask, upstream, frame.record, facts, statistics, *of_blank, *of_label, lost,
            number, nodes, frames, columns, classes, blank, x_step, target_step, extra_step,
            log_probability_domain.high if call.checked and not plan.scores else None,
            plan.scores, call.checked, kind, rows, block,
        )  # fmt: skip
    total = frame.empty((samples,), float64), frame.empty((samples,), int32)
    before, after = (of_blank, of_label) if gradient is None else (masses(), masses())
    width = max(power_of_2(columns), 8)
    frame.launch(
        lattice_kernel, (samples, 1 if gradient is None else 2),
        inputs, outputs, mask, weight, upstream, frame.record, facts, *of_blank, *of_label, lost, *before, *after,
        *total, frame.values, frame.sums, frame.counts, number, frames, columns, extra_step,
        call.checked, gradient is not None, width, num_warps=min(max(width // 32, 1), 16),
    )  # fmt: skip
    frame.finish()
    if gradient is not None and nodes:
        frame.launch(
            gradient_kernel, (cdiv(nodes, rows),),
            x, targets, weight, each_upstream, frame.upstream, frame.denominator, facts, statistics, *of_blank,
            *of_label, *before, *after, *total, gradient, frame.divisor, nodes, frames, columns, classes, blank,
            x_step, target_step, extra_step, gradient.stride(), float(plan.emission),
            float(plan.clamp) if plan.clamp > 0 else None, plan.scores, kind, rows, block,
        )  # fmt: skip
