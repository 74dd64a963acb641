"""Losses of a student's and a teacher's row on a GPU: the eager formula in float64, limits, masks, long rows."""

import math

import pytest
import torch

import losskit
from losskit import JensenShannonLoss, KnowledgeDistillationLoss, ReverseKLDivLoss, TotalVariationDistanceLoss
from losskit.kernels.gpu import rows, two_rows

from .conftest import ON_GPU, assert_near

NAN, INF = math.nan, math.inf
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# NumPy's warning, under the interpreter, about the largest of nothing but NaN.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")
LOSSES = {
    "kd": lambda reduction: KnowledgeDistillationLoss(reduction=reduction, temperature=2.0),
    "reverse": lambda reduction: ReverseKLDivLoss(reduction=reduction),
    "jsd": lambda reduction: JensenShannonLoss(reduction=reduction, beta=0.3),
    "tv": lambda reduction: TotalVariationDistanceLoss(reduction=reduction),
}


@pytest.fixture(autouse=True)
def _several_rows_a_program(monkeypatch):
    monkeypatch.setattr(rows, "PROGRAMS", 2)


@pytest.fixture(params=["registers", "blocks"], autouse=True)
def blocks(request, monkeypatch):
    """Rows that fit into registers, and rows that take several blocks."""
    if request.param == "blocks":
        monkeypatch.setattr(two_rows, "LONGEST", 16)


def scores(*shape, dtype=torch.float32, apart=2.0):
    generator = torch.Generator("cuda" if ON_GPU else "cpu").manual_seed(0)
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64) * 2.0
    student = teacher + apart * torch.randn(shape, generator=generator, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


def got_and_expected(loss, student, teacher, **extras):
    """Loss and gradient from the kernel, and from the eager formula in float64."""
    plan, results = loss._planned(), []
    assert losskit.why(loss, student, teacher, **extras).implementation == "fused GPU kernel"
    given = {"sample_weight": None, "mask": None, "normalizer": None, **extras}
    for wide in (False, True):
        leaf = (student.detach().double() if wide else student.detach()).requires_grad_()
        if wide:
            value = plan.eager(plan.validated((leaf, teacher.double()), None, **given), "off")
        else:
            value = loss(leaf, teacher, **extras)
        upstream = torch.linspace(1.0, 2.0, max(value.numel(), 1)).to(value.dtype)[: value.numel()]
        results.append([value.detach(), *torch.autograd.grad(value, leaf, upstream.reshape(value.shape))])
    return results


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_formula_in_double(name, reduction, dtype):
    for shape in ((5, 7), (2, 3, 20)):
        assert_near(*got_and_expected(LOSSES[name](reduction), *scores(*shape, dtype=dtype)), dtype, slack=16.0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("apart", [1e-4, 0.05, 30.0])
def test_near_and_far(name, apart):
    """Each result by its own size: near rows keep their digits."""
    student, teacher = scores(4, 9, apart=apart)
    (value, slope), (expected, gradient) = got_and_expected(LOSSES[name]("none"), student, teacher)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0.0)
    size = gradient.abs().amax(1, keepdim=True)
    assert ((slope.double() - gradient).abs() <= 1e-5 * size + (1e-6 if apart == 30.0 else 0.0)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_layouts_weights_and_masks(name):
    student, teacher = scores(6, 7)
    mask = torch.tensor([True, False, True, True, True, True])
    weight = torch.tensor([1.0, 2.0, 0.5, 0.0, 3.0, 1.0])
    student[1], teacher[1] = NAN, INF
    for reduction in ("none", "mean"):
        for moved in (student, student.t().contiguous().t()):
            for extras in ({"mask": mask}, {"mask": mask, "sample_weight": weight}, {"mask": mask, "normalizer": 2.5}):
                assert_near(*got_and_expected(LOSSES[name](reduction), moved, teacher, **extras), torch.float32, 16.0)
    nothing = torch.zeros(6, dtype=torch.bool)
    got, _ = got_and_expected(LOSSES[name]("mean"), student, teacher, mask=nothing)
    assert got[0].isnan()
    assert not got[1].any()


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ([1.0, -INF, 0.5], [0.0, -INF, 1.0]),
        ([1.0, 0.0, 0.5], [-INF, 0.0, 1.0]),
        ([-INF, 0.0, 0.5], [0.0, 0.0, 1.0]),
        ([INF, INF, 0.0], [0.0, 0.0, 0.0]),
        ([0.0, 1.0, 0.0], [INF, 0.0, 0.0]),
        ([NAN, 1.0, 0.0], [0.0, 0.0, 0.0]),
        ([0.0, 1.0, 0.0], [0.0, NAN, 0.0]),
        ([-INF, -INF, -INF], [0.0, 0.0, 0.0]),
        ([2e4, 2e4 + 1, 2e4 - 1], [-2e4, -2e4 + 2, -2e4]),
    ],
)
@pytest.mark.parametrize("name", LOSSES)
def test_limits(name, student, teacher):
    got, expected = got_and_expected(LOSSES[name]("none"), torch.tensor([student]), torch.tensor([teacher]))
    for x, y in zip(got, expected, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=1e-5, atol=1e-7, equal_nan=True)


def test_a_second_backward_and_upstream_gradients():
    student, teacher = scores(4, 5)
    student.requires_grad_()
    loss = KnowledgeDistillationLoss()(student, teacher)
    (first,) = torch.autograd.grad(3.0 * loss, student, retain_graph=True)
    (second,) = torch.autograd.grad(loss, student)
    torch.testing.assert_close(first, 3.0 * second)
    assert not KnowledgeDistillationLoss()(student.detach(), teacher.requires_grad_()).requires_grad


def test_one_class_and_no_rows():
    loss = KnowledgeDistillationLoss("sum")
    with losskit.checks("off"):
        assert loss(torch.zeros(3, 1), torch.ones(3, 1)) == 0
        assert loss(torch.zeros(0, 4), torch.ones(0, 4)) == 0
