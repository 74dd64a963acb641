"""Which implementation runs, and why: the only place that decides.

There are three: the fused kernels of the CPU (C++) and of the GPU (Triton), one pass for value and gradients, and the
eager formula, which runs everywhere and is never wrong, only slower. `run` first tries the CPU's kernel on the
arguments as they are; that call costs two microseconds of Python and no validation, because the kernel declines what
it does not understand. On a GPU it repeats a call that was validated before, if there was one like it. Only then are
arguments validated, promoted and broadcast by the plan of the loss, once, for all implementations.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning

from losskit.dtypes import HALVES, result_dtype
from losskit.errors import error
from losskit.kernels import fused, gpu, library, node, sharded
from losskit.kernels.choice import PLAIN, from_kernel, why_eager
from losskit.kernels.torch_internals import observed, tracing_state
from losskit.plan import Arguments, Opened, Plan
from losskit.plans import plan_of
from losskit.policy import state
from losskit.spaces import tell


def call(
    loss: Any,
    key: tuple[Any, ...],
    operands: Sequence[Any],
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | float | None,
) -> Tensor:
    """The loss of these operands, by a declaration and what its plan is found by; see `plan_of`."""
    compiling = torch.compiler.is_compiling()  # asked once: an answer takes 0.06 us of the 12 of a small call
    try:
        plan = None if compiling else loss._plans.get(key)
    except TypeError:  # unhashable: the validation of a new plan says what is allowed
        plan = None
    return run(plan or plan_of(loss, *key), operands, weight, sample_weight, mask, normalizer, compiling)


def run(
    plan: Plan,
    operands: Sequence[Any],
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | float | None,
    compiling: bool | None = None,
) -> Tensor:
    """The loss of these operands."""
    if compiling is None:
        compiling = torch.compiler.is_compiling()
    plain = (
        sample_weight is None
        and mask is None
        and normalizer is None
        and not compiling
        and (not state.nan_asked or state.nan == "pass")
    )
    if plain and not plan.direct:
        short = None if gpu.interpreted or weight is not None else plan.at_once
        shorter = None if short is None else short(operands)
        if shorter is not None:
            eagerly.reason = plan.no_kernel
            return shorter
        plain = False
    if plain and plan.native is not None and node.on and not gpu.interpreted:
        loss: Tensor | None = plan.native(fused.code_of(plan), operands, weight)
        if loss is NotImplemented:
            plain = False
        elif loss is not None:
            return loss
    if plain and plan.repeats is not None and node.on:
        loss = plan.repeats(fused.code_of(plan), operands, weight)
        if loss is not None:
            return loss
    if plain and (observed() or not (weight is None or (type(weight) in PLAIN and not weight.requires_grad))):
        plain = False
    if plain:
        for x in operands:
            if type(x) not in PLAIN:
                plain = False
                break
    template = None
    if plain and operands[0].is_cpu and not gpu.interpreted and library.available(plan.formula):
        result = fused.attempt(plan, plan.numbers, operands, weight, None, None)
        if result is not None:
            return result
    elif plain and plan.recorded and gpu.takes(operands[0]):
        template = gpu.template_of(plan, operands, weight)
        if template is not None and template.call is not None:
            return gpu.alike(plan, template, operands, weight)
    if isinstance(plan, Opened):
        return run(plan.plan, [*operands, *plan.tensors], weight, sample_weight, mask, normalizer)
    if sharded.involved(*operands, weight, sample_weight, mask, normalizer):
        return sharded.run(plan, operands, weight, sample_weight, mask, normalizer)
    if not compiling and tracing_state() is not None:
        with warnings.catch_warnings():
            # torch.jit.trace warns whenever Python reads a shape that the shape becomes a constant. Here it may.
            warnings.simplefilter("ignore", TracerWarning)
            args = plan.validated(operands, weight, sample_weight, mask, normalizer)
            return plan.eager(args, plan.checks(state.checks))
    args = plan.validated(operands, weight, sample_weight, mask, normalizer)
    if state.nan == "raise" and _visible(args):
        refuse_nan(plan, args)
    reason = why_eager(plan, args)
    if reason is None:
        if template is not None and _unchanged(args, operands, weight):
            template.call = gpu.call_of(plan, args).bare()
            return gpu.alike(plan, template, operands, weight)
        result = plan.fused(from_kernel, args)
        if result is not None:
            return result
        reason = "the kernel declines these tensors"
    elif state.checks not in ("off", "torch") and args.operands[0].is_cpu and _visible(args):
        tell(plan.spaces(args.operands, args.mask))
    if not compiling:
        eagerly.reason = reason
    return plan.eager(args, plan.checks(state.checks))


class _Eagerly(threading.local):
    """Why the last call of this thread that was no kernel's ran the formula."""

    reason: str | None = None


