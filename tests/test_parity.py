"""torch's own samples, error inputs, module entries and reference functions, run against losskit.

torch ships them in `torch.testing._internal`. The truth is torch in float64 on the same numbers; losskit may be off by
what torch itself is off in the dtype under test, or by a few ULP of the largest term, whichever is more.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import row_samples
import torch
import torch.nn.functional as F  # its usual name
from samples import DTYPES, built_in
from torch import Tensor, nn
from torch.utils._pytree import tree_map

import losskit
from losskit import functional

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # test helpers of torch import deprecated modules
    common_nn = importlib.import_module("torch.testing._internal.common_nn")
    op_db = importlib.import_module("torch.testing._internal.common_methods_invocations").op_db
    module_db = importlib.import_module("torch.testing._internal.common_modules").module_db

# torch's samples of logits are from [0, 1], and some have one class.
pytestmark = pytest.mark.filterwarnings("ignore::losskit.SpaceWarning")

EVERY = [*built_in(), *row_samples.losses(), losskit.TripletMarginWithDistanceLoss]
EVERY = [loss for loss in EVERY if hasattr(F, loss.name)]  # `test_totals` knows which these are
LOSSES = {loss.name: loss for loss in EVERY}
CLASSES = {loss.__name__: loss for loss in EVERY}
OPS = {op.name.removeprefix("nn.functional."): op for op in op_db}
MODULES = {info.name.removeprefix("nn."): info for info in module_db}
VALUE_ULPS, SUM_ULPS, GRADIENT_ULPS = 2, 4, 4
INEXACT = ("ctc_loss", "CTCLoss", "cosine_embedding_loss", "CosineEmbeddingLoss")
POINTWISE = {loss.__name__ for loss in built_in()}

# Samples of torch 2.13 in each dtype, and how many of these pass the default checks. The others have labels or
# probabilities outside their domain, or shapes that broadcast. In float32 each runs a second time, strided.
OP_SAMPLES = {
    "binary_cross_entropy": (11, 11),
    "binary_cross_entropy_with_logits": (26, 26),
    "cosine_embedding_loss": (6, 0),
    "cross_entropy": (21, 21),
    "ctc_loss": (12, 12),
    "multi_margin_loss": (10, 10),
    "multilabel_margin_loss": (6, 6),
    "nll_loss": (61, 0),
    "triplet_margin_loss": (7, 7),
    "triplet_margin_with_distance_loss": (7, 7),
    "gaussian_nll_loss": (324, 180),
    "hinge_embedding_loss": (10, 9),
    "huber_loss": (9, 9),
    "kl_div": (16, 16),
    "l1_loss": (6, 6),
    "margin_ranking_loss": (24, 0),
    "mse_loss": (6, 6),
    "multilabel_soft_margin_loss": (4, 0),
    "poisson_nll_loss": (72, 72),
    "smooth_l1_loss": (8, 8),
    "soft_margin_loss": (6, 0),
}
MODULE_SAMPLES = {
    "BCELoss": (6, 6),
    "BCEWithLogitsLoss": (6, 6),
    "CTCLoss": (40, 40),
    "CosineEmbeddingLoss": (5, 5),
    "CrossEntropyLoss": (105, 105),
    "MultiLabelMarginLoss": (8, 8),
    "MultiMarginLoss": (7, 7),
    "NLLLoss": (28, 28),
    "GaussianNLLLoss": (5, 5),
    "HingeEmbeddingLoss": (10, 10),
    "HuberLoss": (4, 4),
    "KLDivLoss": (10, 2),
    "L1Loss": (5, 5),
    "MSELoss": (8, 8),
    "MarginRankingLoss": (5, 0),
    "MultiLabelSoftMarginLoss": (5, 5),
    "PoissonNLLLoss": (7, 7),
    "SmoothL1Loss": (8, 8),
    "SoftMarginLoss": (4, 4),
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
    if x.ndim == 1 and not x.is_floating_point():
        return x  # torch's ctc_loss does not step through concatenated targets with gaps
    view = wide[..., 1::2]
    view.copy_(x.detach())
    return view.requires_grad_(x.requires_grad)


def upstream_of(result: Tensor) -> Tensor:
    """1 for a reduced loss; for an unreduced one numbers of both signs that are exact in every dtype."""
    if result.numel() == 1:
        return torch.ones_like(result)
    return ((torch.arange(result.numel()) % 7 - 3.5) / 4).reshape(result.shape).to(result.dtype)


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


def finite(x: Tensor) -> Tensor:
    return x.detach().double().nan_to_num(0.0, 0.0, 0.0)


def value_term(call: Call, truth: Tensor, elements: Tensor) -> Tensor:
    """What the rounding errors of a value are measured by: the largest number among operands and results."""
    sizes = [finite(x).abs().amax() for x in [*call.args, truth] if isinstance(x, Tensor) and x.numel()]
    sums = [finite(elements).abs().sum()] if reduced_to_sum(truth, elements) else []
    return torch.stack([*sizes, *sums]).amax()


def reduced_to_sum(truth: Tensor, elements: Tensor) -> bool:
    """Whether a result is the sum, not the mean, of the elements."""
    return truth.ndim == 0 and elements.numel() > 1 and torch.allclose(truth, elements.sum(), rtol=1e-9)


def gradient_term(gradients: list[Tensor], elements: Tensor, truth: Tensor) -> Tensor:
    """The same for gradients. That of a broadcast operand is a sum of those of the elements; slopes are near 1."""
    slope = 1.0 if truth.ndim or reduced_to_sum(truth, elements) else 1.0 / max(elements.numel(), 1)
    sizes = {x.numel() for x in gradients}
    norms = [finite(x).abs().sum() if len(sizes) > 1 else finite(x).abs().amax() for x in gradients if x.numel()]
    return torch.stack([torch.tensor(slope, dtype=torch.float64), *norms]).amax()


def assert_as_good(got: Tensor, own: Tensor, truth: Tensor, term: Tensor, ulps: float, what: str) -> None:
    """Same shape and dtype as torch, no farther from the truth than torch or `ulps` of the largest term."""
    assert got.shape == own.shape, f"{what}: shape {tuple(got.shape)}, torch {tuple(own.shape)}"
    assert got.dtype == own.dtype, f"{what}: {got.dtype}, torch {own.dtype}"
    known = truth.isfinite()  # where torch is NaN the limit may be finite: that is the subject of the deviations
    mine = (got.double() - truth).abs()[known]
    torchs = (own.double() - truth).abs()[known].nan_to_num(0.0)  # torch overflows in float16: no excuse
    allowed = torch.maximum(torchs, ulps * ulp(term, got.dtype).expand_as(truth)[known])
    wrong = ~(mine <= allowed)
    assert not wrong.any(), (
        f"{what}: {got[known][wrong][0].item()!r}, torch {own[known][wrong][0].item()!r}, "
        f"truth {truth[known][wrong][0].item()!r}, {int(wrong.sum())} of {wrong.numel()} elements"
    )


def compare(call: Call, torchs: Any, ours: Any, allow_off: bool) -> str:
    """Compare one call; the checks that it ran under."""
    truth, own = run_torch(call, torchs, torch.float64), run_torch(call, torchs)
    elements = run_torch(call.elements(), torchs, torch.float64)[0]
    got, checks = run_losskit(call, ours, allow_off)
    value_ulps = VALUE_ULPS if truth[0].ndim else SUM_ULPS
    # torch in float64 is the truth of float64; where it is known to be inexact, losskit may differ from it.
    several = 1e4 if own[0].dtype == torch.float64 and call.name in INEXACT else 1
    terms = [value_term(call, truth[0], elements)] + [gradient_term(truth[1:], elements, truth[0])] * len(truth[1:])
    for position, results in enumerate(zip(got, own, truth, terms, strict=True)):
        what = f"{call} in {own[0].dtype}, " + (f"gradient {position}" if position else "value")
        assert_as_good(*results, several * (GRADIENT_ULPS if position else value_ulps), what)
    return checks


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


def run_losskit(call: Call, ours: Any, allow_off: bool) -> tuple[list[Tensor], str]:
    """Results under the default checks or, where these refuse and the sample may be refused, without checks."""
    try:
        return call.run(ours), "raise"
    except ValueError:
        if not allow_off:
            raise
    with losskit.checks("off"):
        return call.run(ours), "off"


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
        if dtype == torch.float32:
            yield call.strided()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
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

REFERENCES: dict[str, tuple[str, Callable[[], list[Tensor]], list[dict[str, Any]]]] = {
    "KLDivLoss": ("kl_div", lambda: [normal().log_softmax(-1), normal().softmax(-1)], [{}]),
    "KLDivLoss_log_target": ("kl_div", lambda: [normal().log_softmax(-1), normal().log_softmax(-1)], [{}]),
    "SmoothL1Loss": ("smooth_l1_loss", lambda: [normal(), normal()], [{}, {"beta": 0.5}, {"beta": 0}]),
    "HuberLoss": ("huber_loss", lambda: [normal(), normal()], [{}, {"delta": 0.5}]),
    "HingeEmbeddingLoss": ("hinge_embedding_loss", lambda: [normal(), signs()], [{}, {"margin": 0.3}]),
    "SoftMarginLoss": ("soft_margin_loss", lambda: [normal(), signs()], [{}]),
    "MarginRankingLoss": ("margin_ranking_loss", lambda: [normal(), normal(), signs()], [{}, {"margin": 0.7}]),
}


def normal() -> Tensor:
    return torch.randn(6, 5, dtype=torch.float64) * 2


def signs() -> Tensor:
    return torch.randn(6, 5, dtype=torch.float64).sign()


def test_references_are_complete():
    """Each reference function of torch that names a loss of losskit is used here."""
    known = {name for name in common_nn.loss_reference_fns if name.removesuffix("_log_target") in POINTWISE}
    assert known == set(REFERENCES)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("key", REFERENCES)
def test_reference_functions(key, reduction):
    """torch's reference functions, written element by element, give the same values."""
    name, operands, settings = REFERENCES[key]
    torch.manual_seed(0)
    for setting in settings:
        given = operands()
        own = {"log_target": True} if key.endswith("_log_target") else {}
        expected = common_nn.loss_reference_fns[key](*given, reduction=reduction, **setting)
        got = getattr(functional, name)(*given, reduction=reduction, **setting, **own)
        torch.testing.assert_close(got, torch.as_tensor(expected), rtol=1e-13, atol=1e-14)


