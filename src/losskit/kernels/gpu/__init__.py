"""Losses of CUDA tensors: Triton kernels, from the same formulas as the CPU's.

A module for each family holds its template: a Triton kernel that calls the formula it is given (`formulas`), and `run`,
which launches it in a `frame`. `autograd` stands around them, `recording` repeats calls, `violations` tells of bad
values. Triton is imported with the first CUDA tensor; where it is not installed the eager formula runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from losskit.kernels.torch_internals import constant
from losskit.plan import Arguments, Plan
from losskit.policy import state

interpreted = False  # tests set it: CPU tensors go to these kernels, which Triton's interpreter runs


def takes(x: Tensor) -> bool:
    """Whether these kernels run on the device of this tensor."""
    return x.is_cuda or (interpreted and x.is_cpu)


def why_not(plan: Plan, arguments: Arguments) -> str | None:
    """Why there is no kernel for this call, None if there is one."""
    missing = _missing()
    if missing is not None:
        return missing
    declines = getattr(module_of(plan.op), "why_not", None)
    return None if declines is None else declines(plan, arguments)


def passes(plan: Plan, arguments: Arguments) -> str:
    """How the kernels go over the operands, in words."""
    own = getattr(module_of(plan.op), "passes", None)
    return plan.passes(arguments) if own is None else own(plan)


@constant
def _missing() -> str | None:
    installed = "triton" in sys.modules or find_spec("triton") is not None
    return None if installed else "Triton is not installed (pip install triton)"


def module_of(name: str) -> Any:
    """A module of this package, imported when it is first needed."""
    return getattr(_modules, _imported(name))


@constant
def _imported(name: str) -> str:
    """Import a module and return its name: torch.compile cannot trace an import, but can read an attribute by name."""
    if not hasattr(_modules, name):
        setattr(_modules, name, import_module(f"losskit.kernels.gpu.{name}"))
    return name


_modules = SimpleNamespace()


def attempt(plan: Plan, arguments: Arguments, result: torch.dtype | None) -> Tensor:
    """The loss from the kernel of the plan's family."""
    call = call_of(plan, arguments, result)
    if torch.compiler.is_compiling():
        return module_of("compiled").loss_of(call)
    return module_of("autograd").attempt(call)


def overwriting(plan: Plan, arguments: Arguments, result: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """The loss of dense scores that nobody needs afterwards, and the gradient by them, written over them."""
    found: tuple[Tensor, Tensor] = module_of("autograd").overwriting(call_of(plan, arguments, result))
    return found


def scale(gradient: Tensor, upstream: Tensor) -> None:
    """Multiply a dense gradient by the upstream gradient, a scalar; it is left alone where that is 1."""
    module_of("frame").scale(gradient, upstream)


def call_of(plan: Plan, arguments: Arguments, result: torch.dtype | None = None) -> Any:
    """A call under the settings of the moment."""
    checked = plan.checks(state.checks) != "off"
    return module_of("autograd").call_of(plan, *arguments[:5], result, checked, state.empty == "zero")


def template_of(plan: Plan, operands: Sequence[Tensor], weight: Tensor | None) -> Any:
    """What is known of calls like this one; None where no kernel runs."""
    return None if _missing() is not None else module_of("recording").template_of(plan, operands, weight)


def alike(plan: Plan, template: Any, operands: Sequence[Tensor], weight: Tensor | None) -> Tensor:
    """The loss of a call whose template knows what to do."""
    return module_of("autograd").alike(plan, template, operands, weight)


def part(name: str) -> Any:
    """A module with a kernel that computes a part of a loss, the rest of which torch computes; None without Triton."""
    return None if _missing() is not None else module_of(name)


def last_violation() -> str | None:
    """Why a loss on a GPU is NaN: the first bad value since this was last asked, or None.

    On a GPU a value outside its domain (a label, a probability, a class index) raises nothing, since the host would
    have to wait for the device to look at it. It makes the result NaN, and the device keeps the reason until it is
    asked for here, which waits.

    >>> import losskit
    >>> losskit.last_violation() is None
    True
    """
    if _missing() is not None:
        return None
    seen = module_of("violations").sightings()
    return str(seen[0].plan.sighted(*seen[0][1:])) if seen else None
