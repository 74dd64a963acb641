"""torch's own samples, error inputs, module entries and reference functions, run against losskit.

torch ships them in `torch.testing._internal`. The truth is torch in float64 on the same numbers; losskit may be off by
what torch itself is off in the dtype under test, or by a few ULP of the largest term, whichever is more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # its usual name
from parity import (
    CLASSES,
    GRADIENT_ULPS,
    LOSSES,
    MODULE_SAMPLES,
    MODULES,
    OP_SAMPLES,
    OPS,
    POINTWISE,
    Call,
    assert_as_good,
    count,
)
from samples import DTYPES
from tiers import rest
from torch import nn

import losskit
from losskit import functional

# torch's samples of logits are from [0, 1], and some have one class.
pytestmark = pytest.mark.filterwarnings("ignore::losskit.SpaceWarning")
SOME_DTYPES = rest(DTYPES, [torch.float32], "torch: its own samples in the other dtypes")


# ---------------------------------------------------------------------------------------------------------
# A call of a loss, and its comparison


def test_the_comparison_can_fail():
    """A wrong shape, dtype, value or NaN is seen; what torch itself gets wrong is allowed."""
    truth = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    own, term = truth.float(), truth.amax()
    assert_as_good(own.clone(), own, truth, term, 2, "equal")
    assert_as_good(own + 0.5, own + 0.5, truth, term, 2, "as wrong as torch")
    spoilt = [own[:2], own.double(), own + 1e-5, own * math.nan, own.flip(0)]
    for wrong in spoilt:
        with pytest.raises(AssertionError, match="case"):
            assert_as_good(wrong, own, truth, term, 2, "case")


# ---------------------------------------------------------------------------------------------------------
# OpInfo


def op_calls(name: str, dtype: torch.dtype) -> Iterator[Call]:
    torch.manual_seed(0)
    for sample in OPS[name].sample_inputs("cpu", dtype, requires_grad=True):
        call = Call(name, (sample.input, *sample.args), sample.kwargs)
        yield call
        if dtype == torch.float32:
            yield call.strided()


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_op_samples(name, dtype):
    """Every OpInfo sample, value and gradients; the counts prove that they ran."""
    if dtype not in OPS[name].dtypes:
        pytest.skip(f"torch has no {name} in {dtype}")
    total, default = OP_SAMPLES[name]
    doubled = 2 if dtype == torch.float32 else 1
    ran, unchecked = count(op_calls(name, dtype), F, functional, allow_off=default < total)
    assert ran >= total * doubled
    assert unchecked >= default * doubled


# ---------------------------------------------------------------------------------------------------------
# ModuleInfo


def module_calls(name: str, dtype: torch.dtype) -> Iterator[Call]:
    """The module entries of a class, and of the same with strided operands."""
    info = MODULES[name]
    torch.manual_seed(0)
    for entry in module_entries(info, dtype):
        constructor = (tuple(entry.constructor_input.args), entry.constructor_input.kwargs)
        call = Call(name, tuple(entry.forward_input.args), entry.forward_input.kwargs, constructor)
        yield call
        if dtype == torch.float32:
            yield call.strided()


def module_entries(info: Any, dtype: torch.dtype, requires_grad: bool = True) -> list[Any]:
    return list(info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=True))


@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
@pytest.mark.parametrize("name", sorted(CLASSES.keys() & MODULES.keys()))
def test_module_entries(name, dtype):
    """Every ModuleInfo entry, value and gradients, against torch's module."""
    if dtype not in OPS[CLASSES[name].name].dtypes:
        pytest.skip(f"torch has no {name} in {dtype}")
    total, default = MODULE_SAMPLES[name]
    doubled = 2 if dtype == torch.float32 else 1
    ran, unchecked = count(module_calls(name, dtype), nn, losskit, allow_off=default < total)
    assert ran >= total * doubled
    assert unchecked >= default * doubled


@pytest.mark.parametrize("name", sorted(CLASSES.keys() & MODULES.keys()))
def test_module_references(name):
    """Every ModuleInfo entry has a reference function in plain Python; losskit agrees with all of them."""
    info, ran = MODULES[name], 0
    torch.manual_seed(0)
    for entry in module_entries(info, torch.float64, requires_grad=False):
        module = getattr(losskit, name)(*entry.constructor_input.args, **entry.constructor_input.kwargs)
        with losskit.checks("off"):
            got = module(*entry.forward_input.args, **entry.forward_input.kwargs)
        expected = entry.reference_fn(module, *entry.forward_input.args, **entry.forward_input.kwargs)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13, equal_nan=True)
        ran += 1
    assert ran >= MODULE_SAMPLES[name][0]