class TestCase:
    """What `CriterionTest` of torch needs from a test case."""

    __test__ = False

    def _forward_criterion(self, criterion: nn.Module, input: Any, target: Tensor, extra_args: Any) -> Tensor:
        inputs = input if isinstance(input, tuple) else (input,)
        return criterion(*inputs, target, *extra_args)

    def assertEqual(self, got: Any, expected: Any, **tolerance: Any) -> None:  # noqa: N802  # torch's name
        torch.testing.assert_close(got, torch.as_tensor(expected), rtol=1e-10, atol=1e-12)


def criterion_tests() -> list[Any]:
    infos = [(info["fullname"].split("_no_batch_dim_"), info) for info in common_nn.criterion_tests]
    return [pytest.param(*name, info, id=info["fullname"]) for name, info in infos if name[0] in CLASSES]


@pytest.mark.parametrize(("name", "reduction", "info"), criterion_tests())
def test_criterion(name, reduction, info):
    """torch's tests of criteria (value, gradcheck, gradgradcheck, batched gradients) on losskit's modules."""
    built = []

    def constructor() -> nn.Module:
        built.append(getattr(losskit, name)(reduction=reduction))
        return built[-1]

    torch.manual_seed(0)
    with losskit.checks("off"):  # labels drawn from a normal distribution; integer labels
        common_nn.CriterionTest(**{**info, "constructor": constructor, "default_dtype": torch.float64})(TestCase())
    assert [module.reduction for module in built] == [reduction]


