"""Weights, masks and normalizers of element-wise losses, in every shape that broadcasts, against the oracle."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from oracle import ALL_DTYPES, BLOCK, REDUCTIONS, SETUPS, call, check, copied, some, uniform
from samples import DTYPES, Setup
from torch import Tensor

import losskit


def shapes_that_broadcast(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """One number, a row, a column, a plane, the whole."""
    ones = (1,) * (len(shape) - 1)
    return list(dict.fromkeys([(), (1,), shape[-1:], (*ones, shape[-1]), (*shape[:1], *ones), shape]))


def layouts_of(x: Tensor) -> Iterator[Tensor]:
    """A tensor contiguous, with gaps and transposed, where it has the dimensions for that."""
    yield x
    if x.ndim >= 1:
        yield copied(torch.zeros(*x.shape[:-1], 3 * x.shape[-1], dtype=x.dtype)[..., ::3], x)
    if x.ndim >= 2:
        yield x.mT.contiguous().mT


def extras(setup: Setup, shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[dict[str, Any]]:
    """Weights, masks and normalizers of all shapes and layouts, and their combinations."""
    own = shape[:-1] if setup.loss.rows else shape
    weighted = "weight" in setup.loss.params or "weight" in setup.loss.arguments.split()
    for part in shapes_that_broadcast(own):
        for x in layouts_of(uniform(part, dtype)):
            yield {"sample_weight": x}
        for x in layouts_of(some(part)):
            yield {"mask": x}
        yield {"sample_weight": uniform(part, dtype).expand(own), "mask": some(part).expand(own)}
        yield {"sample_weight": uniform(part, dtype), "mask": some(own), "normalizer": 2.5}
    if weighted:
        for part in shapes_that_broadcast(shape):
            for x in layouts_of(uniform(part, dtype)):
                yield {"weight": x}
                yield {"weight": x.expand(shape), "sample_weight": uniform(own, dtype), "mask": some(own)}
        yield {"weight": uniform(shape, dtype), "normalizer": 7.0}
    yield {"normalizer": 11.0}


@SETUPS
@ALL_DTYPES
def test_weights_and_masks(setup, dtype):
    """Each extra of each shape and layout, on operands contiguous and transposed."""
    shape = (3, 4, 5)
    operands = setup.operands(shape, dtype)
    turned = [operands[0].mT.contiguous().mT, *operands[1:]]
    ran = 0
    for number, extra in enumerate(extras(setup, shape, dtype)):
        what = str({name: (x.shape, x.stride()) if isinstance(x, Tensor) else x for name, x in extra.items()})
        reduction = REDUCTIONS[(number + DTYPES.index(dtype)) % 3]  # each extra sees all three, in different dtypes
        check(setup, (operands, turned)[number % 2], what, (reduction,), **extra)
        ran += 1
    assert ran >= 41


@SETUPS
def test_weights_of_another_dtype(setup):
    """Weights do not decide the dtype of the result."""
    operands = setup.operands((4, 5), torch.float32)
    own = (4,) if setup.loss.rows else (4, 5)
    for dtype in (*DTYPES, torch.int64, torch.int32, torch.uint8, torch.bool):
        weights = (torch.arange(math.prod(own)) % 3 + 1).view(own).to(dtype)
        check(setup, operands, f"{dtype} sample_weight", sample_weight=weights)


@SETUPS
def test_normalizer_may_be_a_tensor(setup):
    operands = setup.operands((4, 5))
    for normalizer in (torch.tensor(2.5), torch.tensor([2.5]), torch.tensor(3), torch.tensor(2.5, dtype=torch.float64)):
        got, number = (setup(*operands, normalizer=n) for n in (normalizer, normalizer.item()))
        assert torch.equal(got, number)


@SETUPS
@ALL_DTYPES
def test_masks_at_block_boundaries(setup, dtype):
    """Single elements on both sides of a block's end, whole blocks, and all but them."""
    size = 2 * BLOCK + 3
    operands = setup.operands((size, 1) if setup.loss.rows else (size,), dtype)
    for kept in ([BLOCK - 1], [BLOCK], [BLOCK - 1, BLOCK], [size - 1], range(BLOCK), range(BLOCK, 2 * BLOCK)):
        mask = torch.zeros(size, dtype=torch.bool)
        mask[list(kept)] = True
        for chosen in (mask, ~mask):
            check(setup, operands, f"kept {kept}", ("none", "mean"), mask=chosen)


