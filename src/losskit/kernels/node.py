"""The autograd node of the fused CPU kernels in C++, where it was built for this torch and this Python.

torch's C++ interface is not stable, so the node (binding/node.cpp) is a small library of its own beside the kernels,
with both versions in its name. `fused` has the same node in Python, which runs wherever this one does not.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Callable
from typing import Any

import torch

from losskit.kernels import library, wire_header

PATH = library.FOLDER / f"node-{torch.__version__}{sysconfig.get_config_var('EXT_SUFFIX')}"
on = False  # whether it is used
why_not = f"none was built for torch {torch.__version__} and this Python"
_OTHER = "it was built from another version of losskit; install losskit again"
_module: Any = None


def set_up(judge: Callable[..., Any], times: Callable[..., Any], again: Callable[..., Any]) -> None:
    """Load the node, and tell it what Python does for it; see `fused`."""
    global on, why_not, _module
    spec = importlib.util.spec_from_file_location("node", PATH)
    if spec is None or spec.loader is None or not PATH.exists():
        return
    try:
        _module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(_module)
    except ImportError as problem:
        why_not = str(problem)
        return
    if _module.wire != wire_header.SYMBOL:
        why_not = _OTHER
        return
    _module.set_up(judge, times, again)
    on, why_not = True, ""


def used() -> bool:
    """Whether the node is used. The first to ask loads the library, which may have been built from another version."""
    global on, why_not
    if on and library.loaded() and library.call_layout() != _module.call_layout:
        on, why_not = False, _OTHER
    return on


def set_up_gpu(*functions: Any) -> None:
    """Tell the node what Python does for calls on a GPU; see `gpu.autograd`."""
    if on:
        _module.set_up_gpu(*functions)


def repeats(plan: Any) -> Any:
    """The calls of a plan on a GPU that are repeated: `repeats(code, operands, weight)` is the loss, or None."""
    return _module.Repeats(plan)


def attach(*of_call: Any) -> Any:
    """A loss that was computed on a GPU, with its node: see binding/repeats.h."""
    return _module.attach(*of_call)


def forget() -> None:
    """Repeat nothing that has been noted until now."""
    if _module is not None:
        _module.forget()


def kernel(plan: Any) -> Any:
    """The calls of a plan: `kernel(code, operands, weight, sample_weight, mask, numbers)` is the loss.

    It is None where Python must look at the call, NotImplemented where the op declines it.
    """
    op, formula = library.direct(plan.op), library.address(plan.formula)
    return _module.Kernel(plan, f"losskit::{plan.op}", op, formula, plan.gradients, plan.constants, plan.numbers)
