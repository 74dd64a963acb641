"""Every layout, shape, dtype and combination of weights and masks against one oracle; threads, blocks, large sums.

The oracle calls the unreduced loss on flat, contiguous float64 copies, which other tests compare with torch and with
exact numbers, and then stretches, weighs, masks and reduces values and slopes in float64 by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from samples import DTYPES, Setup, everything, setups
from torch import Tensor, nn

import losskit
from losskit import functional

REDUCTIONS = ("none", "mean", "sum")
BLOCK = 1024  # elements that the fused loop takes at a time
SETUPS = pytest.mark.parametrize("setup", everything())
ALL_DTYPES = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# ---------------------------------------------------------------------------------------------------------
# The oracle


def wide(x: Any) -> Any:
    """A contiguous float64 copy of a tensor."""
    return x.detach().to(torch.float64).contiguous() if isinstance(x, Tensor) else x


def elements(setup: Setup, operands: list[Tensor]) -> list[Tensor]:
    """The loss of each element and its derivative by each operand, in the shape of the operands."""
    columns = [x.reshape(-1, 1).clone().requires_grad_() for x in operands]  # a class each, for losses of rows
    with losskit.checks("off"):
        values = setup(*columns, reduction="none")
    slopes = torch.autograd.grad(values, columns, torch.ones_like(values))
    return [x.detach().reshape(operands[0].shape) for x in (values, *slopes)]


def oracle(
    setup: Setup,
    operands: list[Tensor],
    reduction: str = "mean",
    upstream: Tensor | None = None,
    weight: Tensor | None = None,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | None = None,
) -> list[Tensor]:
    """The loss and its gradient by each operand of the call, in float64."""
    given = torch.broadcast_tensors(*map(wide, operands))
    shape, rows = given[0].shape, setup.loss.rows
    counts = torch.ones(shape[:-1] if rows else shape, dtype=torch.float64)
    of_elements = torch.ones(shape, dtype=torch.float64) if weight is None else wide(weight).expand(shape)
    of_losses = counts if sample_weight is None else wide(sample_weight).expand_as(counts)
    if setup.loss.weight_in_mean:
        counts = of_elements
    counted = counts * of_losses
    factor = of_losses.unsqueeze(-1) / shape[-1] * of_elements if rows else of_losses * of_elements
    if mask is not None:
        counted = counted.masked_fill(~mask, 0.0)
        factor = factor.masked_fill(~(mask.unsqueeze(-1) if rows and mask.ndim else mask), 0.0)
    denominator = 1.0
    if reduction == "mean":
        denominator = counted.sum().item() if normalizer is None else normalizer

    value, *slopes = [torch.where(factor == 0.0, 0.0, x * factor) for x in elements(setup, given)]
    losses = value.sum(-1) if rows else value
    result = losses if reduction == "none" else losses.sum() / denominator
    scale = torch.ones_like(result) if upstream is None else wide(upstream)
    scale = scale.unsqueeze(-1) if rows and reduction == "none" else scale
    gradients = [slope * scale / denominator for slope in slopes]
    return [result, *(g.sum_to_size(x.shape) for g, x in zip(gradients, operands, strict=True))]


# ---------------------------------------------------------------------------------------------------------
# Comparison


def upstream_of(result: Tensor) -> Tensor:
    """Numbers of both signs, exact in every dtype, that differ from element to element."""
    if result.ndim == 0:
        return torch.full_like(result, -1.5)
    return ((torch.arange(result.numel()) % 7 - 3.5) / 4).reshape(result.shape).to(result.dtype)


def call(setup: Setup, operands: list[Tensor], reduction: str = "mean", **extra: Any) -> list[Tensor | None]:
    """The loss and its gradient by each floating operand, as the autograd of a user sees them."""
    leaves = [
        nn.Parameter(x.detach()) if isinstance(x, nn.Parameter) else x.detach().requires_grad_(x.is_floating_point())
        for x in operands
    ]
    result = setup(*leaves, reduction=reduction, **extra)
    result.backward(upstream_of(result.detach()))
    return [result.detach(), *(x.grad for x in leaves)]


def assert_close(got: Tensor, truth: Tensor, dtype: torch.dtype, what: str) -> None:
    """Equal shape, NaNs and overflows; within 8 ULP of the largest result, which a wrong element exceeds by far."""
    assert got.shape == truth.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(truth.shape)}"
    assert got.dtype == dtype, f"{what}: {got.dtype}, expected {dtype}"
    info = torch.finfo(dtype)
    truth = torch.where(truth.abs() > info.max, truth * math.inf, truth)
    finite = truth[truth.isfinite()]
    largest = finite.abs().amax().item() if finite.numel() else 0.0
    allowed = max(8 * info.eps * largest, 4 * info.smallest_normal * info.eps)
    torch.testing.assert_close(
        got.double(), truth, rtol=0, atol=allowed, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


def check(setup: Setup, operands: list[Tensor], what: str = "", reductions: Any = REDUCTIONS, **extra: Any) -> None:
    """Compare a call with the oracle in every reduction; a gradient has its operand's shape and dtype."""
    floats = [x.dtype for x in operands if x.is_floating_point()]
    dtype = floats[0]
    for other in floats[1:]:
        dtype = torch.promote_types(dtype, other)
    for reduction in reductions:
        got = call(setup, operands, reduction, **extra)
        truth = oracle(setup, operands, reduction, upstream_of(got[0]), **extra)
        where = f"{setup} {reduction} {what}"
        assert_close(got[0], truth[0], dtype, f"{where}, value")
        for number, (x, gradient) in enumerate(zip(operands, got[1:], strict=True)):
            if x.is_floating_point():
                assert gradient is not None, f"{where}: no gradient {number}"
                assert_close(gradient, truth[number + 1], x.dtype, f"{where}, gradient {number}")


