"""Repeating a call: what the host works out once for calls that differ only in where their tensors lie.

1. A small loss takes the host longer than the device: arguments are validated, layouts described, outputs made, kernels
   looked up. Nothing of it depends on the numbers in the tensors. So the first such call is noted, and the next ones
   only make the same outputs and launch the same compiled kernels with other addresses.
2. Calls are alike if their plan, settings, and each tensor's shape, strides, dtype, device, `requires_grad` and
   alignment are. Triton compiles for the alignment, too.
3. A kernel of a call that is repeated may read the call's tensors, memory that the call made, and tensors that stay
   where they are as long as the process runs. A call is not repeated if a kernel of it reads anything else (a copy, a
   sum by torch), or if two of its operands lie in the same place.
4. binding/recording.h repeats what is noted here, in C++; `repeat` does where the node in C++ does not run.
5. A repeated launch leaves out what Triton does for profilers, takes the stream once and addresses for tensors, of
   which the launcher asks CUDA nothing. While a profiler has hooks in Triton, nothing is repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from triton import knobs
from triton.runtime import driver

from losskit.kernels.gpu.frame import Call, Outputs
from losskit.kernels.gpu.shared import OPTIONS
from losskit.kernels.gpu.violations import forgotten
from losskit.plan import Plan
from losskit.policy import state

MOST = 256  # calls of a plan that are kept
STREAM = 3  # the place of the stream among the arguments of a compiled kernel's launch
HOOKS = (knobs.runtime.launch_enter_hook.calls, knobs.runtime.launch_exit_hook.calls)

# What is noted of a call: forward, and in backward the gradients computed anew, computed into what forward has written,
# or multiplied. As in binding/recording.h.
FORWARD, ANEW, REWRITTEN, SCALED = range(4)


class Step(NamedTuple):
    """A launch: what launches it (a compiled kernel or a function of torch), its arguments, and which of them are
    tensors of the call."""

    launch: Callable[..., Any]
    arguments: list[Any]
    tensors: list[tuple[int, int]]  # the place of an argument, the number of the tensor
    stream: Callable[[int], Any] | None = None  # what tells the stream of a device, for compiled kernels
    compiled: Any = None  # the kernel, which is unloaded when nobody keeps it


class Recording(NamedTuple):
    """What a call made and launched. Its tensors are numbered: the inputs first, then what it made."""

    made: list[tuple[torch.Size, tuple[int, ...], torch.dtype, bool]]  # the last: filled with zeros
    steps: list[Step]
    loss: int | None
    gradients: list[int | None]


class Template:
    """Calls that are alike: the call without its plan and tensors, and what the first one did."""

    def __init__(self) -> None:
        self.call: Call | None = None
        self.recordings: dict[Any, Recording | None] = {}  # by the kind, and what the upstream gradient is like

    def run(
        self, kind: int, tensors: Sequence[Tensor | None], upstream: Tensor | None,
        first: Callable[[Recorder | None], Outputs], known: Any = None,
    ) -> Outputs:  # fmt: skip
        """Repeat what a call did before; the first time, do it and note it, for the node in C++ too if it knows of such
        calls. tensors: what the kernels read besides the upstream gradient."""
        inputs = [x for x in (*tensors, upstream) if x is not None]
        key = kind, None if upstream is None else _likeness(upstream)
        noted = self.recordings.get(key)
        if noted is not None and not any(HOOKS):
            return repeat(noted, inputs)
        if key in self.recordings or len(self.recordings) > 8:
            return first(None)
        recorder = Recorder(inputs)
        outputs = first(recorder)
        noted = self.recordings[key] = recorder.recording(outputs)
        if noted is not None and known is not None and upstream is not None:
            known.note(kind, upstream, noted)
        return outputs


def template_of(plan: Plan, operands: Sequence[Tensor], weight: Tensor | None) -> Template:
    """The template of a call, empty if it is the first of its kind."""
    key = (
        torch.is_grad_enabled(), torch.is_autocast_enabled(operands[0].device.type), state.checks, state.empty,
        forgotten(), None if weight is None else _likeness(weight), *map(_likeness, operands),
    )  # fmt: skip
    found = plan.templates.get(key)
    if found is None:
        if len(plan.templates) >= MOST:
            plan.templates.clear()
            plan.repeats = None
        found = plan.templates[key] = Template()
    return found


def _likeness(x: Tensor) -> Any:
    return x.shape, x.stride(), x.dtype, x.device, x.requires_grad, x.data_ptr() & 15


class Recorder:
    """Notes what is made and launched."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        self.kept: set[int] = set()
        self.tensors = list(inputs)
        self.numbers = {x.data_ptr(): i for i, x in enumerate(inputs)}
        self.ok = len(self.numbers) == len(inputs) and all(x.numel() for x in inputs)
        self.inputs = len(inputs)
        self.zeroed: list[bool] = []
        self.steps: list[Step] = []

    def keeps(self, *tensors: Tensor) -> None:
        """These stay where they are as long as the plan, or the process."""
        self.kept.update(map(id, tensors))

    def made(self, x: Tensor, zero: bool) -> None:
        if x.numel():
            self.numbers[x.data_ptr()] = len(self.tensors)
        self.tensors.append(x)
        self.zeroed.append(zero)

    def launched(self, kernel: Any, compiled: Any, grid: tuple[int, ...], args: Sequence[Any], constants: Any) -> None:
        arguments = [*args, *(constants[name] for name in kernel.arg_names[len(args) :])]
        tensors = []
        for place, x in enumerate(arguments):
            if not isinstance(x, Tensor):
                continue
            if id(x) in self.kept:
                arguments[place] = x if compiled is None else x.data_ptr()
                continue
            number = self.numbers.get(x.data_ptr()) if x.numel() else None
            if number is None or self.tensors[number].dtype != x.dtype:
                self.ok = False
                return
            tensors.append((place, number))
            arguments[place] = None
        if compiled is None:  # Triton interprets
            options = {name: value for name, value in constants.items() if name not in kernel.arg_names}
            self.steps.append(Step(partial(kernel[grid], **options, **OPTIONS), arguments, tensors))
            return
        # What `compiled[grid]` calls, with the stream to be filled in and without hooks.
        first = [*(*grid, 1, 1)[:3], None, compiled.function, compiled.packed_metadata, None, None, None]
        tensors = [(place + len(first), number) for place, number in tensors]
        stream = driver.active.get_current_stream
        self.steps.append(Step(compiled.run, [*first, *arguments], tensors, stream, compiled))

    def called(self, function: Callable[..., Any], *given: Tensor) -> None:
        """Note a function of torch, given tensors of the call."""
        numbers = [self.numbers.get(x.data_ptr()) for x in given]
        if None in numbers:
            self.ok = False
            return
        self.steps.append(Step(function, [None] * len(given), list(enumerate(cast(list[int], numbers)))))

    def recording(self, outputs: Outputs) -> Recording | None:
        """What was noted, None if it cannot be repeated."""
        numbers = {id(x): i for i, x in enumerate(self.tensors)}
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
    for launch, arguments, places, stream, _ in recording.steps:
        arguments = arguments.copy()
        if stream is not None:
            arguments[STREAM] = stream(device.index)
        for place, number in places:
            arguments[place] = tensors[number] if stream is None else tensors[number].data_ptr()
        launch(*arguments)
    loss = None if recording.loss is None else tensors[recording.loss]
    return Outputs(loss, [None if i is None else tensors[i] for i in recording.gradients])
