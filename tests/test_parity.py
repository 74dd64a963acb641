"""torch's own samples, error inputs, module entries and reference functions, run against losskit.

torch ships them in `torch.testing._internal`. The truth is torch in float64 on the same numbers; losskit may be off by
what torch itself is off in the dtype under test, or by a few ULP of the largest term, whichever is more.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import losskit
import pytest
import torch
import torch.nn.functional as F
from losskit import functional
from samples import DTYPES, built_in
from torch import Tensor, nn
from torch.utils._pytree import tree_map

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # test helpers of torch import deprecated modules
    common_nn = importlib.import_module("torch.testing._internal.common_nn")
    op_db = importlib.import_module("torch.testing._internal.common_methods_invocations").op_db
    module_db = importlib.import_module("torch.testing._internal.common_modules").module_db

LOSSES = {loss.name: loss for loss in built_in()}
CLASSES = {loss.__name__: loss for loss in built_in()}
OPS = {op.name.removeprefix("nn.functional."): op for op in op_db}
MODULES = {info.name.removeprefix("nn."): info for info in module_db}
VALUE_ULPS, GRADIENT_ULPS = 2, 4

# Samples with torch 2.13, both dense and strided, in each dtype: (all, of these under the default checks).
# The others have labels or probabilities outside their domain, or shapes that broadcast.
OP_SAMPLES = {
    "binary_cross_entropy": (22, 22),
}
MODULE_SAMPLES = {
    "BCELoss": (6, 6),
}


# ---------------------------------------------------------------------------------------------------------
# A call of a loss, and its comparison


@dataclass(frozen=True)
class Call:
    """Arguments of a function, or of a module and its constructor, that torch calls a sample."""

    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    constructor: tuple[tuple[Any, ...], dict[str, Any]] | None = None

    def arguments(self) -> tuple[Any, ...]:
        return self.args, self.kwargs, self.constructor

    def run(self, library: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
        """The result and the gradients by every tensor that wants one, floating tensors in `dtype`."""
        args, kwargs, constructor = tree_map(lambda x: leaf(x, dtype), self.arguments())
        if constructor is None:
            result = getattr(library, self.name)(*args, **kwargs)
        else:
            result = getattr(library, self.name)(*constructor[0], **constructor[1])(*args, **kwargs)
        leaves = [x for x in [*args, *kwargs.values()] if isinstance(x, Tensor) and x.requires_grad]
        upstream = upstream_of(result)
        # torch has no gradient by a target that only selects: that is a gradient of 0.
        found = torch.autograd.grad(result, leaves, upstream, allow_unused=True, materialize_grads=True)
        return [result.detach(), *found]

    def elements(self) -> Call:
        """The same call with the unreduced loss."""
        if self.constructor is None:
            return replace(self, kwargs={**self.kwargs, "reduction": "none"})
        return replace(self, constructor=(self.constructor[0], {**self.constructor[1], "reduction": "none"}))

    def strided(self) -> Call:
        """The same numbers in memory with gaps."""
        args, kwargs, constructor = tree_map(gapped, self.arguments())
        return Call(self.name, args, kwargs, constructor)

    def __str__(self) -> str:
        shapes = tree_map(lambda x: tuple(x.shape) if isinstance(x, Tensor) else x, self.arguments())
        return f"{self.name}{shapes}"


def leaf(x: Any, dtype: torch.dtype | None) -> Any:
    """A tensor as a leaf of its own graph, in its own layout."""
    if not isinstance(x, Tensor):
        return x
    detached = x.detach()
    if dtype is not None and x.is_floating_point():
        detached = detached.to(dtype)
    return detached.requires_grad_(x.requires_grad)


def gapped(x: Any) -> Any:
    if not isinstance(x, Tensor) or x.ndim == 0:
        return x
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1] + 1, dtype=x.dtype)
    view = wide[..., 1::2]
    view.copy_(x.detach())
    return view.requires_grad_(x.requires_grad)


def upstream_of(result: Tensor) -> Tensor:
    """1 for a reduced loss; for an unreduced one numbers that differ, exact in every dtype, zero among them."""
    if result.numel() == 1:
        return torch.ones_like(result)
    return ((torch.arange(result.numel()) % 7 - 3) / 4).reshape(result.shape).to(result.dtype)


def run_torch(call: Call, library: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
    """`call.run`, without torch's warnings about broadcasting and 'mean'."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call.run(library, dtype)


