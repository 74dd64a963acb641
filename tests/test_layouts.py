"""Every layout, shape, dtype and combination of weights and masks against one oracle; threads, blocks, large sums.

The oracle calls the unreduced loss on flat, contiguous float64 copies, which other tests compare with torch and with
exact numbers, and then stretches, weighs, masks and reduces values and slopes in float64 by itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from oracle import ALL_DTYPES, BLOCK, REDUCTIONS, SETUPS, assert_close, call, check, copied, oracle, some, uniform
from samples import DTYPES, Setup, setups
from torch import Tensor, nn

import losskit

# ---------------------------------------------------------------------------------------------------------
# Comparison


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_number_for_each_row(dtype):
    """Rows of every width below 70, in blocks that begin and end anywhere in a row."""
    loss = losskit.functional.mse_loss
    for width in range(1, 70):
        x, y, w = (
            torch.randn(2100 // width, width).to(dtype),
            torch.randn(2100 // width, 1).to(dtype),
            torch.rand(width),
        )
        stretched = y.expand_as(x)
        got = loss(x, stretched, reduction="none", sample_weight=w)
        expected = loss(x, stretched.contiguous(), reduction="none", sample_weight=w.expand(x.shape).contiguous())
        assert torch.equal(got, expected), width


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
    if "target" not in setup.names:
        pytest.skip("it has no target")
    place = setup.names.index("target")
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
    for name, others in zip(setup.names, itertools.repeat(setup.operands((1, 3), dtype))):
        domain, place = setup.domain(name), setup.names.index(name)
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
