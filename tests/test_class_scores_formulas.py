"""The class-scores family: losses that are a formula of the row's statistics, and what a declaration may say."""

import itertools

import pytest
import torch
import torch.nn.functional as F  # its usual name
from class_scores_of_test import (
    AdjustedOfTest,
    FocalOfTest,
    GeneralisedOfTest,
    NormaliserOfTest,
    PolyOfTest,
    SmoothedOfTest,
    textbook,
)
from row_samples import without_kernels
from tiers import rest

import losskit
import losskit.functional as LF
from losskit import ClassScoresLoss, param

# ---------------------------------------------------------------------------------------------------------
# Losses that are a formula of the row's statistics: one class each, no kernel of their own


CASES = [  # numbers of the papers' formulas, computed with mpmath
    (FocalOfTest, {}, [2.0, 0.0, -1.0], 0, 0.00414426, [-0.0108052, 0.00789925, 0.00290597]),
    (FocalOfTest, {}, [2.0, 0.0, -1.0], 1, 1.70257, [1.03249, -1.08390, 0.0514048]),
    (FocalOfTest, {}, [12.0, 0.0, -5.0], 0, 2.36669e-16, [-7.10003e-16, 7.05251e-16, 4.75195e-18]),
    (PolyOfTest, {}, [2.0, 0.0, -1.0], 0, 0.326051, [-0.288010, 0.210553, 0.0774579]),
    (PolyOfTest, {}, [2.0, 0.0, -1.0], 1, 3.05565, [0.940152, -0.986959, 0.0468074]),
    (AdjustedOfTest, {"prior": torch.tensor([0.7, 0.2, 0.1])}, [2.0, 0.0, -1.0], 2, 4.99067,
     [0.956224, 0.0369745, -0.993199]),
    (AdjustedOfTest, {"prior": torch.tensor([0.7, 0.2, 0.1])}, [0.0, 0.0, 0.0], 0, 0.356675, [-0.3, 0.2, 0.1]),
]  # fmt: skip


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(("loss", "params", "scores", "target", "value", "gradient"), CASES)
def test_losses_of_the_family(loss, params, scores, target, value, gradient, fused, monkeypatch):
    if not fused:
        without_kernels(monkeypatch)
    x = torch.tensor([scores] * 3, requires_grad=True)
    criterion = loss(**params, reduction="sum")
    got = criterion(x, torch.full((3,), target))
    got.backward()
    assert losskit.why(criterion, x, torch.full((3,), target)).implementation.startswith("fused") == fused
    torch.testing.assert_close(got.item() / 3, value, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(x.grad[1].tolist(), gradient, rtol=2e-5, atol=0.0)


@pytest.mark.parametrize(
    "classes", rest([2, 5, 20, 300], [20], "class scores: kernels at every number of classes, layout and dtype")
)
@pytest.mark.parametrize(
    ("loss", "params"),
    [(FocalOfTest, {"gamma": 3.0}), (PolyOfTest, {"epsilon": 2.0}), (GeneralisedOfTest, {}),
     (NormaliserOfTest, {"scale": 0.1}), (SmoothedOfTest, {})],
)  # fmt: skip
def test_formulas_with_everything(loss, params, classes):
    """Indices and probabilities, smoothing, class weights, several dimensions: value and gradient."""
    torch.manual_seed(classes)
    for shape, smoothing, weighted, soft in itertools.product(
        ((7, classes), (2, classes, 3, 2)), (0.0, 0.2), (False, True), (False, True)
    ):
        z = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        weight = torch.rand(classes, dtype=torch.float64) + 0.5 if weighted else None
        target = torch.randint(0, classes, shape[:1] + shape[2:])
        hard = F.one_hot(target, classes).movedim(-1, 1).double()
        t = torch.randn(shape, dtype=torch.float64).softmax(1).requires_grad_() if soft else hard
        shares = (1 - smoothing) * t + smoothing / classes
        if weighted:
            shares = shares * weight.reshape(-1, *[1] * (z.ndim - 2))
        expected = textbook(loss, params, z, shares)
        given = t if soft else target
        got = loss.functional(z, given, weight=weight, label_smoothing=smoothing, reduction="none", **params)
        what = f"{loss.__name__} {shape} smoothing {smoothing}, weights {weighted}, soft {soft}"
        torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13, msg=lambda m, w=what: f"{w}: {m}")
        upstream = torch.rand_like(expected)
        leaves = [z, t] if soft else [z]
        for a, b in zip(*(torch.autograd.grad(v, leaves, upstream) for v in (got, expected)), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12, msg=lambda m, w=what: f"{w}: {m}")


def test_smoothing_as_a_formula_is_smoothing_as_an_option():
    z, y = torch.randn(9, 6, dtype=torch.float64), torch.randint(0, 6, (9,))
    torch.testing.assert_close(SmoothedOfTest.functional(z, y), LF.cross_entropy(z, y, label_smoothing=0.1))


class TestDeclarations:
    def refused(self, match, body):
        with pytest.raises(losskit.DeclarationError, match=match):
            type("Broken", (ClassScoresLoss,), {"__doc__": "Broken.", **body})

    def test_unknown_statistic(self):
        self.refused("may speak of log_probability, log_sum_exp", {"value": staticmethod(lambda logit: logit)})

    def test_no_formula(self):
        self.refused("needs a formula", {})

    def test_unused_parameter(self):
        body = {"value": staticmethod(lambda log_probability: log_probability), "__annotations__": {"a": float}}
        self.refused("does not take the parameter a", {**body, "a": param(default=1.0, doc="")})


# ---------------------------------------------------------------------------------------------------------
# What is refused


def test_no_gradient_reaches_through_a_shift_that_the_kernel_cannot_give():
    """A prior that is learnt gets its gradient from the formula."""
    x, y = torch.randn(6, 3, dtype=torch.float64), torch.randint(0, 3, (6,))
    prior = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda prior: AdjustedOfTest.functional(x, y, prior=prior), [prior])
    weight = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda weight: LF.cross_entropy(x, y, weight), [weight])
    assert torch.autograd.gradcheck(lambda w: LF.cross_entropy(x, y, label_smoothing=0.1, weight=w), [weight])
