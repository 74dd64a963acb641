"""Triton's kernels without a GPU: the interpreter, with the mathematics that it leaves out.

Imported before any kernel is: `TRITON_INTERPRET` is read when a kernel is defined. The interpreter runs a kernel's
Python on NumPy arrays, one program after another; functions of `libdevice`, which are NVIDIA's machine code, are
torch's here.
"""

from __future__ import annotations

import os

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def _with_torch(function):
    def call(*arguments):
        tensors = [a for a in arguments if isinstance(a, tl.tensor)]
        like = next((a for a in tensors if a.type.is_block()), tensors[0])
        taken = [a.handle.data if isinstance(a, tl.tensor) else np.asarray(a) for a in arguments]
        taken = np.broadcast_arrays(*taken)
        dtype = torch.float64 if like.dtype.scalar == tl.float64 else torch.float32
        with np.errstate(all="ignore"):
            result = function(*(torch.from_numpy(np.ascontiguousarray(a)).to(dtype) for a in taken)).numpy()
        shape = like.type if like.type.is_block() else like.dtype
        return tl.tensor(TensorHandle(result.reshape(like.handle.data.shape), like.dtype.scalar), shape)

    return call


_SPELT = {"rint": torch.round, "fast_dividef": torch.div}
for (
    _name
) in "exp expm1 log log1p tanh erf erfc lgamma hypot pow rint tan sin cos acos atan2 floor fast_dividef".split():
    setattr(libdevice, _name, _with_torch(_SPELT.get(_name, getattr(torch, _name, None))))


def _splat(self, block, scalar):
    """A scalar as a block; the interpreter takes the comparison of two scalars for a number of their own dtype."""
    return TensorHandle(np.full(block.shape, scalar.data.reshape(-1)[0], dtype=scalar.data.dtype), scalar.dtype.scalar)


InterpreterBuilder.create_splat = _splat
