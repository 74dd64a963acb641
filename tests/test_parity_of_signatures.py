"""torch's signatures, positional arguments, deprecated reductions, reprs, buffers and dtypes of modules."""

from __future__ import annotations

import copy
import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F  # its usual name
from parity import CLASSES, LOSSES, operands_of
from samples import DTYPES
from torch import nn

import losskit
from losskit import functional

# torch's samples of logits are from [0, 1], and some have one class.
pytestmark = pytest.mark.filterwarnings("ignore::losskit.SpaceWarning")

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