def test_number_of_criterion_tests():
    """Twelve classes in three reductions; GaussianNLLLoss is not among torch's."""
    assert len(criterion_tests()) >= 36


class Mixed:
    """torch.nn.functional with the losses of losskit in their places."""

    def __init__(self) -> None:
        self.used = Counter[str]()

    def __getattr__(self, name: str) -> Any:
        if name not in LOSSES:
            return getattr(F, name)
        self.used[name] += 1
        return getattr(functional, name)


def function_tests() -> list[Any]:
    tests = [t for t in common_nn.get_new_module_tests() if t.get("fullname", "").split("_")[0] in POINTWISE]
    return [pytest.param(info, id=info["fullname"]) for info in tests if "complex" not in info["fullname"]]


@pytest.mark.parametrize("info", function_tests())
def test_function(info, monkeypatch):
    """torch's tests of unreduced functions, rerun with losskit behind the name `F`, against their references."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.manual_seed(0)
        input = info["input_fn"]() if "input_fn" in info else torch.randn(info["input_size"])
        module, mixed = info["constructor"](), Mixed()
        torchs = values_and_gradient(module, input)
        monkeypatch.setattr(common_nn, "F", mixed)
        ours = values_and_gradient(module, input)
        monkeypatch.undo()
        expected = torch.as_tensor(info["reference_fn"](input, None, None))
    finally:
        torch.set_default_dtype(default)
    assert mixed.used.total() == 1
    torch.testing.assert_close(ours[0], expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-14)


def values_and_gradient(module: nn.Module, input: Tensor) -> tuple[Tensor, Tensor]:
    x = input.detach().clone().requires_grad_()
    with warnings.catch_warnings(), losskit.checks("off"):
        warnings.simplefilter("ignore")  # one test uses the deprecated `reduce`
        values = module(x)
    return values.detach(), torch.autograd.grad(values, x, upstream_of(values))[0]


def test_number_of_function_tests():
    assert len(function_tests()) >= 25


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


# ---------------------------------------------------------------------------------------------------------
# Signatures and modules

OWN = {"poisson_nll_loss": ["stirling"], "ctc_loss": ["from_scores", "exact_gradient"]}
EXTRAS = ["sample_weight", "mask", "normalizer"]
KEYWORD, POSITIONAL = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def assert_torch_first(ours: list[inspect.Parameter], torchs: list[inspect.Parameter], what: str) -> None:
    """torch's parameters come first: the same names, order and defaults, and not harder to pass."""
    for own, theirs in zip(ours, torchs, strict=False):
        assert own.name == theirs.name, f"{what}: {own.name} in the place of torch's {theirs.name}"
        assert own.default == theirs.default, f"{what}: {own} instead of torch's {theirs}"
        assert own.kind in (POSITIONAL, theirs.kind), f"{what}: {own.name} cannot be passed by position"
    assert len(ours) >= len(torchs), f"{what}: lacks {torchs[len(ours) :]}"


