"""torch's own tests of losses, unedited, while losskit is in the place of torch's functions."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # its usual name
from parity import CLASSES, LOSSES, MODULES, OPS, Call, common_nn, compare
from test_parity import module_calls, op_calls
from test_parity_of_common_nn import TestCase, function_tests
from torch import nn

import losskit


class Patched:
    """torch's library with losskit behind it, as a program finds it."""

    def __init__(self, library: Any) -> None:
        self.library = library

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with losskit.accelerate():
                return getattr(self.library, name)(*args, **kwargs)

        return call if self.library is F else self._module(name)

    def _module(self, name: str) -> Any:
        def constructor(*args: Any, **kwargs: Any) -> Any:
            module = getattr(self.library, name)(*args, **kwargs)

            def call(*operands: Any, **options: Any) -> Any:
                with losskit.accelerate():
                    return module(*operands, **options)

            return call

        return constructor


def calls(name: str, dtype: torch.dtype) -> Iterator[tuple[Call, Any]]:
    yield from ((call, F) for call in op_calls(name, dtype))
    module = LOSSES[name].__name__
    if module in MODULES:
        yield from ((call, nn) for call in module_calls(module, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_samples(name, dtype):
    """Every sample of functions and modules is computed, as exactly as by torch: nothing that torch takes is refused."""
    if dtype not in OPS[name].dtypes:
        pytest.skip(f"torch has no {name} in {dtype}")
    ran = [compare(call, library, Patched(library), allow_off=False) for call, library in calls(name, dtype)]
    assert len(ran) >= 4


def errors() -> list[Any]:
    named = [name for name in LOSSES if OPS[name].error_inputs_func is not None]
    return [pytest.param(n, e, id=f"{n}-{i}") for n in named for i, e in enumerate(OPS[n].error_inputs("cpu"))]


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(("name", "error"), errors())
def test_errors(name, error):
    """What torch refuses is refused with torch's exception and torch's words."""
    sample = error.sample_input
    with losskit.accelerate(), pytest.raises(error.error_type, match=error.error_regex):
        getattr(F, name)(sample.input, *sample.args, **sample.kwargs)


def criteria() -> list[Any]:
    infos = [(info["fullname"].partition("_no_batch_dim_"), info) for info in common_nn.criterion_tests]
    chosen = [((name, reduction), info) for (name, _, reduction), info in infos if name in CLASSES]
    return [pytest.param(*name, info, id=info["fullname"]) for name, info in chosen]


@pytest.mark.parametrize(("name", "reduction", "info"), criteria())
def test_criterion(name, reduction, info):
    """torch's modules in torch's tests: value, gradcheck, gradgradcheck, batched gradients."""
    torch.manual_seed(0)
    with losskit.accelerate() as ours:
        common_nn.CriterionTest(**{**info, "default_dtype": torch.float64})(TestCase())
    assert sum(site.calls for site in ours.sites) > 0


@pytest.mark.parametrize("name", sorted(CLASSES.keys() & MODULES.keys()))
def test_references(name):
    """torch's modules against torch's reference functions in plain Python."""
    info = MODULES[name]
    torch.manual_seed(0)
    entries = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=False, training=True)
    for entry in entries:
        module = getattr(nn, name)(*entry.constructor_input.args, **entry.constructor_input.kwargs)
        expected = entry.reference_fn(module, *entry.forward_input.args, **entry.forward_input.kwargs)
        with losskit.accelerate():
            got = module(*entry.forward_input.args, **entry.forward_input.kwargs)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-13, equal_nan=True)


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("info", function_tests())
def test_function(info):
    """torch's tests of unreduced functions: modules that call them, against torch's references."""
    torch.manual_seed(0)
    input = (info["input_fn"]() if "input_fn" in info else torch.randn(info["input_size"])).double()
    expected = torch.as_tensor(info["reference_fn"](input, None, None))
    with losskit.accelerate() as ours:
        got = info["constructor"]()(input)
    assert sum(site.calls for site in ours.sites) == 1
    torch.testing.assert_close(got.double(), expected.double(), rtol=1e-6, atol=1e-7)
