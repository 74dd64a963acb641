"""The frame around a family's kernel: what it reads beside the operands, what it writes, and how it is launched.

1. A reduced loss is two launches: the family's kernel leaves a float64 sum for each of its programs, and `outputs` adds
   them in their order. No float is added atomically, so the same inputs give the same bits.
2. The host never waits. A denominator that depends on data is a scalar on the device; so is the upstream gradient.
   The gradient is written in forward for an upstream gradient of 1; `scale` multiplies it by another one, and ends at
   once if that is 1.
3. All memory is made and all kernels are launched here, so that a call can be noted and repeated (`recording`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from losskit.dtypes import HALVES
from losskit.kernels.gpu.shared import OPTIONS, cdiv, index_type
from losskit.kernels.gpu.violations import number_of, record_of
from losskit.plan import Plan

SUMS = 1024  # sums that are added at once
SMALL = (
    2**20
)  # elements; up to so many, torch's multiplication takes less than the launch of a kernel that ends at once


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

    def bare(self) -> Call:
        """The call without its plan and tensors, which keeps none of them alive."""
        return self._replace(plan=None, operands=(), weight=None, sample_weight=None, mask=None, normalizer=None)


class Outputs(NamedTuple):
    """The loss (None in backward) and the gradients by the operands that were wanted."""

    loss: Tensor | None
    gradients: list[Tensor | None]


def numbers_of(plan: Plan, device: torch.device) -> Tensor:
    """The parameters of the formula in float64 on a device, put there once. A kernel fills each number in, because a
    copy from the host would make the host wait."""
    found = plan.on_device.get(device)
    if found is None:
        taken = len(plan.formula.kernel_numbers) if plan.formula else 0
        values = plan.numbers[len(plan.numbers) - taken :] or [0.0]
        found = torch.stack([torch.full((), value, dtype=torch.float64, device=device) for value in values])
        plan.on_device[device] = found
    return found


class Frame:
    """A call on its way: `run` of a family sizes it, launches, and returns its `outputs`."""

    def __init__(
        self, call: Call, upstream: Tensor | None, into: Sequence[Tensor | None] | None, recorder: Any = None
    ) -> None:
        """upstream: given in backward, where only gradients are wanted: new ones, or those in `into`, rewritten where
        the upstream gradient is not 1. In forward, `into` is where the gradients are written.
        recorder: notes what is made and launched, where a call may be repeated."""
        self.call, self.into, self.recorder = call, into, recorder
        self.device = call.operands[0].device
        self.each = call.plan.reduction == "none"
        self.forward, self.rewrite = upstream is None, upstream is not None and into is not None
        self.each_upstream = upstream if self.each else None
        self.upstream = None if self.each else upstream
        self.numbers, self.record = numbers_of(call.plan, self.device), record_of(self.device)
        if recorder is not None:
            recorder.keeps(self.numbers, self.record)
        self.denominator: Tensor | None = None
        self.divisor = 1
        self.values: Tensor | None = None
        self.sums: Tensor | None = None
        self.counts: Tensor | None = None
        self.loss: Tensor | None = None
        self.gradients: list[Tensor | None] = []

    def empty(self, like: Any, dtype: torch.dtype, zero: bool = False) -> Tensor:
        """New memory on the device, of a shape, or in the memory order of a dense tensor."""
        if isinstance(like, Tensor):
            made = torch.empty_like(like, dtype=dtype, device=self.device)
        else:
            made = torch.empty(like, dtype=dtype, device=self.device)
        if zero:
            made.zero_()
        if self.recorder is not None:
            self.recorder.made(made, zero)
        return made

    def divide_by(self, units: int, row: int = 1) -> None:
        """Find the two divisors of a reduced loss: a scalar on the device (or None), and a number that the host knows.

        row: the length of rows, for losses that add elements but count rows in sums and in the normalizer.
        """
        call = self.call
        if call.plan.reduction != "mean":
            self.divisor = row if call.plan.reduction == "sum" else 1
        elif call.normalizer is not None:
            self.denominator, self.divisor = call.normalizer, row
        else:
            factors = [call.weight if call.plan.weight_in_mean else None, call.sample_weight, call.mask]
            present = [x for x in factors if x is not None]
            if present:
                self.denominator = _count(present, call.mask, units)
            else:
                self.divisor = units

    def write(self, wanted: int, likes: Sequence[Any], values: Any, zero: bool = False) -> None:
        """Make the gradients that are wanted, each like one of `likes`, and the unreduced losses, like `values`."""
        if self.each and self.forward:
            self.values = self.empty(values, self.call.result)
        self.gradients = list(self.into) if self.into else [
            self.empty(like, x.dtype, zero) if wanted >> i & 1 else None
            for i, (x, like) in enumerate(zip(self.call.operands, likes, strict=True))
        ]  # fmt: skip

    def add_up(self, programs: int, alone: bool = False) -> None:
        """Make room for the sums of programs; alone: a single program finishes the loss by itself."""
        if self.each or not self.forward:
            return
        if alone and programs == 1:
            self.loss = self.empty((), self.call.result)
        else:
            self.sums = self.empty((programs,), torch.float64)

    def count(self, programs: int) -> None:
        """Make room for a denominator that kernels find out: each program's part of it, and their sum."""
        self.counts, self.denominator = self.empty((programs,), torch.float64), self.empty((), torch.float64)

    def number(self, shape: Sequence[int]) -> int:
        """What stands for this call in a violation's record, 0 where nothing is recorded."""
        return number_of(self.call.plan, shape) if self.call.checked else 0

    def of_nothing(self) -> str:
        """The mean over nothing, "nan" or "zero"; "" for other reductions."""
        return ("zero" if self.call.empty_is_zero else "nan") if self.call.plan.reduction == "mean" else ""

    def launch(self, kernel: Any, grid: tuple[int, ...], *args: Any, **constants: Any) -> None:
        """Launch a kernel; constants: its compile-time arguments, and Triton's options."""
        compiled = kernel[grid](*args, **constants, **OPTIONS)
        if self.recorder is not None:
            self.recorder.launched(kernel, compiled, grid, args, constants)

    def sort(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of integers in ascending order, equal ones as they came, and their places: torch's sort, which waits for
        nothing."""
        ordered, places = self.empty(keys.shape, keys.dtype), self.empty(keys.shape, torch.int64)
        sort_into(keys, ordered, places)
        if self.recorder is not None:
            self.recorder.called(sort_into, keys, ordered, places)
        return ordered, places

    def finish(self) -> None:
        """Add the sums and the counts of the programs: kernels that are launched now know the denominator."""
        nothing, sums, counts = self.of_nothing(), self.sums, self.counts
        if sums is not None:
            self.loss = self.empty((), self.call.result)
        if self.loss is not None and self.divisor == 0 and nothing:
            self.loss.fill_(0.0 if nothing == "zero" else float("nan"))
        elif sums is not None or counts is not None:
            programs = next(x.numel() for x in (sums, counts) if x is not None)
            self.launch(
                finish_kernel, (1,),
                sums, counts, programs, self.divisor, self.denominator, self.loss, nothing, SUMS,
            )  # fmt: skip
        self.sums = self.counts = None

    def of_no_units(self) -> Outputs:
        """The results where nothing has a loss, and no kernel runs."""
        if self.call.plan.reduction == "mean":
            if self.call.normalizer is not None:
                self.denominator = self.call.normalizer
            else:
                self.divisor = 0
        if self.values is not None:
            self.values.zero_()
        if self.forward and not self.each:
            self.sums = self.empty((1,), torch.float64, zero=True)
        for gradient in self.gradients:
            if gradient is not None:
                gradient.zero_()
        return self.outputs()

    def outputs(self) -> Outputs:
        """The results, after the sums are added."""
        if self.sums is not None:
            self.finish()
        return Outputs(self.values if self.each else self.loss, self.gradients)


def sort_into(keys: Tensor, ordered: Tensor, places: Tensor) -> None:
    torch.sort(keys, dim=-1, stable=True, out=(ordered, places))


def _count(factors: Sequence[Tensor], mask: Tensor | None, units: int) -> Tensor:
    """The sum over all units of the products of weights and mask."""
    counts = factors[0].to(torch.float64)
    for x in factors[1:]:
        counts = counts * x.to(torch.float64)
    if mask is not None and len(factors) > 1:
        counts = torch.where(mask, counts, 0.0)  # a weight behind the mask may be NaN
    return counts.sum() * (units / max(counts.numel(), 1))


# ---------------------------------------------------------------------------------------------------------
# Kernels that all families share


@triton.jit
def conclude(total, divisor, by, loss, EMPTY: tl.constexpr):
    """Write the loss, given the sum of all elements. by: a denominator that depends on data, or None. EMPTY: the mean
    over nothing ("nan", "zero"), "" for a sum."""
    value = total / divisor.to(tl.float64)
    if by is not None:
        value = value / tl.where(by == 0, 1.0, by).to(tl.float64)
        if EMPTY == "nan":
            value = tl.where(by == 0, float("nan"), value)
        if EMPTY == "zero":
            value = tl.where(by == 0, 0.0, value)
    tl.store(loss, value.to(tl.float32) if loss.dtype.element_ty == tl.bfloat16 else value)


@triton.jit
def added(parts, count, SUMS: tl.constexpr):
    """The sum of what the programs left."""
    offsets = tl.arange(0, SUMS)
    total = tl.zeros((SUMS,), tl.float64)
    for start in range(0, count, SUMS):
        total += tl.load(parts + start + offsets, mask=start + offsets < count, other=0.0)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["count", "divisor"])
def finish_kernel(sums, counts, count, divisor, denominator, loss, EMPTY: tl.constexpr, SUMS: tl.constexpr):
    """The loss from the sums of the programs, and the denominator from their counts, where it is made of these."""
    by = None
    if counts is not None:
        by = added(counts, count, SUMS)
        tl.store(denominator, by)
    elif denominator is not None:
        by = tl.load(denominator)
    if loss is not None:
        conclude(added(sums, count, SUMS), divisor, by, loss, EMPTY)


@triton.jit
def factor_of(upstream, denominator, divisor, T: tl.constexpr):
    """The factor of a reduced loss's gradient; 0 for the mean over nothing."""
    by = None
    if denominator is not None:
        by = tl.load(denominator)
    return factor_by(upstream, by, divisor, T)


@triton.jit
def factor_by(upstream, by, divisor, T: tl.constexpr):
    """The same, by a denominator that was read."""
    factor = tl.full((), 1.0, tl.float64)
    if upstream is not None:
        factor = tl.load(upstream).to(tl.float64)
    factor = factor / divisor.to(tl.float64)
    if by is not None:
        factor = tl.where(by == 0, 0.0, factor / tl.where(by == 0, 1.0, by))
    return factor.to(T)


@triton.jit(do_not_specialize=["numel"])
def scale_kernel(x, upstream, numel, BLOCK: tl.constexpr, INDEX: tl.constexpr):
    factor = tl.load(upstream)
    if factor != 1.0:
        first = tl.program_id(0).to(INDEX) * BLOCK
        step = tl.num_programs(0).to(INDEX) * BLOCK
        whole = numel // BLOCK * BLOCK  # blocks without a mask, whose loads are 16 bytes wide
        for begin in range(first, whole, step):
            at = x + begin + tl.arange(0, BLOCK)
            tl.store(at, scaled(tl.load(at), factor))
        if tl.program_id(0) == 0:
            offsets = whole.to(INDEX) + tl.arange(0, BLOCK)
            at, inside = x + offsets, offsets < numel
            tl.store(at, scaled(tl.load(at, mask=inside), factor), mask=inside)


@triton.jit
def scaled(old, factor):
    if old.dtype == tl.float64:
        new = old * factor.to(tl.float64)
    else:
        new = old.to(tl.float32) * factor.to(tl.float32)
    return new.to(old.dtype)


def scale(gradient: Tensor, upstream: Tensor, recorder: Any = None) -> None:
    """Multiply a dense gradient by the upstream gradient, where that is not 1."""
    numel = gradient.numel()
    if numel <= SMALL and gradient.dtype not in HALVES:  # torch would round the upstream gradient to a half
        gradient.mul_(upstream)
        if recorder is not None:
            recorder.called(Tensor.mul_, gradient, upstream)
        return
    programs = min(cdiv(numel, 1024), 2048)  # so few that starting them in vain costs nothing
    arguments = gradient, upstream, numel, 1024, index_type(numel)
    key = (gradient.dtype, upstream.dtype, arguments[-1], gradient.device, gradient.data_ptr() & 15,
           upstream.data_ptr() & 15)  # fmt: skip
    compiled = _scales.get(key)
    if compiled is None:
        compiled = _scales[key] = scale_kernel[(programs,)](*arguments, **OPTIONS)
    else:  # on an H200's host Triton takes 21 us to look up what it has compiled, and 11 us to launch it
        compiled[(programs, 1, 1)](*arguments)
    if recorder is not None:
        recorder.launched(scale_kernel, compiled, (programs,), arguments, {})


_scales: dict[Any, Any] = {}  # compiled kernels; None where Triton interprets