@pytest.mark.parametrize("name", LOSSES)
def test_function_signature(name):
    ours = list(inspect.signature(getattr(functional, name)).parameters.values())
    torchs = list(inspect.signature(getattr(F, name)).parameters.values())
    assert_torch_first(ours, torchs, name)
    own = ours[len(torchs) :]
    assert [p.name for p in own] == OWN.get(name, []) + EXTRAS
    assert [p.kind for p in own[-3:]] == [KEYWORD] * 3
    assert [p.default for p in own[-3:]] == [None] * 3


@pytest.mark.parametrize("name", CLASSES)
def test_class_signature(name):
    ours = list(inspect.signature(getattr(losskit, name)).parameters.values())
    torchs = list(inspect.signature(getattr(nn, name)).parameters.values())
    assert_torch_first(ours, torchs, name)
    assert [p.name for p in ours[len(torchs) :]] == OWN.get(CLASSES[name].name, [])


@pytest.mark.parametrize("name", CLASSES)
def test_forward_signature(name):
    ours = list(inspect.signature(getattr(losskit, name).forward).parameters.values())
    torchs = list(inspect.signature(getattr(nn, name).forward).parameters.values())
    if name == "PoissonNLLLoss":  # forward's `log_input` is called `input` in torch's function; losskit has one name
        torchs[1] = torchs[1].replace(name="input")
    assert_torch_first(ours, torchs, name)
    assert [(p.name, p.kind) for p in ours[len(torchs) :]] == [(extra, KEYWORD) for extra in EXTRAS]


def operands_of(name: str, shape: tuple[int, ...] = (3, 4)) -> list[Tensor]:
    loss, generator = CLASSES[name], torch.Generator().manual_seed(0)
    if not issubclass(loss, losskit.PointwiseLoss):
        own = "triplet_margin_loss" if name == "TripletMarginWithDistanceLoss" else loss.name
        return next(sample for sample in row_samples.SAMPLES if sample.name == own).operands(shape[0])
    return [loss.operands[operand].domain.sample(shape, generator) for operand in loss._call_operands()]


@pytest.mark.parametrize("name", CLASSES)
def test_functions_take_torchs_arguments_by_position(name):
    """All of torch's arguments at once, in torch's order, mean the same."""
    loss, given = CLASSES[name], operands_of(name)
    parameters = list(inspect.signature(getattr(F, loss.name)).parameters.values())[len(given) :]
    parameters = [p for p in parameters if p.kind == POSITIONAL]
    values = ["sum" if p.name == "reduction" else p.default for p in parameters]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = getattr(F, loss.name)(*given, *values)
    torch.testing.assert_close(getattr(functional, loss.name)(*given, *values), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_reduction_by_position(name, reduction):
    """A string given first is the reduction, the other parameters keep their defaults; torch makes it the mean."""
    if name == "TripletMarginWithDistanceLoss":
        pytest.skip("torch takes its arguments by keyword only")
    module = getattr(losskit, name)(reduction)
    assert module.reduction == reduction
    assert module.config() == getattr(losskit, name)(reduction=reduction).config()


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "kl_div", "soft_margin_loss"])
def test_reduction_by_position_in_functions(name):
    """The same in the functions whose first parameter is torch's size_average; a wrong word is refused."""
    given, function = operands_of(LOSSES[name].__name__), getattr(functional, name)
    for reduction in ("none", "mean", "sum"):
        assert torch.equal(function(*given, reduction), function(*given, reduction=reduction))
    with pytest.raises(ValueError, match="reduction must be one of"):
        function(*given, "median")