SPOILT = [math.nan, math.inf, -math.inf]


@SETUPS
@ALL_DTYPES
def test_masked_elements_are_exact_zeros(setup, dtype):
    """NaN, infinities and values outside the domain behind the mask touch nothing, under the strictest checks."""
    shape = (5, 6)
    clean = setup.operands(shape, dtype)
    mask = some((5,) if setup.loss.rows else shape)
    hidden = ~(mask.unsqueeze(-1) if setup.loss.rows else mask).expand(shape)
    for bad, reduction in itertools.product([*SPOILT, 1e4, -1e4], REDUCTIONS):
        spoilt = [x.masked_fill(hidden, bad) for x in clean]
        got, expected = (call(setup, given, reduction, mask=mask) for given in (spoilt, clean))
        for own, right in zip(got, expected, strict=True):
            assert torch.equal(own, right), f"{setup} {reduction}, {bad} behind the mask"
        for gradient in got[1:]:
            assert not gradient[hidden].any(), f"{setup} {reduction}: gradient behind the mask"


@SETUPS
@ALL_DTYPES
def test_fully_masked(setup, dtype):
    """Nothing counts: mean NaN, or 0 on demand, sum 0, gradients exact zeros, whatever the operands are."""
    shape = (5, 6)
    mask = torch.zeros(shape[:1] if setup.loss.rows else shape, dtype=torch.bool)
    for value in (0.5, math.nan, math.inf):
        operands = [torch.full(shape, value, dtype=dtype) for _ in setup.operands(shape)]
        results = {}
        for reduction in REDUCTIONS:
            results[reduction], *gradients = call(setup, operands, reduction, mask=mask)
            assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients), f"{setup} {reduction} {value}"
        assert results["mean"].isnan()
        assert results["sum"] == 0
        assert not results["none"].any()
        with losskit.empty("zero"):
            value, *gradients = call(setup, operands, "mean", mask=mask)
        assert value == 0
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


@SETUPS
@ALL_DTYPES
def test_sample_weights_of_zero(setup, dtype):
    """Weights that sum to 0 leave nothing to take the mean of."""
    operands = setup.operands((5, 6), dtype)
    weights = torch.zeros(5 if setup.loss.rows else 6)
    value, *gradients = call(setup, operands, "mean", sample_weight=weights)
    assert value.isnan()
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)
    with losskit.empty("zero"):
        assert call(setup, operands, "mean", sample_weight=weights)[0] == 0
    assert call(setup, operands, "sum", sample_weight=weights)[0] == 0


@SETUPS
def test_micro_batches(setup):
    """Means of micro-batches over a common normalizer add up to the mean of the whole, with weights and masks."""
    operands = setup.operands((12, 5))
    own = (12,) if setup.loss.rows else (12, 5)
    weights, mask = uniform(own, torch.float64), some(own)
    for extra, normalizer in (
        ({}, float(math.prod(own))),
        ({"mask": mask}, mask.sum()),
        ({"sample_weight": weights}, weights.sum()),
        ({"sample_weight": weights, "mask": mask}, weights[mask].sum()),
    ):
        whole = call(setup, operands, "mean", **extra)
        parts = []
        for rows in (slice(0, 1), slice(1, 6), slice(6, 12)):
            cut = {name: x[rows] for name, x in extra.items()}
            parts.append(call(setup, [x[rows] for x in operands], "mean", normalizer=normalizer, **cut))
        together = [sum(part[0] for part in parts)]
        together += [torch.cat(gradients) for gradients in list(zip(*parts, strict=True))[1:]]
        torch.testing.assert_close(together, whole, rtol=1e-12, atol=1e-14)