def test_the_oracle_and_the_comparison_can_fail():
    """A transposed operand, a forgotten weight and a forgotten mask are seen."""
    setup = next(s for s in setups() if s.loss.name == "mse_loss")
    a, b = setup.operands((4, 4))
    for wrong in ([a.mT, b], [a, b.mT]):
        with pytest.raises(AssertionError, match="none"):
            assert_close(call(setup, wrong, "none")[0], oracle(setup, [a, b], "none")[0], torch.float64, "none")
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for extra in ({"sample_weight": weights}, {"mask": weights > 1}, {"normalizer": 3.0}):
        got = call(setup, [a, b], "mean")[0]
        with pytest.raises(AssertionError, match="mean"):
            assert_close(got, oracle(setup, [a, b], "mean", **extra)[0], torch.float64, "mean")


# ---------------------------------------------------------------------------------------------------------
# Layouts


def copied(into: Tensor, x: Tensor) -> Tensor:
    """A view filled with the numbers of x."""
    assert into.shape == x.shape
    return into.copy_(x)


def sliced(x: Tensor, dim: int, step: int) -> Tensor:
    """x as a slice with a step along one dimension, an offset into its storage, NaN in the gaps."""
    shape = list(x.shape)
    shape[dim] = shape[dim] * step + 1
    index = [slice(None)] * x.ndim
    index[dim] = slice(1, None, step)
    return copied(torch.full(shape, math.nan, dtype=x.dtype)[tuple(index)], x)


def permuted(x: Tensor, order: tuple[int, ...]) -> Tensor:
    """x laid out in memory in this order of its dimensions."""
    back = [order.index(i) for i in range(len(order))]
    return x.permute(order).contiguous().permute(back)


def offset(x: Tensor) -> Tensor:
    """x contiguous, starting at an odd place of a larger storage."""
    return copied(torch.full((x.numel() + 6,), math.nan, dtype=x.dtype)[3 : 3 + x.numel()].view(x.shape), x)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.mT.contiguous().mT,
    "step 2 in rows": lambda x: sliced(x, -1, 2),
    "step 3 in rows": lambda x: sliced(x, -1, 3),
    "step 2 of rows": lambda x: sliced(x, 0, 2),
    "step 3 of planes, transposed": lambda x: sliced(x, 0, 3).mT.contiguous().mT,
    "offset": offset,
    "parameter": lambda x: nn.Parameter(x),
}