LEGACY = [{"size_average": True}, {"size_average": False}, {"reduce": True}, {"reduce": False}]
LEGACY += [{"size_average": a, "reduce": r} for a in (True, False) for r in (True, False)]
WITH_LEGACY = [name for name in CLASSES if "reduce" in inspect.signature(getattr(nn, name)).parameters]


def test_losses_with_legacy_arguments():
    newer = {"CTCLoss", "HuberLoss", "GaussianNLLLoss", "TripletMarginWithDistanceLoss"}
    assert set(CLASSES) - set(WITH_LEGACY) == newer & set(CLASSES)


@pytest.mark.parametrize("name", WITH_LEGACY)
@pytest.mark.parametrize("legacy", LEGACY, ids=str)
def test_legacy_reduction(name, legacy):
    """torch's deprecated arguments mean what they mean in torch, in functions and modules, and warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = getattr(nn, name)(**legacy).reduction
    with pytest.warns(DeprecationWarning, match="size_average and reduce are deprecated"):
        module = getattr(losskit, name)(**legacy)
    assert module.reduction == expected
    given = operands_of(name)
    with pytest.warns(DeprecationWarning, match="size_average and reduce are deprecated"):
        got = getattr(functional, CLASSES[name].name)(*given, **legacy)
    assert torch.equal(got, getattr(functional, CLASSES[name].name)(*given, reduction=expected))


@pytest.mark.parametrize("name", CLASSES)
def test_repr(name):
    """The class, the reduction and every parameter with its value."""
    module = getattr(losskit, name)(reduction="sum")
    text = repr(module)
    assert text.startswith(f"{name}(")
    assert "reduction='sum'" in text
    for parameter in CLASSES[name].params:
        assert f"{parameter}={getattr(module, parameter)!r}" in text


def test_repr_of_tensors():
    assert "pos_weight=tensor of shape (4,)" in repr(losskit.BCEWithLogitsLoss(pos_weight=torch.ones(4)))


BUFFERS = [
    ("BCELoss", {"weight": 4}),
    ("BCEWithLogitsLoss", {"weight": 4}),
    ("BCEWithLogitsLoss", {"pos_weight": 4}),
    ("BCEWithLogitsLoss", {"weight": 4, "pos_weight": 4}),
    ("MultiLabelSoftMarginLoss", {"weight": 4}),
    *((name, {}) for name in CLASSES),
]


@pytest.mark.parametrize(("name", "sizes"), BUFFERS, ids=str)
def test_state_dict(name, sizes):
    """The same keys and tensors as torch, in both directions."""
    tensors = {key: torch.linspace(0.5, 2.0, size) for key, size in sizes.items()}
    module, torchs = getattr(losskit, name)(**tensors), getattr(nn, name)(**tensors)
    assert list(module.state_dict()) == list(torchs.state_dict()) == list(tensors)
    assert [key for key, _ in module.named_buffers()] == [key for key, _ in torchs.named_buffers()]
    other = getattr(losskit, name)(**{key: torch.zeros_like(x) for key, x in tensors.items()})
    other.load_state_dict(torchs.state_dict())
    torchs.load_state_dict(module.state_dict())
    given = [x.float() if x.is_floating_point() else x for x in operands_of(name)]
    for same in (other, copy.deepcopy(module)):
        assert torch.equal(same(*given), module(*given))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "sizes"), [buffers for buffers in BUFFERS if buffers[1]], ids=str)
def test_to_dtype(name, sizes, dtype):
    """`.to(dtype)` converts weights as it does in torch, and the loss of that dtype uses them."""
    tensors = {key: torch.linspace(0.5, 2.0, size) for key, size in sizes.items()}
    given = [x.to(dtype) for x in operands_of(name)]
    module, torchs = getattr(losskit, name)(**tensors), getattr(nn, name)(**tensors)
    module(*[x.float() for x in given])  # a plan made before must not outlive the conversion
    assert module.to(dtype) is module
    assert {key: x.dtype for key, x in module.named_buffers()} == dict.fromkeys(sizes, dtype)
    got, expected = module(*given), torchs.to(torch.float64)(*[x.double() for x in given])
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), expected, rtol=8 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", CLASSES)
def test_to_dtype_without_buffers(name):
    """`.double()` and `.half()` of a loss without tensors change nothing."""
    module, given = getattr(losskit, name)(), operands_of(name)
    before = module(*given)
    assert torch.equal(module.half().double()(*given), before)
