"""Infinities, nothing, operands changed in place, stretched halves, freed memory: where two paths part most easily.

Truth is torch where it is right, mpmath or the limit by hand where it is not; and both paths must say it: the fused
kernel, and the eager formula as it runs for everything that the kernel leaves out.
"""

from __future__ import annotations

import itertools
from typing import Any

import mpmath as mp
import pytest
import row_samples
import samples
import torch
import torch.nn.functional as F
from torch import Tensor

import losskit
import losskit.functional as LF
from losskit import ClassScoresLoss, domains, param
from losskit.families.base import Family
from losskit.kernels import wire
from losskit.policy import state

INF = float("inf")
REDUCTIONS = ("none", "mean", "sum")


def outcome(eager: bool, loss: Any, operands: Any, wanted: Any, **extra: Any) -> list[Tensor]:
    """Loss and gradients of one path."""
    leaves = [x.clone().requires_grad_(i in wanted) if isinstance(x, Tensor) else x for i, x in enumerate(operands)]
    if eager:
        names = loss._call_operands()[: len(operands)]  # those that may be left out come last
        plan = loss._planned(*(name in names for name in loss._optional_operands()))
        weight = getattr(loss, "weight", None)
        extras = [extra.get(name) for name in ("sample_weight", "mask", "normalizer")]
        result = plan.eager(plan.validated(loss._with_slots(leaves), weight, *extras), state.checks)
    else:
        result = loss(*leaves, **extra)
    return [result, *torch.autograd.grad(result, [leaves[i] for i in wanted], torch.ones_like(result))]


def agree(loss: Any, operands: Any, wanted: Any, **extra: Any) -> list[Tensor]:
    """The result of the kernel, which is that of the eager formula."""
    kernel, formula = (outcome(eager, loss, operands, wanted, **extra) for eager in (False, True))
    for got, expected in zip(kernel, formula, strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-4, atol=2e-6, equal_nan=True)
    return kernel


def differentiable(setup: Any) -> list[int]:
    """The operands that have a gradient."""
    return [i for i, name in enumerate(setup.names) if setup.loss.operands[name].differentiable]


class ShiftedOfTest(ClassScoresLoss):
    """Cross entropy of scores shifted by the logarithm of the classes' frequencies."""

    prior: Tensor = param(default=None, domain=domains.positive, doc="Frequency of each class.")

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def shift(prior):
        return torch.log(prior)


# ---------------------------------------------------------------------------------------------------------
# Infinite scores


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("params", [{}, {"label_smoothing": 0.2}, {"weight": torch.tensor([2.0, 0.0, 1.0])}], ids=str)
def test_infinite_scores_have_the_gradient_of_the_limit(params, reduction):
    """Every row of -inf, 0 and inf, each class as target and soft targets: both paths agree."""
    loss = losskit.CrossEntropyLoss(reduction=reduction, **params)
    rows = torch.tensor(list(itertools.product([-INF, 0.0, INF], repeat=3)))
    for label in range(3):
        agree(loss, [rows, torch.full((27,), label)], [0])
    agree(loss, [rows, torch.full((27, 3), 1 / 3)], [0])


@pytest.mark.parametrize("rows", [1, 3])
def test_an_infinite_score_takes_all_the_probability(rows):
    scores, target = torch.tensor([[0.0, INF], [INF, INF], [INF, 0.0]])[:rows], torch.tensor([0, 1, 0])[:rows]
    loss, gradient = agree(losskit.CrossEntropyLoss(reduction="none"), [scores, target], [0])
    assert loss.tolist() == pytest.approx([INF, 0.6931472, 0.0][:rows])
    assert gradient.tolist() == [[-1.0, 1.0], [0.5, -0.5], [0.0, 0.0]][:rows]


@pytest.mark.filterwarnings("ignore::losskit.SpaceWarning")  # a row of one class
def test_a_row_of_nothing_is_nan():
    for scores in ([[-INF, -INF]], [[-INF]]):
        loss, gradient = agree(losskit.CrossEntropyLoss(), [torch.tensor(scores), torch.tensor([0])], [0])
        assert loss.isnan() and gradient.isnan().all()


