"""What the templates of all families share: the call, the denominator of a mean, the end of a sum, bad values.

1. A reduced loss is two launches: the family's kernel leaves a float64 sum for each of its programs, and `finish` adds
   them in their order. No float is added atomically, so the same inputs give the same bits.
2. The host never waits. A denominator that depends on data is a scalar on the device; so is the upstream gradient.
   The gradient is written in forward for an upstream gradient of 1; `scale` multiplies it by another one, and ends at
   once if that is 1.
3. A value outside its domain makes its results NaN. The first one is recorded on the device: which call, operand,
   index and value. `losskit.last_violation` reads it, and waits then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from losskit.kernels import wire
from losskit.plan import Plan

# The order of operations is the formula's: the compiler must not contract to fused multiply-adds.
OPTIONS = {"enable_fp_fusion": False}
SUMS = 1024  # sums that `finish` adds at once
TYPES = {
    torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64
}  # fmt: skip
MAX_INT32 = 2**31 - 1
entry = triton.constexpr_function(wire.entry)  # of a list of statistics
LONGEST_STEP = 2**23  # no loop has a larger step; its index may end beyond the last element by one step


class Call(NamedTuple):
    """A call of a loss with validated tensors on one device."""

    plan: Any  # of the family
    operands: Sequence[Tensor]
    weight: Tensor | None
    sample_weight: Tensor | None
    mask: Tensor | None
    normalizer: Tensor | None  # a float64 scalar on the device
    checked: bool  # values outside their domain are NaN
    empty_is_zero: bool
    compute: torch.dtype  # float32 or float64
    result: torch.dtype


class Outputs(NamedTuple):
    """The loss (None in backward) and the gradients by the operands that were wanted."""

    loss: Tensor | None
    gradients: list[Tensor | None]


def numbers_of(plan: Plan, device: torch.device) -> Tensor:
    """The parameters of the formula in float64 on a device, put there once. A copy from the host would wait; kernels
    that fill in a number do not."""
    found = plan.on_device.get(device)
    if found is None:
        taken = len(plan.formula.kernel_numbers) if plan.formula else 0
        values = plan.numbers[len(plan.numbers) - taken :] or [0.0]
        found = torch.stack([torch.full((), value, dtype=torch.float64, device=device) for value in values])
        plan.on_device[device] = found
    return found


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


# ---------------------------------------------------------------------------------------------------------
# Reductions


def denominator_of(call: Call, numel: int, row: int = 1) -> tuple[Tensor | None, int]:
    """The two divisors of a reduced loss: a scalar on the device (or None), and a number that the host knows.

    row: the length of rows, for losses that add elements but count rows in sums and in the normalizer.
    """
    if call.plan.reduction != "mean":
        return None, row if call.plan.reduction == "sum" else 1
    if call.normalizer is not None:
        return call.normalizer, row
    factors = [call.weight if call.plan.weight_in_mean else None, call.sample_weight, call.mask]
    present = [x for x in factors if x is not None]
    if not present:
        return None, numel
    counts = present[0].to(torch.float64)
    for x in present[1:]:
        counts = counts * x.to(torch.float64)
    if call.mask is not None and len(present) > 1:
        counts = torch.where(call.mask, counts, 0.0)  # a weight behind the mask may be NaN
    return counts.sum() * (numel / max(counts.numel(), 1)), 1


@triton.jit
def conclude(total, divisor, denominator, loss, EMPTY: tl.constexpr):
    """Write the loss, given the sum of all elements. EMPTY: the mean over nothing ("nan", "zero"), "" for a sum."""
    value = total / divisor.to(tl.float64)
    if denominator is not None:
        by = tl.load(denominator)
        value = value / tl.where(by == 0, 1.0, by).to(tl.float64)
        if EMPTY == "nan":
            value = tl.where(by == 0, float("nan"), value)
        if EMPTY == "zero":
            value = tl.where(by == 0, 0.0, value)
    tl.store(loss, value.to(tl.float32) if loss.dtype.element_ty == tl.bfloat16 else value)


@triton.jit(do_not_specialize=["count", "divisor"])
def finish_kernel(sums, count, divisor, denominator, loss, EMPTY: tl.constexpr, SUMS: tl.constexpr):
    """The loss from the sums of the programs."""
    offsets = tl.arange(0, SUMS)
    total = tl.zeros((SUMS,), tl.float64)
    for start in range(0, count, SUMS):
        total += tl.load(sums + start + offsets, mask=start + offsets < count, other=0.0)
    conclude(tl.sum(total, 0), divisor, denominator, loss, EMPTY)


def empty_of(call: Call) -> str:
    """The mean over nothing, "nan" or "zero"; "" for other reductions."""
    return ("zero" if call.empty_is_zero else "nan") if call.plan.reduction == "mean" else ""


def finish(call: Call, sums: Tensor, divisor: int, denominator: Tensor | None) -> Tensor:
    """The reduced loss."""
    loss = torch.empty((), dtype=call.result, device=sums.device)
    empty = empty_of(call)
    if divisor == 0 and empty:
        return loss.fill_(0.0 if empty == "zero" else float("nan"))
    finish_kernel[(1,)](sums, sums.numel(), divisor, denominator, loss, empty, SUMS, **OPTIONS)
    return loss


@triton.jit
def factor_of(upstream, denominator, divisor, T: tl.constexpr):
    """The factor of a reduced loss's gradient; 0 for the mean over nothing."""
    factor = tl.full((), 1.0, tl.float64)
    if upstream is not None:
        factor = tl.load(upstream).to(tl.float64)
    factor = factor / divisor.to(tl.float64)
    if denominator is not None:
        by = tl.load(denominator)
        factor = tl.where(by == 0, 0.0, factor / tl.where(by == 0, 1.0, by))
    return factor.to(T)


