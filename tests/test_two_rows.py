"""The two-rows family: a student's and a teacher's row of scores, by the kernel and by the formula in torch."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
import torch.nn.functional as F
from tiers import rest
from two_row_calls import EACH, LOSSES, NAN, SHAPES, both, eagerly, rows, with_reduction

import losskit
from losskit import JensenShannonLoss, KnowledgeDistillationLoss, ReverseKLDivLoss


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


def test_torchs_own():
    """kl_div of log-softmax rows is knowledge distillation; its 'batchmean' is the mean of rows."""
    student, teacher = rows((4, 7))
    expected = F.kl_div(student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="batchmean")
    torch.testing.assert_close(KnowledgeDistillationLoss()(student, teacher), expected)