def ulp(magnitude: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of a dtype at given magnitudes, in float64."""
    info = torch.finfo(dtype)
    exponent = torch.frexp(magnitude.double()).exponent
    spacing = torch.ldexp(torch.full_like(magnitude, info.eps, dtype=torch.float64), exponent - 1)
    return spacing.clamp(min=info.smallest_normal * info.eps)


def largest_term(truth: Tensor, elements: Tensor) -> Tensor:
    """The magnitude that rounding errors are measured by: the sum of magnitudes that the result is a sum of."""
    largest = truth.abs().amax() if truth.numel() else truth.new_zeros(())
    if truth.ndim == 0 and elements.numel() and truth != 0 and elements.sum() != 0:
        largest = largest * (elements.abs().sum() / elements.sum().abs())
    return largest


def assert_as_good(got: Tensor, own: Tensor, truth: Tensor, term: Tensor, ulps: int, what: str) -> None:
    """Same shape and dtype as torch, no farther from the truth than torch or `ulps` of the largest term."""
    assert got.shape == own.shape, f"{what}: shape {tuple(got.shape)}, torch {tuple(own.shape)}"
    assert got.dtype == own.dtype, f"{what}: {got.dtype}, torch {own.dtype}"
    known = truth.isfinite()  # where torch is NaN the limit may be finite: that is the subject of the deviations
    mine = (got.double() - truth).abs()[known]
    torchs = (own.double() - truth).abs()[known]
    allowed = torch.maximum(torchs, ulps * ulp(term, got.dtype).expand_as(mine))
    wrong = ~(mine <= allowed)
    assert not wrong.any(), (
        f"{what}: {got[known][wrong][0].item()!r}, torch {own[known][wrong][0].item()!r}, "
        f"truth {truth[known][wrong][0].item()!r}, {int(wrong.sum())} of {wrong.numel()} elements"
    )


def compare(call: Call, torchs: Any, ours: Any, allow_off: bool) -> str:
    """Compare one call; the checks that it ran under."""
    truth, own = run_torch(call, torchs, torch.float64), run_torch(call, torchs)
    elements = run_torch(call.elements(), torchs, torch.float64)[0]
    checks = "raise"
    try:
        got = call.run(ours)
    except ValueError as refusal:
        assert allow_off, f"{call}: refused: {refusal}"
        checks = "off"
        with losskit.checks("off"):
            got = call.run(ours)
    for position, results in enumerate(zip(got, own, truth, strict=True)):
        what = f"{call} in {own[0].dtype}, " + (f"gradient {position}" if position else "value")
        term = largest_term(results[2], elements) if position == 0 else largest_term(results[2], results[2])
        assert_as_good(*results, term, GRADIENT_ULPS if position else VALUE_ULPS, what)
    return checks


def count(calls: Iterator[Call], torchs: Any, ours: Any, allow_off: bool) -> tuple[int, int]:
    """Compare calls: how many there were, and how many ran under the default checks."""
    ran = Counter(compare(call, torchs, ours, allow_off) for call in calls)
    return ran.total(), ran["raise"]


# ---------------------------------------------------------------------------------------------------------
# OpInfo


def op_calls(name: str, dtype: torch.dtype) -> Iterator[Call]:
    torch.manual_seed(0)
    for sample in OPS[name].sample_inputs("cpu", dtype, requires_grad=True):
        call = Call(name, (sample.input, *sample.args), sample.kwargs)
        yield call
        yield call.strided()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_op_samples(name, dtype):
    """Every OpInfo sample, value and gradients; the counts prove that they ran."""
    total, default = OP_SAMPLES[name]
    ran, unchecked = count(op_calls(name, dtype), F, functional, allow_off=default < total)
    assert ran >= total
    assert unchecked >= default


def test_totals():
    """What the two tables promise; nobody can empty them unseen."""
    assert set(OP_SAMPLES) == set(LOSSES)
    assert set(MODULE_SAMPLES) == set(CLASSES)
    print({n: 0 for n in LOSSES})