@SETUPS
def test_pairs_of_layouts(setup):
    """Each layout of the first operand with each of the others."""
    operands = setup.operands((3, 5, 7))
    for (first, a), (other, b) in itertools.product(LAYOUTS.items(), LAYOUTS.items()):
        given = [a(operands[0]), *map(b, operands[1:])]
        check(setup, given, f"{first} with {other}", ("none",) if first != other else REDUCTIONS)


@SETUPS
def test_permutations(setup):
    """Three dimensions in all orders of memory, operands in different ones."""
    operands = setup.operands((3, 4, 5))
    orders = list(itertools.permutations(range(3)))
    for one, other in itertools.product(orders, orders):
        given = [permuted(operands[0], one), *(permuted(x, other) for x in operands[1:])]
        check(setup, given, f"{one} with {other}", ("none",) if one != (2, 0, 1) else REDUCTIONS)


@SETUPS
def test_channels_last(setup):
    """Images in channels_last, both or one of the operands."""
    operands = setup.operands((2, 3, 4, 5))
    last = [x.contiguous(memory_format=torch.channels_last) for x in operands]
    for given in (last, [last[0], *operands[1:]], [operands[0], *last[1:]]):
        check(setup, given, "channels_last")


@SETUPS
def test_expanded(setup):
    """Operands with stride 0: rows, columns, one number; as leaves, they get a gradient per element."""
    shape = (4, 6)
    operands = setup.operands(shape)
    for part in ((slice(0, 1), slice(None)), (slice(None), slice(0, 1)), (slice(0, 1), slice(0, 1))):
        for which in itertools.product((False, True), repeat=len(operands)):
            given = [x[part].expand(shape) if stretch else x for x, stretch in zip(operands, which, strict=True)]
            check(setup, given, f"expanded {part} {which}")


@SETUPS
def test_gradient_through_expand(setup):
    """The leaf behind an expanded operand gets the sum over the elements that it became."""
    operands = setup.operands((4, 6))
    for part in ((slice(0, 1), slice(None)), (slice(None), slice(0, 1))):
        leaf = operands[0][part].clone().requires_grad_()
        setup(leaf.expand(4, 6), *operands[1:]).backward()
        truth = oracle(setup, [operands[0][part].expand(4, 6), *operands[1:]])[1]
        assert_close(leaf.grad, truth.sum_to_size(leaf.shape), torch.float64, f"{setup} leaf")


@SETUPS
def test_overlapping_windows(setup):
    """Sliding windows, whose elements share memory, as operands and as leaves; the series behind them gets sums."""
    series = setup.operands((20,))
    windows = [x.unfold(0, 4, 1) for x in series]
    check(setup, windows, "windows")
    leaf = series[0].clone().requires_grad_()
    setup(leaf.unfold(0, 4, 1), *windows[1:], reduction="sum").backward()
    truth = oracle(setup, windows, "sum")[1]
    behind = torch.zeros(20, dtype=torch.float64).index_add_(
        0, torch.arange(20).unfold(0, 4, 1).flatten(), truth.flatten()
    )
    assert_close(leaf.grad, behind, torch.float64, f"{setup} series")


SIZES = [*range(1, 41), BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK + 1]


@SETUPS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_odd_sizes(setup, dtype):
    """Tails of every length, behind whole vectors and whole blocks."""
    for size in SIZES:
        reductions = ("none", "mean") if dtype == torch.float32 else (("none", "mean")[size % 2],)
        check(setup, setup.operands((size,), dtype), f"size {size}", reductions)


@SETUPS
def test_one_element_and_none(setup):
    """No dimension, one element in many dimensions, no elements at all."""
    for shape in ((), (1,), (1, 1, 1), (0,), (3, 0), (0, 4)):
        if setup.loss.rows and (shape == () or shape[-1] == 0):
            continue  # classes are the last dimension: it must be there, and the mean over no class is NaN
        check(setup, setup.operands(shape), f"shape {shape}")


