"""Losses of CUDA tensors: Triton kernels, from the same formulas as the CPU's.

A module for each family holds its template: a Triton kernel that calls the formula it is given (`formulas`), and `run`,
which launches it. `autograd` stands around them, `shared` holds what all need. Triton is imported with the first CUDA
tensor; where it is not installed the eager formula runs.
"""

from __future__ import annotations

import sys
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
    return missing if missing is not None else module_of(plan.op).why_not(plan, arguments)


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
    autograd = module_of("autograd")
    call = autograd.call_of(plan, *arguments[:5], result, state.checks != "off", state.empty == "zero")
    return module_of("compiled").loss_of(call) if torch.compiler.is_compiling() else autograd.attempt(call)


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
    seen = module_of("shared").sightings()
    return str(seen[0].plan.sighted(*seen[0][1:])) if seen else None
