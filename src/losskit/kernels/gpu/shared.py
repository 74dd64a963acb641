"""What the host's side of all templates shares: how kernels are compiled, whole numbers, the limits of a card."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from losskit.kernels import packing

# The order of operations is the formula's: the compiler must not contract to fused multiply-adds. Without the second
# option NVIDIA's functions take subnormal arguments for 0 and give 0 for subnormal results.
OPTIONS = {"enable_fp_fusion": False} | ({} if torch.version.hip else {"enable_reflect_ftz": False})
TYPES = {
    torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64
}  # fmt: skip
MAX_INT32 = 2**31 - 1
entry = triton.constexpr_function(packing.entry)  # of a list of statistics
LONGEST_STEP = 2**23  # no loop has a larger step; its index may end beyond the last element by one step


def index_type(numel: int) -> Any:
    """int32, as 64-bit division takes dozens of instructions; int64 if indices do not fit."""
    return tl.int64 if numel > MAX_INT32 - LONGEST_STEP else tl.int32


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up. On the host Triton's function takes microseconds; so does its `next_power_of_2`."""
    return -(-a // b)


def power_of_2(n: int) -> int:
    """The smallest power of two that is n or more."""
    return 1 << max(n - 1, 0).bit_length()


class Limits(NamedTuple):
    """The limits of a GPU: its multiprocessors, and the bytes of shared memory in each."""

    multiprocessors: int
    shared_memory: int


@cache
def limits_of(device: torch.device) -> Limits:
    """The properties of a tensor's GPU; in the interpreter those of an H200."""
    if device.type != "cuda":
        return Limits(132, 233472)
    properties = torch.cuda.get_device_properties(device)
    return Limits(properties.multi_processor_count, properties.shared_memory_per_multiprocessor)
