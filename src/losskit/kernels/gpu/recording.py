"""Repeating a call: what the host works out once for calls that differ only in where their tensors lie.

1. A small loss takes the host longer than the device: arguments are validated, layouts described, outputs made, kernels
   looked up. Nothing of it depends on the numbers in the tensors. So the first such call is noted, and the next ones
   only make the same outputs and launch the same compiled kernels with other addresses.
2. Calls are alike if their plan, settings, and each tensor's shape, strides, dtype, device, `requires_grad` and
   alignment are. Triton compiles for the alignment, too.
3. A kernel of a call that is repeated may read the call's tensors, memory that the call made, and tensors that stay
   where they are as long as the process runs. A call is not repeated if a kernel of it reads anything else (a copy, a
   sum by torch), or if two of its operands lie in the same place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from losskit.kernels.gpu.frame import Call, Frame, Outputs
from losskit.kernels.gpu.shared import OPTIONS
from losskit.kernels.gpu.violations import forgotten
from losskit.plan import Plan
from losskit.policy import state

MOST = 256  # calls of a plan that are kept


class Step(NamedTuple):
    """A launch: the compiled kernel or torch's function, its arguments, and which of them are tensors of the call."""

    launch: Callable[..., Any]
    arguments: list[Any]
    tensors: list[tuple[int, int]]  # the place of an argument, the number of the tensor


class Recording(NamedTuple):
    """What a call made and launched. Its tensors are numbered: the inputs first, then what it made."""

    made: list[tuple[torch.Size, tuple[int, ...], torch.dtype, bool]]  # the last: filled with zeros
    steps: list[Step]
    loss: int | None
    gradients: list[int | None]


class Template:
    """Calls that are alike: the call without its tensors, and what the first one did forward and backward."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.recordings: dict[Any, Recording | None] = {}  # by what the upstream gradient is like, None in forward

    def run(self, call: Call, upstream: Tensor | None, first: Callable[[Frame], Outputs]) -> Outputs:
        """Repeat what a call did before; the first time, do it and note it."""
        inputs = [x for x in (*call.operands, call.weight, upstream) if x is not None]
        key = None if upstream is None else _likeness(upstream)
        known = self.recordings.get(key)
        if known is not None:
            return repeat(known, inputs)
        frame = Frame(call, upstream, None)
        if key in self.recordings or len(self.recordings) > 4:
            return first(frame)
        frame.recorder = recorder = Recorder(frame, inputs)
        outputs = first(frame)
        self.recordings[key] = recorder.recording(outputs)
        return outputs


def template_of(plan: Plan, operands: Sequence[Tensor], weight: Tensor | None) -> Template:
    """The template of a call, empty if it is the first of its kind."""
    key = (
        torch.is_grad_enabled(), torch.is_autocast_enabled("cuda"), state.checks, state.empty, forgotten(),
        None if weight is None else _likeness(weight), *map(_likeness, operands),
    )  # fmt: skip
    found = plan.templates.get(key)
    if found is None:
        if len(plan.templates) >= MOST:
            plan.templates.clear()
        found = plan.templates[key] = Template()
    return found


def _likeness(x: Tensor) -> Any:
    return x.shape, x.stride(), x.dtype, x.device, x.requires_grad, x.data_ptr() & 15


class Recorder:
    """Notes what a frame makes and launches."""

    def __init__(self, frame: Frame, inputs: Sequence[Tensor]) -> None:
        self.kept = {id(frame.numbers), id(frame.record)}
        self.tensors = list(inputs)
        self.numbers = {x.data_ptr(): i for i, x in enumerate(inputs)}
        self.ok = len(self.numbers) == len(inputs) and all(x.numel() for x in inputs)
        self.inputs = len(inputs)
        self.zeroed: list[bool] = []
        self.steps: list[Step] = []

    def made(self, x: Tensor, zero: bool) -> None:
        if x.numel():
            self.numbers[x.data_ptr()] = len(self.tensors)
        self.tensors.append(x)
        self.zeroed.append(zero)

    def launched(self, kernel: Any, compiled: Any, grid: tuple[int, ...], args: Sequence[Any], constants: Any) -> None:
        arguments = [*args, *(constants[name] for name in kernel.arg_names[len(args) :])]
        tensors = []
        for place, x in enumerate(arguments):
            if isinstance(x, Tensor) and id(x) not in self.kept:
                number = self.numbers.get(x.data_ptr()) if x.numel() else None
                if number is None or self.tensors[number].dtype != x.dtype:
                    self.ok = False
                    return
                tensors.append((place, number))
                arguments[place] = None
        if compiled is None:  # Triton interprets
            options = {name: value for name, value in constants.items() if name not in kernel.arg_names}
            launch = partial(kernel[grid], **options, **OPTIONS)
        else:
            launch = compiled[(*grid, 1, 1)[:3]]
        self.steps.append(Step(launch, arguments, tensors))

    def called(self, function: Callable[..., Any], *made: Tensor) -> None:
        """Note a function of torch, given tensors that the call made."""
        numbers = [self.numbers.get(x.data_ptr()) for x in made]
        if None in numbers:
            self.ok = False
            return
        self.steps.append(Step(function, [None] * len(made), list(enumerate(cast(list[int], numbers)))))

    def recording(self, outputs: Outputs) -> Recording | None:
        """What was noted, None if it cannot be repeated."""
        numbers = {id(x): i for i, x in enumerate(self.tensors) if i >= self.inputs}
        results = [outputs.loss, *outputs.gradients]
        if not self.ok or any(x is not None and id(x) not in numbers for x in results):
            return None
        loss, *gradients = (None if x is None else numbers[id(x)] for x in results)
        new = zip(self.tensors[self.inputs :], self.zeroed, strict=True)
        return Recording([(x.shape, x.stride(), x.dtype, zero) for x, zero in new], self.steps, loss, gradients)


def repeat(recording: Recording, inputs: Sequence[Tensor]) -> Outputs:
    """The outputs of a call that is like the recorded one."""
    tensors = list(inputs)
    device = inputs[0].device
    for shape, stride, dtype, zero in recording.made:
        made = torch.empty_strided(shape, stride, dtype=dtype, device=device)
        tensors.append(made.zero_() if zero else made)
    for launch, arguments, places in recording.steps:
        arguments = arguments.copy()
        for place, number in places:
            arguments[place] = tensors[number]
        launch(*arguments)
    loss = None if recording.loss is None else tensors[recording.loss]
    return Outputs(loss, [None if i is None else tensors[i] for i in recording.gradients])
