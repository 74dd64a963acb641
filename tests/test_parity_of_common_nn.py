"""torch's common_nn: reference functions, tests of criteria, tests of functions, on losskit."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # its usual name
from parity import CLASSES, LOSSES, POINTWISE, common_nn, upstream_of
from torch import Tensor, nn

import losskit
from losskit import functional

# torch's samples of logits are from [0, 1], and some have one class.
pytestmark = pytest.mark.filterwarnings("ignore::losskit.SpaceWarning")

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