@pytest.mark.filterwarnings("ignore::losskit.SpaceWarning")  # negative counts
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("setup", samples.everything("every loss at infinite weights, and over nothing"))
def test_infinite_weights_and_elements(setup, reduction):
    """A weight of inf or 0 at an infinite element: inf, or 0 times inf, which is NaN; a weight never hides a NaN."""
    count, wanted = len(setup.names), differentiable(setup)
    for where, weight in itertools.product(itertools.product([-INF, 0.5, INF], repeat=count), (0.0, 2.0, INF)):
        operands = [torch.tensor([[x, 0.5, 1.0]]) for x in where]
        if count > 1:
            operands[-1] = torch.tensor([[where[-1], 1.0, 1.0]])
        weights = torch.tensor([weight]) if setup.loss.rows else torch.tensor([[weight, 1.0, 0.5]])
        loss = setup.loss(reduction=reduction, **setup.kwargs(operands[0]))
        try:
            agree(loss, operands, wanted, sample_weight=weights)
        except ValueError as problem:
            assert "must be" in str(problem)  # no member of its domain, on either path


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_an_infinite_weight_of_a_row_multiplies_its_gradient(reduction):
    """Class and sample weights of inf: p - 1 and p become -inf and inf. torch has inf - inf for the former."""
    scores, target = torch.tensor([[0.0, 0.5, 1.0], [0.0, 1.0, 2.0]]), torch.tensor([0, 1])
    heavy = losskit.CrossEntropyLoss(weight=torch.tensor([INF, 1.0, 1.0]), reduction=reduction)
    plain = losskit.CrossEntropyLoss(reduction=reduction)
    for loss, extra in ((heavy, {}), (plain, {"sample_weight": torch.tensor([INF, 1.0])})):
        value, gradient = agree(loss, [scores, target], [0], **extra)
        if reduction == "mean":
            assert value.isnan() and gradient[0].isnan().all() and gradient[1].eq(0).all()
        else:
            assert value.flatten()[0] == INF and gradient[0].tolist() == [-INF, INF, INF]


@pytest.mark.parametrize("weight", [0.0, INF])
def test_an_infinite_pos_weight(weight):
    operands = torch.tensor([[-INF, 0.5, INF]]), torch.tensor([[1.0, 0.0, 1.0]])
    for reduction in REDUCTIONS:
        loss = losskit.BCEWithLogitsLoss(pos_weight=torch.tensor([weight, 1.0, weight]), reduction=reduction)
        agree(loss, operands, [0, 1])


def test_a_class_weight_of_0_silences_an_infinite_loss():
    """As a share of 0 does; torch multiplies 0 by inf. A NaN is never silenced."""
    loss = losskit.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0]), reduction="none")
    scores = torch.tensor([[-INF, 0.0], [float("nan"), 0.0], [1.0, 2.0]])
    value, _ = agree(loss, [scores, torch.tensor([0, 0, 0])], [0])
    assert value[[0, 2]].tolist() == [0.0, 0.0] and value[1].isnan()
    value, _ = agree(losskit.NLLLoss(weight=torch.tensor([0.0, 1.0]), reduction="none"),
                     [torch.tensor([[-INF, 0.0]]), torch.tensor([0])], [0])  # fmt: skip
    assert value.item() == 0.0


# ---------------------------------------------------------------------------------------------------------
# Nothing


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize("sample", row_samples.everything("every loss at infinite weights, and over nothing"))
def test_the_mean_over_nothing_of_rows(sample, empty):
    """All masked, weights of 0, a normalizer of 0, no rows: NaN or 0, and a gradient of exact zeros, on both paths."""
    losskit.empty(empty)
    loss = sample.loss(**sample.kwargs(torch.float32))
    paths = (False, True) if isinstance(loss, Family) else (False,)  # a distance of the user's own has one path
    for operands, extra in _nothing(sample.operands(3, torch.float32), sample.operands(0, torch.float32), 3):
        for eager in paths:
            value, *gradients = outcome(eager, loss, operands, sample.gradients, **extra)
            assert value.isnan() if empty == "nan" else value == 0
            assert all(bool((g == 0).all()) for g in gradients)


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize("setup", samples.everything("every loss at infinite weights, and over nothing"))
def test_the_mean_over_nothing_of_elements(setup, empty):
    losskit.empty(empty)
    loss = setup.loss(**setup.kwargs(torch.zeros(3, 2)))
    rows = 3 if setup.loss.rows else (3, 1)
    full, none = ([x.float() for x in setup.operands(shape)] for shape in ((3, 2), (0, 2)))
    for operands, extra in _nothing(full, none, rows):
        for eager in (False, True):
            value, *gradients = outcome(eager, loss, operands, differentiable(setup), **extra)
            assert value.isnan() if empty == "nan" else value == 0
            assert all(bool((g == 0).all()) for g in gradients)


def _nothing(full: list[Tensor], none: list[Tensor], rows: Any) -> list[tuple[list[Tensor], dict[str, Any]]]:
    zero = torch.zeros(rows)
    return [(full, {"mask": zero > 0}), (full, {"sample_weight": zero}), (full, {"normalizer": 0.0}), (none, {})]