@triton.jit
def scale_kernel(x, upstream, numel, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    factor = tl.load(upstream)
    if factor != 1.0:
        start = tl.program_id(0).to(INDEX) * BLOCK
        step = tl.num_programs(0).to(INDEX) * BLOCK
        for begin in range(start, numel, step):
            offsets = begin + tl.arange(0, BLOCK)
            inside = offsets < numel
            old = tl.load(x + offsets, mask=inside)
            if old.dtype == tl.float64:
                new = old * factor.to(tl.float64)
            else:
                new = old.to(tl.float32) * factor.to(tl.float32)
            tl.store(x + offsets, new.to(old.dtype), mask=inside)


def scale(gradient: Tensor, upstream: Tensor) -> None:
    """Multiply a dense gradient by the upstream gradient, where that is not 1."""
    numel = gradient.numel()
    if numel:
        programs = min(cdiv(numel, 1024), 2048)  # so few that starting them in vain costs nothing
        scale_kernel[(programs,)](gradient, upstream, numel, 1024, index_type(numel), **OPTIONS)


# ---------------------------------------------------------------------------------------------------------
# Bad values


@triton.jit
def report(record, which, found, index, number):
    """Record the first bad value of a block, unless one is recorded. which: 0, or the operand that is bad."""
    if tl.max(which, 0) > 0:
        first = tl.min(tl.where(which > 0, index.to(tl.int64), 9223372036854775807), 0)
        if tl.atomic_cas(record, tl.full((), 0, tl.int64), number.to(tl.int64)) == 0:
            here = (index == first) & (which > 0)
            tl.store(record + 1, tl.max(tl.where(here, which, 0), 0).to(tl.int64))
            tl.store(record + 2, first)
            value = tl.sum(tl.where(here, found.to(tl.float64), 0.0), 0)
            tl.store(record + 3, value.to(tl.int64, bitcast=True))


class Sighting(NamedTuple):
    """A recorded violation: the operand's number, its place in the flattened operand, and the value."""

    plan: Plan
    shape: tuple[int, ...]
    operand: int
    place: int
    value: float


_records: dict[torch.device, Tensor] = {}
_calls: OrderedDict[tuple[str, tuple[int, ...]], tuple[int, Plan]] = OrderedDict()  # by the ids in records
_next = 1


def record_of(device: torch.device) -> Tensor:
    """Where kernels on a device record a violation: four int64, the first 0 as long as there is none."""
    found = _records.get(device)
    if found is None:
        found = _records[device] = torch.zeros(4, dtype=torch.int64, device=device)
    return found


def number_of(plan: Plan, shape: Sequence[int]) -> int:
    """The id that stands for this call in a violation record. Ids start at 2: a record of 0 is empty, and Triton may
    compile a kernel of its own for the value 1."""
    global _next
    key = (plan.key, tuple(shape))
    known = _calls.get(key)
    if known is None:
        _next += 1
        known = _calls[key] = (_next, plan)
        if len(_calls) > 4096:
            _calls.popitem(last=False)
    return known[0]


def sightings() -> list[Sighting]:
    """The violations recorded on all devices since this was last asked; waits for the devices."""
    found = []
    for record in _records.values():
        number, operand, index, bits = record.tolist()
        if number == 0:
            continue
        record.zero_()
        value = torch.tensor(bits, dtype=torch.int64).view(torch.float64).item()
        for (_, shape), (known, plan) in _calls.items():
            if known == number:
                found.append(Sighting(plan, shape, operand, index, value))
    return found
