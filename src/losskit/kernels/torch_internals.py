"""The private interfaces of torch that losskit uses, each with its reason: what to look at when torch changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Bound to names once: `observed` runs in every call.
transforms_active = torch._C._are_functorch_transforms_active
tracing_state = torch._C._get_tracing_state
function_modes = torch._C._len_torch_function_stack
_dispatch_modes = torch._C._len_torch_dispatch_stack


def constant(function: _Function) -> _Function:
    """Have Dynamo call a function while it traces, and keep its result as a constant.

    As `torch.compiler.assume_constant_result` does, which imports Dynamo, sympy and Triton (1.7 s) to set an attribute.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def untraced(function: _Function) -> _Function:
    """Have Dynamo leave a function as it is. As `torch.compiler.disable` does, which imports Dynamo."""
    frames: Any = torch._C._dynamo.eval_frame
    skipped = frames._FrameExecStrategy(frames._FrameAction.SKIP, frames._FrameAction.DEFAULT)
    frames.set_code_exec_strategy(function.__code__, skipped)
    return function


def observed() -> bool:
    """Whether torch.func, forward-mode AD, a dispatch mode or torch.jit.trace looks at what runs."""
    return transforms_active() or forward_ad._current_level >= 0 or _dispatch_modes() > 0 or tracing_state() is not None


def exporting() -> bool:
    """Whether a graph is made that has to run without losskit: torch.export, torch.jit.trace, ONNX, make_fx."""
    return unrolled() or (not torch.compiler.is_compiling() and _proxies())


def unrolled() -> bool:
    """Whether a graph is made that does not keep the derivatives of a `torch.autograd.Function`."""
    # Not `torch.compiler.is_exporting()`: to Dynamo of torch 2.10 and 2.11 that is True whenever it compiles.
    exported = torch.compiler._is_exporting_flag
    return exported or (not torch.compiler.is_compiling() and tracing_state() is not None)


def _proxies() -> bool:
    """Whether make_fx records what runs."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None


def hidden(x: Tensor) -> bool:
    """Whether Python may not branch on the values of a tensor: it is traced, wrapped or has none."""
    return torch.compiler.is_compiling() or type(x) is not Tensor or x.is_meta or observed()


def differentiating() -> Any:
    """A context in which autograd records again, within a custom op: torch switches it off there."""
    autograd = torch._C.DispatchKeySet(torch._C.DispatchKey.AutogradFunctionality)
    autograd = autograd.add(torch._C.DispatchKey.ADInplaceOrView)
    excluded = torch._C._dispatch_tls_local_exclude_set() - autograd
    return torch._C._ForceDispatchKeyGuard(torch._C._dispatch_tls_local_include_set(), excluded)


def batched(x: Tensor) -> bool:
    """Whether vmap, of torch.func or of autograd's `is_grads_batched`, has wrapped a tensor.

    The answer is no while torch.compile traces: compiled autograd takes no batched gradients, and Dynamo warns of the
    two functions that are called here.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._functorch.is_legacy_batchedtensor(x) or torch._C._functorch.is_batchedtensor(x)
