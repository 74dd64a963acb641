"""The two-rows family: a student's and a teacher's row of scores, by the kernel and by the formula in torch."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from tiers import rest

import losskit
from losskit import JensenShannonLoss, KnowledgeDistillationLoss, ReverseKLDivLoss, TotalVariationDistanceLoss
from losskit.errors import DeclarationError
from losskit.formula import absolute, log

LOSSES = {
    "kd": KnowledgeDistillationLoss(temperature=2.0),
    "reverse": ReverseKLDivLoss(),
    "jsd": JensenShannonLoss(beta=0.3),
    "jsd forward": JensenShannonLoss(beta=0.0),
    "jsd reverse": JensenShannonLoss(beta=1.0),
    "tv": TotalVariationDistanceLoss(),
}
EACH = pytest.mark.parametrize("name", LOSSES)
SHAPES = [(5,), (1, 1), (3, 2), (120, 10), (7, 16), (3, 17), (2, 3, 33), (4, 513), (3, 1024), (2, 1025), (2, 2500)]
NAN, INF = math.nan, math.inf


def with_reduction(loss, reduction):
    return losskit.create(loss.config() | {"reduction": reduction})


def rows(shape, dtype=torch.float64, apart=2.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    teacher = torch.randn(shape, generator=g, dtype=torch.float64) * 2.0
    student = teacher + apart * torch.randn(shape, generator=g, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


def eagerly(loss, *operands, sample_weight=None, mask=None, normalizer=None):
    plan = loss._planned()
    return plan.eager(plan.validated(operands, None, sample_weight, mask, normalizer), "off")


def both(loss, student, teacher, **extras):
    """Value and gradient by the kernel, and by the formula."""
    found = []
    for call in (loss, lambda *x, **k: eagerly(loss, *x, **k)):
        leaf = student.detach().clone().requires_grad_()
        value = call(leaf, teacher, **extras)
        upstream = torch.linspace(1.0, 2.0, max(value.numel(), 1), dtype=value.dtype)[: value.numel()]
        found.append((value.detach(), torch.autograd.grad(value, leaf, upstream.reshape(value.shape))[0]))
    return found


def naive(name, student, teacher):
    """The textbook, in float64."""
    t = LOSSES[name].config().get("temperature", 1.0)
    p, q = (student / t).softmax(-1), (teacher / t).softmax(-1)
    forward, reverse = (q * (q / p).log()).sum(-1), (p * (p / q).log()).sum(-1)
    m = 0.3 * q + 0.7 * p
    return {
        "kd": t * t * forward, "reverse": reverse, "jsd forward": forward, "jsd reverse": reverse,
        "jsd": 0.3 * (q * (q / m).log()).sum(-1) + 0.7 * (p * (p / m).log()).sum(-1),
        "tv": 0.5 * (p - q).abs().sum(-1),
    }[name]  # fmt: skip


# ---------------------------------------------------------------------------------------------------------
# Truth


@EACH
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_are_the_textbook(name, shape):
    student, teacher = rows(shape)
    loss = with_reduction(LOSSES[name], "none")
    leaf = student.clone().requires_grad_()
    expected = naive(name, leaf, teacher)
    upstream = torch.linspace(1.0, 2.0, max(expected.numel(), 1), dtype=torch.float64).reshape(expected.shape)
    (gradient,) = torch.autograd.grad(expected, leaf, upstream)
    with losskit.checks("off"):
        for value, slope in both(loss, student, teacher):
            torch.testing.assert_close(value, expected.detach(), rtol=1e-9, atol=1e-13)
            torch.testing.assert_close(slope, gradient, rtol=1e-9, atol=1e-13)


@EACH
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("apart", [1e-4, 1.0, 20.0])
@pytest.mark.parametrize("dtype", rest([torch.float32, torch.float64], [torch.float32], "rows: laws, layouts, dtypes and transforms of every loss"), ids=str)  # fmt: skip
def test_kernel_and_formula_agree(name, reduction, apart, dtype):
    loss, eps = with_reduction(LOSSES[name], reduction), torch.finfo(dtype).eps
    for shape in SHAPES:
        with losskit.checks("off"):
            (value, slope), (expected, gradient) = both(loss, *rows(shape, dtype, apart))
        for x, y in ((value, expected), (slope, gradient)):
            # A nearly certain row's gradient of the total variation cancels in the formula.
            torch.testing.assert_close(x, y, rtol=1e-2 if apart == 20.0 else 0, atol=64 * eps * float(y.abs().max()))


@EACH
def test_the_textbook_sums_to_what_is_computed(name):
    """Terms of a textbook cancel, those that are computed do not; what is shown has the gradient that is computed."""
    loss = with_reduction(LOSSES[name], "sum")
    student, teacher = rows((1, 6))
    (value, slope), _ = both(loss, student, teacher)
    t = loss.config().get("temperature", 1.0)
    p, q = (student / t).softmax(-1), (teacher / t).softmax(-1)
    known = {
        "teacher": q,
        "student": p,
        "log_ratio": (p / q).log(),
        "beta": torch.tensor(loss.config().get("beta", 0.5)),
    }
    taken = lambda function: [known[name] for name in inspect.signature(function).parameters]
    if known["beta"] not in (0.0, 1.0):  # there the textbook's formula has the limit 0
        torch.testing.assert_close(t * t * type(loss).textbook(*taken(type(loss).textbook)).sum(), value)
    *_, h = type(loss).grad(*taken(type(loss).value))
    torch.testing.assert_close(t * (h - p * h.sum()), slope)


@EACH
def test_a_student_that_is_its_teacher(name):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        _, teacher = rows((4, 9), dtype)
        for value, slope in both(LOSSES[name], teacher, teacher):
            assert value == 0
            assert not slope.any()


def test_near_rows_keep_their_digits():
    """Scores 1e-6 apart in float32: sums of q (log q - log p) are wrong by all digits."""
    student, teacher = torch.tensor([1.0 + 2.0**-20, 0.0, -1.0]), torch.tensor([1.0, 0.0, -1.0])
    p, q = student.double().softmax(0), teacher.double().softmax(0)
    truth = 2.0**-40 / 2 * float(q[0] * (1 - q[0]))
    for value, slope in both(KnowledgeDistillationLoss(), student, teacher):
        assert value.item() == pytest.approx(truth, rel=1e-5)
        torch.testing.assert_close(slope.double(), p - q, rtol=1e-5, atol=0.0)


def test_certain_rows_keep_their_digits():
    """What is left of the gradient of a student that is almost certain: nothing is rounded to 0."""
    for margin in (20.0, 40.0, 80.0):
        student, teacher = torch.tensor([margin, 0.0]), torch.tensor([margin + 1.0, 0.0])
        missing = math.exp(-margin)  # of the probability of 1
        for _, slope in both(ReverseKLDivLoss(), student, teacher):
            torch.testing.assert_close(slope.double(), torch.tensor([-missing, missing]).double(), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_large_scores(dtype):
    student, teacher = rows((3, 50), dtype)
    for shift in (1e4, -1e4):
        moved = student + shift, teacher - shift
        exact = moved[0].double() - shift, moved[1].double() + shift
        for name in LOSSES:
            for value, slope in both(LOSSES[name], *moved):
                (expected, gradient), _ = both(LOSSES[name], *exact)
                torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0.0)
                torch.testing.assert_close(slope.double(), gradient, rtol=0.0, atol=1e-5 * float(gradient.abs().max()))


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
# Layouts, dtypes, reductions


@EACH
@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
        lambda x: x.movedim(-1, 1).contiguous().movedim(1, -1),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x.flip(0).flip(0),
    ],
    ids=["transposed", "classes first", "apart", "copied"],
)
def test_layouts(name, move):
    student, teacher = rows((4, 3, 21), torch.float32)
    for reduction in ("none", "mean"):
        loss = with_reduction(LOSSES[name], reduction)
        (value, slope), _ = both(loss, student, teacher)
        for x, y in ((move(student), teacher), (student, move(teacher)), (move(student), move(teacher))):
            (moved, slopes), _ = both(loss, x, y)
            torch.testing.assert_close(moved, value, rtol=0, atol=0)
            torch.testing.assert_close(slopes, slope, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_rounded_once(dtype):
    for loss in LOSSES.values():
        student, teacher = rows((6, 40), dtype)
        (value, slope), (expected, gradient) = both(loss, student, teacher)
        (wide, wide_slope), _ = both(loss, student.double(), teacher.double())
        for x, y, truth in ((value, expected, wide), (slope, gradient, wide_slope)):
            assert x.dtype == y.dtype == dtype
            for got in (x, y):
                error = (got.double() - truth).abs()
                assert (error <= 0.51 * torch.finfo(dtype).eps * truth.abs() + 1e-7).all()


def test_dtypes_mix():
    student, teacher = rows((3, 5), torch.float32)
    assert KnowledgeDistillationLoss()(student.half(), teacher).dtype == torch.float32
    assert KnowledgeDistillationLoss()(student, teacher.double()).dtype == torch.float64
    assert KnowledgeDistillationLoss()(student.half(), teacher.bfloat16()).dtype == torch.float32
    with torch.autocast("cpu"):
        assert KnowledgeDistillationLoss()(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


@EACH
def test_weights_masks_and_normalizers(name):
    student, teacher = rows((5, 12), torch.float64)
    weight, mask = torch.tensor([1.0, 0.0, 2.0, 0.5, 3.0]).double(), torch.tensor([True, True, False, True, True])
    each = eagerly(with_reduction(LOSSES[name], "none"), student, teacher)
    for extras, expected in (
        ({"sample_weight": weight}, (each * weight).sum() / weight.sum()),
        ({"mask": mask}, each[mask].mean()),
        ({"sample_weight": weight, "mask": mask}, (each * weight)[mask].sum() / weight[mask].sum()),
        ({"normalizer": 3.0}, each.sum() / 3.0),
        ({"mask": torch.zeros(5, dtype=torch.bool)}, torch.tensor(NAN).double()),
    ):
        for value, slope in both(LOSSES[name], student, teacher, **extras):
            torch.testing.assert_close(value, expected, equal_nan=True)
            assert slope.isfinite().all()


def test_nothing():
    empty = torch.zeros(0, 3, requires_grad=True)
    assert KnowledgeDistillationLoss()(empty, torch.zeros(0, 3)).isnan()
    assert KnowledgeDistillationLoss("sum")(empty, torch.zeros(0, 3)) == 0
    with losskit.empty("zero"):
        assert KnowledgeDistillationLoss()(empty, torch.zeros(0, 3)) == 0


def test_the_same_bits_for_any_number_of_threads():
    student, teacher = rows((300, 700), torch.float32)
    threads = torch.get_num_threads()
    found = []
    for number in (1, 2):
        torch.set_num_threads(number)
        found.append(both(JensenShannonLoss(), student, teacher)[0])
    torch.set_num_threads(threads)
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


# ---------------------------------------------------------------------------------------------------------
# Gradients


@EACH
def test_derivatives_of_the_formula(name):
    for apart in (0.1, 2.0):
        student, teacher = rows((2, 4), apart=apart)
        loss = with_reduction(LOSSES[name], "none")
        student.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: eagerly(loss, x, teacher), student)
        assert torch.autograd.gradcheck(lambda x: loss(x, teacher), student)
        assert torch.autograd.gradgradcheck(lambda x: loss(x, teacher), student)


@EACH
def test_transforms(name):
    student, teacher = rows((3, 6))
    loss, each = with_reduction(LOSSES[name], "sum"), with_reduction(LOSSES[name], "none")
    (_, slope), _ = both(loss, student, teacher)
    torch.testing.assert_close(torch.func.grad(loss)(student, teacher), slope)
    torch.testing.assert_close(torch.func.vmap(each)(student, teacher), each(student, teacher))
    _, tangent = torch.func.jvp(lambda x: loss(x, teacher), (student,), (torch.ones_like(student),))
    assert tangent.abs() < 1e-12  # a number that is added to all scores changes nothing
    hessian = torch.func.hessian(loss)(student, teacher)
    assert hessian.shape == (3, 6, 3, 6)


def test_the_teacher_is_a_constant():
    student, teacher = rows((3, 5), torch.float32)
    for loss in LOSSES.values():
        student, teacher = student.detach().requires_grad_(), teacher.detach().requires_grad_()
        loss(student, teacher).backward()
        assert teacher.grad is None
        assert student.grad is not None
        alone = loss(student.detach(), teacher)
        assert not alone.requires_grad
    assert losskit.why(KnowledgeDistillationLoss(), student, teacher).implementation == "fused CPU kernel"


def test_gradients_keep_their_size_at_every_temperature():
    student, teacher = rows((4, 8))
    (_, cold), _ = both(KnowledgeDistillationLoss(temperature=100.0), student, teacher)
    (_, colder), _ = both(KnowledgeDistillationLoss(temperature=1000.0), student, teacher)
    torch.testing.assert_close(cold, colder, rtol=0.1, atol=1e-3)


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


def test_torchs_own():
    """kl_div of log-softmax rows is knowledge distillation; its 'batchmean' is the mean of rows."""
    student, teacher = rows((4, 7))
    expected = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(KnowledgeDistillationLoss()(student, teacher), expected)
