"""The same bits for any number of threads, and sums that are longer than float32 counts."""

from __future__ import annotations

import math

import pytest
import torch
from oracle import ALL_DTYPES, call, some, uniform
from samples import DTYPES, setups
from tiers import REPRESENTATIVES, full
from torch import Tensor

from losskit import functional

# ---------------------------------------------------------------------------------------------------------
# The same bits, always


def same_bits(one: list[Tensor], other: list[Tensor], what: str) -> None:
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8)), f"{what}: result {number} differs"


# Every loss in every dtype, the variants of their formulas in one.
THREADED = [(s, d) for s in setups() for d in DTYPES if not s.params or d == torch.float32]
FEW = [(s, d) for s, d in THREADED if str(s) in REPRESENTATIVES]


@pytest.mark.parametrize(
    ("setup", "dtype"),
    [
        pytest.param(
            *pair, id=f"{pair[0]}-{pair[1]}", marks=[] if pair in FEW else full("elements: the same bits of every loss")
        )
        for pair in THREADED
    ],
)
def test_threads(setup, dtype):
    """One thread, two threads, two again: the bits of losses and gradients depend on the numbers alone."""
    operands = setup.operands((300, 1000), dtype)
    own = (300,) if setup.loss.rows else (300, 1000)
    weights = {"sample_weight": uniform(own, dtype), "mask": some(own)}
    cases = [("none", {}), ("mean", {}), ("sum", {}), ("none", weights), ("mean", weights), ("sum", weights)]
    runs = []
    for threads, chosen in ((1, cases), (2, cases), (2, cases[:2])):
        torch.set_num_threads(threads)
        # Constants of a call, such as counts and the log-probabilities of a reference, have no gradient.
        results = [call(setup, operands, name, **extra) for name, extra in chosen]
        runs.append([[x.reshape(-1) for x in found if x is not None] for found in results])
    for (reduction, extra), one, two in zip(cases, *runs[:2], strict=True):
        same_bits(one, two, f"{setup} {reduction} {list(extra)}, 1 and 2 threads")
    for (reduction, _), two, again in zip(cases, *runs[1:], strict=False):
        same_bits(two, again, f"{setup} {reduction}, two runs")


@ALL_DTYPES
def test_threads_on_one_long_row(dtype):
    """The mean over 300,000 classes of one sample is a sum that threads could share."""
    for setup in (s for s in setups() if s.loss.rows):
        operands = setup.operands((1, 300_000), dtype)
        runs = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(call(setup, operands, "none"))
        same_bits(*runs, f"{setup} none, 1 and 2 threads")


def test_parts_of_a_large_call():
    """Elements that come from memory, of which a kernel computes parts of blocks, have the bits of a small call's."""
    block, generator = 1024, torch.Generator().manual_seed(0)
    numbers = torch.randn(4, 900 * block + 77, generator=generator)
    numbers[2:] = numbers[2:].sigmoid()  # the target and the divergence

    def derivatives(operands: Tensor) -> Tensor:
        log_prob, ref_log_prob, target, kl = operands.requires_grad_()
        loss = functional.kto_loss(log_prob, ref_log_prob, target, kl, reduction="sum")
        return torch.autograd.grad(loss, operands)[0]

    pieces = [derivatives(piece.contiguous()) for piece in numbers.split(100 * block, 1)]
    same_bits([derivatives(numbers)], [torch.cat(pieces, 1)], "a large call and its pieces")


@pytest.mark.parametrize("width", [2, 7, 33, 63])
def test_numbers_of_all_short_rows(width):
    """What all rows have is laid out once for all blocks; the bits are those of a tensor of all elements."""
    input, target = torch.randn(2, 6000 // width, width, generator=torch.Generator().manual_seed(0))
    levels = torch.linspace(0.1, 0.9, width)
    results = []
    for quantile in (levels, levels.expand(input.shape).contiguous()):
        input.requires_grad_().grad = None
        loss = functional.pinball_loss(input, target, quantile, reduction="none")
        loss.sum().backward()
        results.append([loss.detach(), input.grad])
    same_bits(*results, f"rows of {width}")


# ---------------------------------------------------------------------------------------------------------
# Large sums


def ulps(got: Tensor, truth: float) -> float:
    """The error of a scalar in units of its dtype's spacing at the truth."""
    spacing = math.ldexp(torch.finfo(got.dtype).eps, math.frexp(truth)[1] - 1)
    return abs(got.double().item() - truth) / spacing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_mean_of_more_elements_than_float32_counts(dtype):
    """2^24 + 3 elements: a float32 count stops at 2^24, a float32 sum long before; half overflows at 65,504."""
    size = 2**24 + 3
    x = torch.rand(size, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(dtype)
    zeros = torch.zeros((), dtype=dtype).expand(size)
    truth = x.double().mean().item()
    assert ulps(functional.l1_loss(x, zeros), truth) <= 2
    assert ulps(functional.l1_loss(x, zeros, mask=torch.ones((), dtype=torch.bool)), truth) <= 2
    assert ulps(functional.l1_loss(x, zeros, sample_weight=torch.full((), 0.25)), truth) <= 2


def test_mean_of_ten_million_doubles():
    """The mean is as exact as that of the exact sum (math.fsum), among numbers of very different size."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(10_000_000, generator=generator, dtype=torch.float64).mul_(4.0).exp_()
    truth = math.fsum(x.tolist()) / x.numel()
    assert ulps(functional.l1_loss(x, torch.zeros((), dtype=torch.float64).expand_as(x)), truth) <= 2