eagerly = _Eagerly()


def _unchanged(args: Arguments, operands: Sequence[Tensor], weight: Tensor | None) -> bool:
    """Whether validation has left the tensors of a call as they were given."""
    same = len(args.operands) == len(operands) and all(map(is_, args.operands, operands))
    return same and args.weight is weight and args.result is None


def _visible(args: Arguments) -> bool:
    """Whether the values of the tensors can be read: nothing traces or transforms the call."""
    if torch.compiler.is_compiling() or observed():
        return False
    return all(type(x) in PLAIN and not x.is_meta for x in [*args.operands, *args[1:4]] if x is not None)


def refuse_nan(plan: Plan, args: Arguments) -> None:
    """Raise where a number that counts is NaN, under `checks(nan="raise")`."""
    tensors = [*args.operands, args.weight, args.sample_weight]
    names = [*plan.names[: len(args.operands)], "weight", "sample_weight"]
    for name, x, counts in zip(names, tensors, [*plan.counting(args), None, None], strict=True):
        if x is None or not x.is_floating_point():
            continue
        nan = x.detach().isnan()
        if counts is not None:
            nan = nan & counts.to(nan.device)
        if bool(nan.any()):
            index = tuple(int(i) for i in nan.nonzero()[0])
            raise error("not_a_number", loss=plan.name, argument=name, index=index, count=int(nan.sum()))


# ---------------------------------------------------------------------------------------------------------
# Introspection


class Choice(NamedTuple):
    """What would run: "fused CPU kernel", "fused GPU kernel" or "eager formula", and the reason."""

    implementation: str
    reason: str

    def __str__(self) -> str:
        return f"{self.implementation}: {self.reason}"


def why(loss: Any, *operands: Tensor, weight: Tensor | None = None, sample_weight: Tensor | None = None,
        mask: Tensor | None = None, normalizer: Tensor | float | None = None) -> Choice:  # fmt: skip
    """Which implementation a call of a loss (an instance) with these arguments runs, and why.

    >>> import losskit, torch
    >>> print(losskit.why(losskit.MSELoss(), torch.zeros(3), torch.zeros(3)))
    fused CPU kernel: one pass over float32 operands, the gradient written in forward, autograd in C++
    """
    own = getattr(loss, "_why", None)
    if own is not None:
        found: Choice = own(*operands, sample_weight=sample_weight, mask=mask, normalizer=normalizer)
        return found
    by_name = dict(zip(loss._call_operands(), operands, strict=False))
    optional: list[str] = getattr(loss, "_optional_operands", list)()
    plan = loss._planned(*(by_name.get(name) is not None for name in optional))
    operands = tuple(x for x in operands if x is not None or not optional)
    weight = getattr(loss, "weight", None) if weight is None else weight
    given = loss._with_slots(operands)
    together = ""
    if sharded.involved(*given, weight, sample_weight, mask, normalizer):
        reason, together = sharded.why(plan, given, weight, sample_weight, mask, normalizer)
        together = f"; {together}"
        args = sharded.layout_of(plan, given, weight, sample_weight, mask, normalizer).whole
    else:
        args = plan.validated(given, weight, sample_weight, mask, normalizer)
        reason = why_eager(plan, args)
    if reason is not None:
        return Choice("eager formula", reason + plan.eagerly(args) + together)
    dtypes = " and ".join(dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in args.operands))
    wide = ", computed in float32 and rounded once" if result_dtype(args.operands) in HALVES else ""
    late = plan.late or gpu.takes(args.operands[0])
    when = "in backward" if plan.reduction == "none" and late else "in forward"
    kernel = "fused GPU kernel" if gpu.takes(args.operands[0]) else "fused CPU kernel"
    autograd = f", autograd in {'C++' if node.used() else 'Python'}"
    origin = "; compiled on this machine" if args.operands[0].is_cpu and library.compiled_here(plan.formula) else ""
    passes = gpu.passes(plan, args) if gpu.takes(args.operands[0]) else plan.passes(args)
    how = f"{passes} over {dtypes} operands{wide}, the gradient written {when}{autograd}"
    return Choice(kernel, f"{how}{origin}{together}")