# ---------------------------------------------------------------------------------------------------------
# Error inputs


def op_errors() -> list[Any]:
    return [
        pytest.param(name, error.sample_input, id=f"{name}-{number}")
        for name in LOSSES
        if OPS[name].error_inputs_func is not None
        for number, error in enumerate(OPS[name].error_inputs("cpu"))
    ]


@pytest.mark.parametrize(("name", "sample"), op_errors())
def test_op_error_inputs(name, sample):
    """What torch refuses losskit refuses, without an exception to the rule, as a ValueError or TypeError."""
    name_of_default = name.replace("_with_distance", "")  # without a distance the loss is the other one
    with pytest.raises((ValueError, TypeError), match=f"^({name}|{name_of_default}): "):
        getattr(functional, name)(sample.input, *sample.args, **sample.kwargs)


def module_errors() -> list[Any]:
    result = []
    for name in sorted(CLASSES.keys() & MODULES.keys()):
        make = MODULES[name].module_error_inputs_func
        errors = [] if make is None else make(MODULES[name], "cpu", torch.float64, requires_grad=False, training=True)
        result += [pytest.param(name, error.module_error_input, id=name) for error in errors]
    return result


@pytest.mark.parametrize(("name", "entry"), module_errors())
def test_module_error_inputs(name, entry):
    """losskit refuses at construction, or at the first call, what torch refuses at the first call."""
    with pytest.raises((ValueError, TypeError), match=r"must|needs"):
        module = getattr(losskit, name)(*entry.constructor_input.args, **entry.constructor_input.kwargs)
        if name not in POINTWISE:
            module(*entry.forward_input.args, **entry.forward_input.kwargs)


def test_number_of_error_inputs():
    """The lists above are torch's and not empty."""
    assert len(op_errors()) >= 15
    assert len(module_errors()) >= 1


# ---------------------------------------------------------------------------------------------------------
# common_nn: reference functions, tests of criteria, tests of functions


def test_totals():
    """Every loss has samples, and the tables hold torch's numbers."""
    assert set(OP_SAMPLES) == set(LOSSES)
    assert set(MODULE_SAMPLES) == CLASSES.keys() & MODULES.keys()
    assert [sum(column) for column in zip(*OP_SAMPLES.values(), strict=True)] == [652, 406]
    assert [sum(column) for column in zip(*MODULE_SAMPLES.values(), strict=True)] == [276, 263]


# ---------------------------------------------------------------------------------------------------------
# What torch's samples leave out


def test_complex_is_refused():
    """torch's l1_loss takes complex numbers; losskit does not, and says so (docs/deviations.md)."""
    with pytest.raises(TypeError, match="must be real"):
        functional.l1_loss(torch.zeros(2, dtype=torch.complex64), torch.zeros(2, dtype=torch.complex64))


@pytest.mark.parametrize("checks", ["raise", "off"])
def test_variance_per_row(checks):
    """A variance without the last dimension is one per row, in a square batch too, whatever the checks."""
    torch.manual_seed(0)
    mean, target, var = torch.randn(5, 5), torch.randn(5, 5), torch.rand(5) + 0.1
    with losskit.checks(checks):
        got = functional.gaussian_nll_loss(mean, target, var, reduction="none")
    torch.testing.assert_close(got, F.gaussian_nll_loss(mean, target, var, reduction="none"))


def test_target_without_a_dimension_is_no_column():
    """torch broadcasts a target of shape (5,) along rows; as a column it would be silently another loss."""
    torch.manual_seed(0)
    mean, target, var = torch.randn(5, 5), torch.randn(5), torch.rand(5, 5) + 0.1
    try:
        got = functional.gaussian_nll_loss(mean, target, var, reduction="none")
    except ValueError:
        with losskit.checks("off"):
            got = functional.gaussian_nll_loss(mean, target, var, reduction="none")
    torch.testing.assert_close(got, F.gaussian_nll_loss(mean, target, var, reduction="none"))


SCALED = ["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"]


@pytest.mark.parametrize("name", SCALED)
def test_scaled_float16_gradient(name):
    """Loss scaling exists so that small gradients survive float16: the factor must come before the rounding."""
    target = (torch.arange(1_000_000) % 3 % 2).half()
    gradients = []
    for library, dtype in ((F, torch.float64), (F, torch.float16), (functional, torch.float16)):
        x = (torch.arange(1_000_000) % 7 / 8).to(dtype).requires_grad_()
        getattr(library, name)(x, target.to(dtype)).backward(torch.tensor(32768.0, dtype=dtype))
        gradients.append(x.grad)
    truth, own, got = gradients
    assert_as_good(got, own, truth.double(), truth.abs(), GRADIENT_ULPS, f"{name}: gradient")