@pytest.mark.parametrize("empty", ["nan", "zero"])
@pytest.mark.parametrize(("rows", "reduction"), list(itertools.product((0, 3), REDUCTIONS)))
def test_rows_of_no_elements(rows, reduction, empty):
    """Each row's loss is a mean over nothing; the sum over no elements is 0."""
    losskit.empty(empty)
    loss = losskit.MultiLabelSoftMarginLoss(reduction=reduction)
    value, _ = agree(loss, [torch.zeros(rows, 0), torch.zeros(rows, 0)], [0])
    assert value.shape == ((rows,) if reduction == "none" else ())
    nothing = empty == "zero" or reduction == "sum"
    assert bool((value == 0).all() if nothing else value.isnan().all())


@pytest.mark.parametrize("extra", [{"sample_weight": torch.zeros(1)}, {"normalizer": 0.0}], ids=str)
def test_nothing_has_no_gradient_where_the_loss_is_infinite(extra):
    """0 times the gradient of an infinite loss is NaN; that of nothing is 0."""
    for loss, operands in (
        (losskit.CrossEntropyLoss(), (torch.tensor([[-INF, -INF]]), torch.tensor([0]))),
        (losskit.MultiLabelSoftMarginLoss(), (torch.tensor([[-INF, 1.0]]), torch.tensor([[1.0, 1.0]]))),
        (losskit.TripletMarginLoss(), (torch.full((1, 2), INF), torch.full((1, 2), INF), torch.zeros(1, 2))),
    ):
        value, gradient = agree(loss, operands, [0], **extra)
        assert value.isnan() and bool((gradient == 0).all())


# ---------------------------------------------------------------------------------------------------------
# Shifts


@pytest.mark.parametrize("offset", [0.0, 3e4, -3e4, 1e6, -1e6])
def test_a_shift_keeps_its_digits(offset):
    """Scores of -3e4 leave a float 9 bits for the shift: it is added to the distances between the scores."""
    mp.mp.dps = 50
    prior = torch.tensor([0.5, 0.3, 0.15, 0.05, 1e-3, 1e-6])
    scores = torch.randn(4, 6, generator=torch.Generator().manual_seed(1)) * 5 + offset
    target, shift = torch.tensor([0, 5, 2, 4]), ShiftedOfTest.shift(prior)
    loss = ShiftedOfTest(prior=prior, reduction="none")
    for eager in (False, True):
        values, gradient = outcome(eager, loss, [scores, target], [0])
        for row, label in enumerate(target.tolist()):
            exact = [mp.mpf(z) + mp.mpf(s) for z, s in zip(scores[row].tolist(), shift.tolist(), strict=True)]
            powers = [mp.exp(x - max(exact)) for x in exact]
            others = mp.fsum(p for c, p in enumerate(powers) if c != label) / mp.fsum(powers)
            truths = [p / mp.fsum(powers) if c != label else -others for c, p in enumerate(powers)]
            pairs = [
                (values[row], mp.log(mp.fsum(powers)) + max(exact) - exact[label]),
                *zip(gradient[row], truths, strict=True),
            ]
            for got, truth in pairs:
                assert abs(mp.mpf(got.item()) / truth - 1) < 1.5 * 2**-23


@pytest.mark.parametrize("prior", [[1.0, -1.0, 0.5], [1.0, 0.0, 0.5]])
def test_a_parameter_of_a_shift_is_checked(prior):
    scores, target = torch.zeros(2, 3), torch.tensor([0, 1])
    sentence = rf"shifted_of_test: prior must be positive, got {prior[1]:g} at index \(1,\)"
    for call in (
        lambda: ShiftedOfTest(prior=torch.tensor(prior))(scores, target),
        lambda: ShiftedOfTest.functional(scores, target, prior=torch.tensor(prior)),
    ):
        with pytest.raises(ValueError, match=sentence):
            call()
        with losskit.checks("nan"):
            assert call().isnan()
    with losskit.checks("off"):
        assert ShiftedOfTest(prior=torch.tensor([1.0, 0.0, 1.0]))(scores, torch.tensor([0, 2])).item() == pytest.approx(
            0.6931472
        )


# ---------------------------------------------------------------------------------------------------------
# Halves


