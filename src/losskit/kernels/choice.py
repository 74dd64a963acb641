"""Which implementation a call may run, and the reason why not the fused one."""

from __future__ import annotations

import torch
from torch import Tensor

from losskit.dtypes import autocast
from losskit.kernels import fused, gpu, library, wire
from losskit.kernels.torch_internals import exporting, hidden, observed, transforms_active
from losskit.plan import Arguments, Plan

PLAIN = frozenset({Tensor, torch.nn.Parameter})


def why_eager(plan: Plan, args: Arguments) -> str | None:
    """Why the eager formula must run; None if the fused kernel can."""
    if plan.no_kernel:
        return plan.no_kernel
    tensors = [*args.operands, *(x for x in args[1:4] if x is not None)]
    on_gpu = gpu.takes(args.operands[0])
    if torch.compiler.is_compiling():
        if exporting():
            return "an exported graph consists of torch's own operators"
        if not on_gpu or plan.op == "pointwise" or transforms_active():
            return "torch.compile traces the formula, so that Inductor can fuse it with its surroundings"
    elif any(type(x) not in PLAIN for x in tensors):
        return "an argument is a tensor subclass"
    elif observed():
        return "torch.func, forward-mode AD, a dispatch mode or torch.jit.trace is active"
    if not on_gpu and not args.operands[0].is_cpu:
        return f"there is no fused kernel for {args.operands[0].device.type} tensors"
    extras = [x for x in args[1:] if isinstance(x, Tensor)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in extras):
        return "a gradient by a weight or the normalizer is wanted"
    if not on_gpu and args.operands[0].ndim > wire.MAX_DIMS:
        return f"the fused kernel takes at most {wire.MAX_DIMS} dimensions"
    if torch.is_grad_enabled() and any(x.requires_grad and not plan.gradients >> i & 1 for i, x in enumerate(args[0])):
        return "a gradient by an operand is wanted that the kernel does not give"
    if on_gpu:
        return gpu.why_not(plan, args)
    if not library.available(plan.formula):
        return library.why_missing(plan.formula)
    return None


def helps(x: Tensor) -> bool:
    """Whether an op of the library may compute a part of a loss that is written in torch operations, from it."""
    return x.is_cpu and not hidden(x.detach()) and library.loaded()  # Dynamo cannot trace what loads the library


def from_kernel(plan: Plan, arguments: Arguments, result: torch.dtype | None = None) -> Tensor | None:
    """The loss from the kernel of the tensors' device, None where it declines."""
    if result is None and arguments.result is not None:
        result = autocast(arguments.result, arguments.operands[0].device)
    if gpu.takes(arguments.operands[0]):
        return gpu.attempt(plan, arguments, result)
    numbers = plan.numbers
    if arguments.normalizer is not None:
        numbers = list(numbers)
        numbers[wire.Number.NORMALIZER] = float(arguments.normalizer)
    extras = arguments.weight, arguments.sample_weight, arguments.mask
    return fused.attempt(plan, numbers, arguments.operands, *extras, result)
