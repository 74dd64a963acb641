"""The sequence family on a GPU: both ends of every sample's lattice at once, then gradients frame by frame.

1. `read_kernel` checks lengths and labels. `frames_kernel` takes the log-softmax of frames, looks for NaN and leaves
   the probabilities of the target's classes. `meet_kernel` runs forward through the first half of a sample's frames
   and, in another program, backward through the second half. `part_kernel` adds up the alignments where the two meet
   and, for the gradient, walks on through the other's half. `gradient_kernel` takes a frame each.
2. Backward is forward through reversed frames and labels, so one recursion serves both. A state keeps its mass with the
   emission of its frame; what flows into it, times the other direction's mass, is its posterior, and nothing divides
   by a probability. The posterior takes the place of the other's mass in memory.
3. Every mass is m * 2^(512 e), m a float64 between 2^-256 and 2^256 (or 0) and e an int32 of its own: it neither
   underflows nor needs logarithms, sums are aligned by two comparisons, and peaked scores have no path of their own.
   A mass below 2^(-512 * 2^30), a loss of 3.8e11, counts as none.
4. Latency dominates a step. So loads are issued two frames ahead, exponentials are computed for all frames in an
   earlier kernel, and lanes exchange once a step. A lane holds a label and the blank before it.
5. When the total mass is close to 1, minus its logarithm has no correct digits. Such a tiny loss is computed from the
   logarithm of the best path and the sum of all other paths relative to it, in a loop that only such samples enter.
6. Probabilities of the target's classes are float64, the others' T: the mass on the others bounds the loss from below,
   so their relative error is all that it costs. The gradient of a class with more than half of a frame is minus the
   sum of the other classes' gradients.
7. Labels are sorted by class once, so that posteriors of a class that occurs several times are added by a scan of
   runs, in a fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from losskit.domains import log_probability as log_probability_domain
from losskit.kernels.gpu.ctc.frames import frames_kernel
from losskit.kernels.gpu.ctc.gradient import gradient_kernel
from losskit.kernels.gpu.ctc.lattice import meet_kernel, part_kernel
from losskit.kernels.gpu.ctc.samples import read_kernel
from losskit.kernels.gpu.frame import Frame, Outputs
from losskit.kernels.gpu.shared import TYPES, cdiv, power_of_2


def passes(plan: Any) -> str:
    """How the kernels go over the operands, in words."""
    return "several passes"


def run(frame: Frame, wanted: int) -> Outputs:
    """Value and gradient."""
    call = frame.call
    x, targets = call.operands[:2]
    number = frame.number((*x.shape, *targets.shape))
    batched = x.ndim == 3
    samples = x.shape[1] if batched else 1
    frame.divide_by(samples)
    frame.write(wanted & 1, [x, *(x.shape for x in call.operands[1:])], (samples,))
    gradient = frame.gradients[0]
    if not batched:
        x, targets = x.unsqueeze(1), targets.unsqueeze(0)
        gradient = None if gradient is None else gradient.unsqueeze(1)
    # Copied without waiting: safe, because kernels run after the copy.
    on_gpu = frame.device.type == "cuda"
    lengths = [x.to(frame.device, non_blocking=on_gpu).expand(samples) for x in call.operands[2:]]
    extras = [None if x is None else x.expand(samples) for x in (call.sample_weight, call.mask, frame.each_upstream)]
    frame.add_up(samples)
    if samples:
        _launch(frame, x, targets, lengths, extras, gradient, number, _most(x, targets, call.operands[3]))
    if frame.values is not None and not batched:
        frame.values = frame.values.squeeze(0)
    return frame.outputs()


def _most(x: Tensor, targets: Tensor, lengths: Tensor) -> int:
    """An upper bound of the labels in a lattice, from what the host knows."""
    most = min(targets.shape[-1], x.shape[0])  # a sample with more labels than frames has no alignment
    if lengths.device != x.device and lengths.is_cpu and lengths.numel():
        most = min(most, max(int(lengths.max()), 0))
    return most


def _launch(
    frame: Frame, x: Tensor, targets: Tensor, lengths: list[Tensor], extras: list[Tensor | None],
    gradient: Tensor | None, number: int, most: int,
) -> None:  # fmt: skip
    """All kernels, for at least one sample."""
    call, plan = frame.call, frame.call.plan
    weight, mask, each_upstream = extras
    frames, samples, vocabulary = x.shape
    size, concatenated = targets.shape[-1], targets.ndim == 1
    width = max(power_of_2(most + 1), 8)
    kind = TYPES[call.compute]

    def doubles(*shape: int) -> Tensor:
        return frame.empty(shape, torch.float64)

    def integers(*shape: int) -> Tensor:
        return frame.empty(shape, torch.int32)

    facts = frame.empty((samples, 6), torch.int64)
    labels, classes, order = integers(samples, width), integers(samples, width), integers(samples, width)
    own_weight = 0 if weight is None else weight.stride(0)
    frame.launch(
        read_kernel, (samples,),
        targets, *lengths, mask, frame.upstream if frame.rewrite else None, frame.record, facts, labels, classes, order,
        number, samples, frames, vocabulary, plan.blank, size, most, 0 if concatenated else targets.stride(0),
        targets.stride(-1), lengths[0].stride(0), lengths[1].stride(0), 0 if mask is None else mask.stride(0),
        concatenated, call.checked, frame.rewrite, 128, width,
    )  # fmt: skip
    statistics = doubles(frames, samples, 3) if plan.scores else facts
    strides = x.stride()
    block = min(power_of_2(vocabulary), 1024)
    # Each frame has a row: of the sample's labels and a blank (emissions), or of its states (masses).
    spans = size if concatenated else most * samples
    emissions, emissions_e = doubles(frames * (spans + samples)), integers(frames * (spans + samples))
    if frames:
        rows = max(1, 1024 // max(block, width))
        frame.launch(
            frames_kernel, (cdiv(frames * samples, rows),),
            x, facts, labels, classes, statistics, emissions, emissions_e, frame.record,
            number, samples, frames, frames * samples, vocabulary, plan.blank, *strides,
            log_probability_domain.high if call.checked and not plan.scores else None,
            plan.scores, kind, rows, block, width,
        )  # fmt: skip
    count = frames * (2 * spans + samples) if gradient is not None else 1
    masses, masses_e = doubles(count), integers(count)
    ends, ends_e = doubles(samples, 2, 2 * width), integers(samples, 2, 2 * width)
    warps = min(max(width // 32, 1), 16)
    frame.launch(
        meet_kernel, (samples, 2),
        facts, labels, emissions, emissions_e, masses, masses_e, ends, ends_e, frames,
        gradient is not None, width, num_warps=warps,
    )  # fmt: skip
    losses = doubles(samples)
    frame.launch(
        part_kernel, (samples, 1 if gradient is None else 2),
        x, facts, labels, statistics, emissions, emissions_e, masses, masses_e, ends, ends_e, weight,
        losses, frame.values, frame.sums, samples, frames, plan.blank, *strides, own_weight,
        plan.scores, gradient is not None, plan.reduction == "mean", plan.zero_infinity,
        2.0**-12 if call.compute == torch.float32 else 1.0, width, num_warps=warps,
    )  # fmt: skip
    if gradient is not None and frames:
        block = min(power_of_2(vocabulary), 2048)
        frame.launch(
            gradient_kernel, (frames * samples,),
            x, facts, classes, order, statistics, masses, losses, weight, each_upstream, frame.upstream,
            frame.denominator, gradient, samples, frames, vocabulary, plan.blank, frame.divisor, *strides, own_weight,
            0 if each_upstream is None else each_upstream.stride(0), *gradient.stride(),
            plan.scores, plan.exact, plan.reduction == "mean", kind, block, width,
            num_warps=min(max(max(block, width) // 256, 1), 8),
        )  # fmt: skip