def _bce(x: Tensor, y: Tensor, pos_weight: Tensor) -> Tensor:
    """BCE with logits; torch's own has no gradient by pos_weight."""
    return ((1 - y) * x + (1 + (pos_weight - 1) * y) * F.softplus(-x)).mean()


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_by_stretched_halves_are_rounded_once(dtype, eager):
    """Summed in float32 and rounded: the nearest half to the sum, or its neighbour where that is a tie."""
    g = torch.Generator().manual_seed(3)
    x, y = (torch.randn(512, 8, generator=g).to(dtype) for _ in range(2))
    variance, weight = (torch.rand(shape, generator=g).to(dtype) + 0.5 for shape in ((512, 1), (8,)))
    anchor = torch.randn(1, 8, generator=g).to(dtype)
    wide = [t.double().requires_grad_() for t in (variance, weight, anchor)]
    truths = [
        F.gaussian_nll_loss(x.double(), y.double(), wide[0].expand(512, 8), reduction="sum"),
        _bce(x.double(), y.double().sigmoid().to(dtype).double(), wide[1]),
        F.triplet_margin_loss(wide[2].expand(512, 8), x.double(), y.double()),
    ]
    cases = [
        (losskit.GaussianNLLLoss(reduction="sum"), [x, y, variance], 2),
        (losskit.BCEWithLogitsLoss(pos_weight=weight.requires_grad_()), [x, y.double().sigmoid().to(dtype)], None),
        (losskit.TripletMarginLoss(), [anchor, x, y], 0),
    ]
    for (loss, operands, place), truth, of in zip(cases, truths, wide, strict=True):
        (expected,) = torch.autograd.grad(truth, of)
        if place is None:
            plan = loss._planned()
            arguments = plan.validated([*operands, weight], None, None, None, None)
            value = plan.eager(arguments, "raise") if eager else loss(*operands)
            (got,) = torch.autograd.grad(value, weight)
        else:
            value, got = outcome(eager, loss, operands, [place])
        assert value.dtype == dtype and got.dtype == dtype
        unit = torch.finfo(dtype).eps
        assert bool(
            ((got.double() - expected).abs() <= 0.51 * unit * expected.abs() + 1e-6 * expected.abs().max()).all()
        )


def test_a_loss_scaler_finds_the_digits_of_halves():
    """1/N of a mean over 2^18 elements leaves a float16 few digits: with another upstream gradient they are made anew."""
    x, scale = torch.rand(1 << 18, generator=torch.Generator().manual_seed(0)).half().requires_grad_(), 2.0**16
    (got,) = torch.autograd.grad(LF.mse_loss(x, torch.zeros_like(x)), x, torch.tensor(scale).half().clamp(max=6e4))
    scale = torch.tensor(scale).half().clamp(max=6e4).double()
    exact = 2 * x.detach().double() / (1 << 18) * scale
    assert bool(((got.double() - exact).abs() <= 0.5001 * 2.0**-10 * exact.clamp(min=2.0**-14)).all())


# ---------------------------------------------------------------------------------------------------------
# What Python and C++ both know


def test_the_limit_of_log_probabilities_is_one():
    """Between 2^-7 and 2^-6 a log-probability is too large, and just below 2^-7 it is not: kernel and formula agree."""
    loss = losskit.NLLLoss()
    below = torch.nextafter(torch.tensor(2.0**-7), torch.tensor(0.0)).item()
    for value, fine in ((below, True), (2.0**-7, True), (2.0**-7 * 1.01, False), (2.0**-6, False)):
        operands = [torch.tensor([[value, -1.0]]), torch.tensor([0])]
        for eager in (False, True):
            if fine:
                outcome(eager, loss, operands, [0])
            else:
                with pytest.raises(ValueError, match="a log-probability"):
                    outcome(eager, loss, operands, [0])


@pytest.mark.parametrize(
    "loss", [losskit.MSELoss(), losskit.CrossEntropyLoss(), losskit.CosineEmbeddingLoss()], ids=repr
)
def test_why_counts_the_dimensions_that_the_kernel_takes(loss, monkeypatch):
    """Up to MAX_DIMS dimensions the kernel runs, beyond them the formula, and `why` says so."""
    ran = []
    monkeypatch.setattr(type(loss._planned()), "eager", lambda *given: ran.append("eager") or torch.zeros(()))
    for dims, implementation in ((wire.MAX_DIMS, "fused CPU kernel"), (wire.MAX_DIMS + 1, "eager formula")):
        ran.clear()
        x = torch.rand((2, 2) + (1,) * (dims - 3) + (2,))
        operands = [x, torch.rand_like(x)]
        if isinstance(loss, losskit.CosineEmbeddingLoss):
            operands.append(torch.ones(x.shape[:-1]))
        assert losskit.why(loss, *operands).implementation == implementation
        loss(*operands, mask=torch.tensor(True))
        assert ran == (["eager"] if implementation == "eager formula" else [])


def test_a_triplet_at_its_margin_pushes():
    """At the kink the slope is that of a violated margin, as in torch up to 2.13; 2.15 gives no gradient there."""
    anchor = torch.tensor([[0.0, 0.0]])
    positive, negative = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    loss = losskit.TripletMarginLoss(margin=1.0, eps=0.0)
    value, gradient = agree(loss, [anchor, positive, negative], [0])
    assert value.item() == 0.0 and gradient.tolist() == [[-1.0, 1.0]]
