"""The two-rows family: limits, losses of one's own, refusals and warnings."""

from __future__ import annotations

import math

import mpmath
import pytest
import torch
from two_row_calls import INF, LOSSES, NAN, both, rows

import losskit
from losskit import JensenShannonLoss, KnowledgeDistillationLoss, ReverseKLDivLoss, TotalVariationDistanceLoss
from losskit.errors import DeclarationError
from losskit.formula import absolute, log


@pytest.mark.parametrize("path", ["fused", "eager"])
class TestLimits:
    def pair(self, loss, student, teacher, path):
        return both(loss, torch.tensor(student), torch.tensor(teacher))[path == "eager"]

    def test_a_class_that_both_leave_out(self, path):
        for name, loss in LOSSES.items():
            value, slope = self.pair(loss, [1.0, -INF, 0.5, 2.0], [0.0, -INF, 1.0, 0.0], path)
            without, slopes = self.pair(loss, [1.0, 0.5, 2.0], [0.0, 1.0, 0.0], path)
            assert value.item() == pytest.approx(without.item()), name
            assert slope[1] == 0
            torch.testing.assert_close(slope[[0, 2, 3]], slopes)

    def test_a_class_that_the_teacher_leaves_out(self, path):
        """The teacher's best classes alone: the others have no probability, and cost nothing but what they take."""
        value, slope = self.pair(KnowledgeDistillationLoss(), [0.0, 0.0, 0.0], [-INF, 0.0, 0.0], path)
        assert value.item() == pytest.approx(math.log(1.5))
        torch.testing.assert_close(slope, torch.tensor([1 / 3, -1 / 6, -1 / 6]))
        assert self.pair(ReverseKLDivLoss(), [0.0, 0.0, 0.0], [-INF, 0.0, 0.0], path)[0] == INF
        assert self.pair(TotalVariationDistanceLoss(), [0.0, 0.0], [-INF, 0.0], path)[0] == 0.5

    def test_a_class_that_the_student_leaves_out(self, path):
        value, slope = self.pair(KnowledgeDistillationLoss(), [-INF, 0.0], [0.0, 0.0], path)
        assert value == INF
        torch.testing.assert_close(slope, torch.tensor([-0.5, 0.5]))
        value, slope = self.pair(ReverseKLDivLoss(), [-INF, 0.0], [0.0, 0.0], path)
        assert value.item() == pytest.approx(math.log(2))
        assert not slope.any()

    def test_nothing_in_common(self, path):
        for loss, most in ((JensenShannonLoss(), math.log(2)), (TotalVariationDistanceLoss(), 1.0)):
            for student, teacher in (([-INF, 0.0], [0.0, -INF]), ([-200.0, 0.0], [0.0, -200.0])):
                value, slope = self.pair(loss, student, teacher, path)
                assert value.item() == pytest.approx(most)
                assert not slope.any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("name", ["reverse_kl", "jensen_shannon"])
    def test_a_gradient_of_a_subnormal_probability(self, path, name, dtype):
        """A probability times its logarithm is a normal number where the probability is none any more."""
        loss = {"reverse_kl": ReverseKLDivLoss(), "jensen_shannon": JensenShannonLoss()}[name]
        q = 1 / (1 + mpmath.exp(-1))
        for x in (-87.4, -88.0, -90.0) if dtype == torch.float32 else (-708.5, -710.0, -712.0):
            x = torch.tensor(x, dtype=dtype).item()
            with mpmath.workdps(60):
                p = 1 / (1 + mpmath.exp(-x))
                ratio, rest = mpmath.log(p / q), mpmath.log((1 - p) / (1 - q))
                if name == "jensen_shannon":
                    ratio, rest = mpmath.log(2 * p / (p + q)) / 2, mpmath.log(2 * (1 - p) / (2 - p - q)) / 2
                truth = float(p * (1 - p) * (ratio - rest))
            assert abs(truth) > torch.finfo(dtype).smallest_normal
            pair = (torch.tensor(row, dtype=dtype) for row in ([x, 0.0], [1.0, 0.0]))
            slope = both(loss, *pair)[path == "eager"][1]
            torch.testing.assert_close(slope, torch.tensor([truth, -truth], dtype=dtype), rtol=1e-5, atol=0.0)

    def test_infinite_scores_share_the_probability(self, path):
        value, slope = self.pair(TotalVariationDistanceLoss(), [INF, INF, 0.0], [0.0, 0.0, 0.0], path)
        assert value.item() == pytest.approx(1 / 3)
        assert not slope.any()
        value, _ = self.pair(KnowledgeDistillationLoss(), [0.0, 0.0, 0.0], [INF, 0.0, 0.0], path)
        assert value.item() == pytest.approx(math.log(3))

    def test_nan_and_nothing_finite(self, path):
        for name, loss in LOSSES.items():
            for student, teacher in (([NAN, 0.0], [0.0, 0.0]), ([0.0, 0.0], [NAN, 0.0]), ([-INF, -INF], [0.0, 0.0])):
                value, slope = self.pair(loss, student, teacher, path)
                assert value.isnan(), name
                assert slope.isnan().all(), name

    def test_masked_nan(self, path):
        for loss in LOSSES.values():
            student, teacher = rows((3, 4), torch.float32)
            student[1], teacher[2] = NAN, NAN
            mask = torch.tensor([True, False, False])
            found = both(loss, student, teacher, mask=mask)[path == "eager"]
            alone = both(loss, student[:1], teacher[:1])[path == "eager"]
            torch.testing.assert_close(found[0], alone[0])
            assert not found[1][1:].any()