@SETUPS
def test_empty_mean(setup):
    """The mean over nothing is NaN, or 0 on demand; the sum is 0; gradients are empty."""
    operands = setup.operands((0, 4))
    assert call(setup, operands, "mean")[0].isnan()
    assert call(setup, operands, "sum")[0] == 0
    with losskit.empty("zero"):
        assert call(setup, operands, "mean")[0] == 0


@SETUPS
def test_many_dimensions(setup):
    """Ten dimensions run fused, seventeen and more eagerly: both are right, transposed too."""
    for dims in (10, 16, 17, 20):
        shape = (*(2 if i % 4 == 1 else 1 for i in range(dims - 2)), 3, 2)
        operands = setup.operands(shape)
        own = shape[:-1] if setup.loss.rows else shape
        check(setup, operands, f"{dims} dimensions")
        check(setup, operands, f"{dims} dimensions, weighed", sample_weight=uniform(own, torch.float64), mask=some(own))
        check(setup, operands, f"{dims} dimensions, normalized", ("mean",), normalizer=2.5)
        check(setup, [x.mT.contiguous().mT for x in operands], f"{dims} dimensions, transposed")


@SETUPS
def test_ten_dimensions_that_do_not_merge(setup):
    """Every dimension with its own stride: memory in reverse order, sizes above 1."""
    operands = setup.operands((2,) * 10)
    reverse = tuple(reversed(range(10)))
    check(setup, [operands[0], *(permuted(x, reverse) for x in operands[1:])], "reversed", ("none",))
    check(setup, [sliced(x, 4, 2) for x in operands], "sliced in the middle", ("none", "mean"))


# ---------------------------------------------------------------------------------------------------------
# Dtypes


@SETUPS
def test_mixed_dtypes(setup):
    """Floating dtypes promote as in torch; each operand's gradient comes in its own dtype."""
    operands = setup.operands((5, 7))
    for first, others in itertools.product(DTYPES, DTYPES):
        check(setup, [operands[0].to(first), *(x.to(others) for x in operands[1:])], f"{first} with {others}")


def integers(setup: Setup, dtype: torch.dtype) -> Tensor:
    """Targets of an integer dtype, inside the domain."""
    domain, generator = setup.domain("target"), torch.Generator().manual_seed(1)
    drawn = torch.randint(-3, 4, (5, 7), generator=generator)
    if not dtype.is_signed or dtype == torch.bool:
        drawn = drawn.abs()
    allowed = torch.tensor([domain.includes(float(x)) for x in drawn.flatten()]).view(drawn.shape)
    return torch.where(allowed, drawn, torch.ones_like(drawn)).to(dtype)