# ---------------------------------------------------------------------------------------------------------
# Losses of one's own


class SquaredOfTestLoss(losskit.TwoRowsLoss):
    """The squared distance of probabilities."""

    arguments = "temperature reduction"
    scaled = False

    @staticmethod
    def value(log_ratio, student, teacher):
        return (student - teacher) * (student - teacher)


class RatioOfTestLoss(losskit.TwoRowsLoss):
    """The magnitude of the logarithm of the ratio, with a weight."""

    weigh: float = losskit.param(default=2.0, doc="Weight.")

    @staticmethod
    def value(log_ratio, weigh):
        return weigh * absolute(log_ratio)


def test_a_derivative_is_derived():
    student, teacher = rows((3, 6))
    for loss, book in (
        (SquaredOfTestLoss(temperature=2.0), lambda x: ((x / 2).softmax(-1) - (teacher / 2).softmax(-1)).square()),
        (RatioOfTestLoss(weigh=3.0), lambda x: 3 * (x.log_softmax(-1) - teacher.log_softmax(-1)).abs()),
    ):
        leaf = student.clone().requires_grad_()
        expected = book(leaf).sum(-1).mean()
        (gradient,) = torch.autograd.grad(expected, leaf)
        for value, slope in both(loss, student, teacher):
            torch.testing.assert_close(value, expected.detach())
            torch.testing.assert_close(slope, gradient)


def test_a_declaration_without_the_ratio():
    with pytest.raises(DeclarationError, match="`value` must take log_ratio"):

        class NoRatioOfTestLoss(losskit.TwoRowsLoss):
            """None."""

            @staticmethod
            def value(teacher, student):
                return student * log(student / teacher)


# ---------------------------------------------------------------------------------------------------------
# Refusals and warnings

X = torch.zeros(2, 3)
REFUSED = [
    (lambda f: f(X.long(), X), "input must be floating point, got torch.int64. Input looks like labels and target like "
     "scores: are the two swapped?"),
    (lambda f: f(X.long(), X.long()), "input must be floating point, got torch.int64. Use input.float()."),
    (lambda f: f(X, torch.tensor([0, 1])), "target must be floating point, got torch.int64. The target is the "
     "teacher's scores; for class indices use cross_entropy."),
    (lambda f: f(X, X[0]), "input (2, 3) and target (3,) must have the same shape."),
    (lambda f: f(X, torch.zeros(2, 4)), "input (2, 3) and target (2, 4) must have the same shape."),
    (lambda f: f(X[0, 0], X[0, 0]), "input must have a dimension of classes, got a scalar."),
    (lambda f: f(X[:, :0], X[:, :0]), "input must have at least one class, got shape (2, 0)."),
    (lambda f: f(X, [0.0]), "target must be a tensor, got list."),
    (lambda f: f(X, X, mask=torch.ones(3, dtype=torch.bool)), "mask (3,) must broadcast to (2,)."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED, ids=range(len(REFUSED)))
def test_refusals(call, message):
    for loss in (KnowledgeDistillationLoss(), TotalVariationDistanceLoss()):
        with pytest.raises((ValueError, TypeError, IndexError)) as raised:
            call(loss)
        assert str(raised.value).split(": ", 1)[1].startswith(message)


def test_parameters_are_refused():
    with pytest.raises(ValueError, match="temperature must be"):
        KnowledgeDistillationLoss(temperature=0.0)
    with pytest.raises(ValueError, match="beta must be"):
        JensenShannonLoss(beta=1.5)
    with pytest.raises(TypeError):
        TotalVariationDistanceLoss(temperature=2.0)


@pytest.mark.parametrize("eager", [False, True])
def test_warnings(eager, monkeypatch):
    if eager:
        monkeypatch.setattr("losskit.kernels.dispatch.why_eager", lambda *_: "of this test")
        monkeypatch.setattr("losskit.kernels.library.available", lambda formula: False)
    student, teacher = rows((3, 5), torch.float32)
    loss = KnowledgeDistillationLoss()
    with pytest.warns(losskit.SpaceWarning, match="input looks like probabilities"):
        loss(student.softmax(-1), teacher)
    with pytest.warns(losskit.SpaceWarning, match="target looks like probabilities"):
        loss(student, teacher.softmax(-1))
    with pytest.warns(losskit.SpaceWarning, match="one class"):
        loss(student[:, :1], teacher[:, :1])
    loss(student.log_softmax(-1), teacher.log_softmax(-1))  # are scores, too