@SETUPS
@pytest.mark.parametrize("floating", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_integer_targets(setup, floating):
    """Integer and boolean targets are numbers, contiguous or not; the result has the dtype of the floats."""
    place = setup.loss._call_operands().index("target")
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
        operands = setup.operands((5, 7), floating)
        operands[place] = integers(setup, dtype)
        check(setup, operands, f"{dtype} target")
        operands[place] = operands[place].mT.contiguous().mT
        check(setup, operands, f"{dtype} target, transposed", ("none",))


@SETUPS
@ALL_DTYPES
def test_bounds_of_domains(setup, dtype):
    """A closed bound of a domain, rounded to the dtype of the operand, is inside: fused and eager, alone and masked."""
    for name, others in zip(setup.loss._call_operands(), itertools.repeat(setup.operands((1, 3), dtype))):
        domain, place = setup.domain(name), setup.loss._call_operands().index(name)
        bounds = [getattr(domain, end, math.inf) for end in ("low", "high")]
        opened = [getattr(domain, end, False) for end in ("low_open", "high_open")]
        for bound in (b for b, is_open in zip(bounds, opened, strict=True) if math.isfinite(b) and not is_open):
            given = list(others)
            given[place] = torch.full((1, 3), bound, dtype=dtype)
            for extra in ({}, {"mask": torch.ones((), dtype=torch.bool)}):
                assert call(setup, given, "none", **extra)[0].shape[0] == 1
            deep = [x.reshape((1,) * 16 + (1, 3)) for x in given]
            assert call(setup, deep, "none")[0].shape[0] == 1


# ---------------------------------------------------------------------------------------------------------
# Strides of results and gradients


def dense_strides(x: Tensor) -> list[tuple[int, int]]:
    """Sizes and strides of a tensor without its dimensions of size 1, whose strides mean nothing."""
    return [(size, stride) for size, stride in zip(x.shape, x.stride(), strict=True) if size != 1]


@SETUPS
def test_dense_results_keep_the_layout(setup):
    """The unreduced loss and the gradient of a dense input have its strides; rows lose the last dimension."""
    operands = setup.operands((2, 3, 4, 5))
    for order in itertools.permutations(range(4)):
        given = [permuted(x, order) for x in operands]
        value, gradient = call(setup, given, "none")[:2]
        assert dense_strides(gradient) == dense_strides(given[0]), f"gradient, {order}"
        if not setup.loss.rows:
            assert dense_strides(value) == dense_strides(given[0]), f"value, {order}"
        assert dense_strides(call(setup, given, "mean")[1]) == dense_strides(given[0]), f"mean, {order}"


def test_channels_last_stays_channels_last():
    """The memory format that torch tests for, of results and gradients."""
    for setup in setups():
        given = [x.contiguous(memory_format=torch.channels_last) for x in setup.operands((2, 3, 4, 5))]
        value, gradient = call(setup, given, "none")[:2]
        assert gradient.is_contiguous(memory_format=torch.channels_last), setup
        assert setup.loss.rows or value.is_contiguous(memory_format=torch.channels_last), setup


@pytest.mark.parametrize("layout", LAYOUTS)
def test_results_of_sliced_inputs_are_as_torchs(layout):
    """Inputs with gaps give dense results, in the strides that torch gives them."""
    setup = next(s for s in setups() if s.loss.name == "mse_loss")
    given = [LAYOUTS[layout](x.detach()).detach() for x in setup.operands((3, 5, 7))]
    value = call(setup, given, "none")[0]
    assert value.stride() == nn.functional.mse_loss(*given, reduction="none").stride()


# ---------------------------------------------------------------------------------------------------------
# Weights, masks, normalizers


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


def uniform(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return (torch.rand(shape, generator=generator, dtype=torch.float64) + 0.25).to(dtype)


def some(shape: tuple[int, ...]) -> Tensor:
    """A mask with both values in it, where it has two elements or more."""
    return (torch.arange(math.prod(shape)) % 3 != 1).view(shape)


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


# ---------------------------------------------------------------------------------------------------------
# The same bits, always


def same_bits(one: list[Tensor], other: list[Tensor], what: str) -> None:
    for number, (a, b) in enumerate(zip(one, other, strict=True)):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8)), f"{what}: result {number} differs"


# Every loss in every dtype, the variants of their formulas in one.
THREADED = [(s, d) for s in setups() for d in DTYPES if not s.params or d == torch.float32]


@pytest.mark.parametrize(("setup", "dtype"), THREADED, ids=str)
def test_threads(setup, dtype):
    """One thread, two threads, two again: the bits of losses and gradients depend on the numbers alone."""
    operands = setup.operands((300, 1000), dtype)
    own = (300,) if setup.loss.rows else (300, 1000)
    weights = {"sample_weight": uniform(own, dtype), "mask": some(own)}
    cases = [("none", {}), ("mean", {}), ("sum", {}), ("none", weights), ("mean", weights), ("sum", weights)]
    runs = []
    for threads, chosen in ((1, cases), (2, cases), (2, cases[:2])):
        torch.set_num_threads(threads)
        runs.append([[x.reshape(-1) for x in call(setup, operands, name, **extra)] for name, extra in chosen])
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
