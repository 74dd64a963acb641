"""Features times weights on a GPU: matrix products in chunks, the kernel between them, and a host that never waits."""

import pytest
import torch
import torch.nn.functional as F

import losskit
import losskit.functional as LF
from losskit.families.class_scores_plan import ClassScoresPlan
from losskit.families.two_rows_plan import TwoRowsPlan
from losskit.kernels.gpu import two_rows
from losskit.layers import heads


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """A few rows of scores in a chunk, and no formula in the place of the kernel."""
    monkeypatch.setattr(heads, "_CHUNK", 5 * 40 * 4)
    monkeypatch.setattr(heads, "_CHUNK_ON_GPU", 5 * 40 * 4)
    for plan in (ClassScoresPlan, TwoRowsPlan):
        monkeypatch.setattr(plan, "eager", lambda *args: pytest.fail("the eager formula ran"))


def leaves(dtype=torch.float32):
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in ((17, 8), (40, 8), (40,))]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_chunks_are_the_whole(reduction, unwatched):
    x, weight, bias = leaves()
    target, mask = torch.randint(0, 40, (17,)), torch.arange(17) != 3
    target[5] = -100
    expected = torch.where(mask, F.cross_entropy(F.linear(x, weight, bias), target, reduction="none"), 0.0)
    count = (mask & (target != -100)).sum()
    expected = {"none": expected, "sum": expected.sum(), "mean": expected.sum() / count}[reduction]
    upstream = torch.rand(expected.shape)
    wanted = torch.autograd.grad(expected, [x, weight, bias], upstream)
    with unwatched:
        loss = LF.linear_cross_entropy(x, weight, target, linear_bias=bias, mask=mask, reduction=reduction)
        found = torch.autograd.grad(loss, [x, weight, bias], upstream)
    torch.testing.assert_close(loss, expected)
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right)


def test_a_class_that_is_none_makes_it_nan():
    x, weight, bias = leaves()
    loss = losskit.linear(losskit.SoftmaxFocalLoss())(x, weight, torch.full((17,), 40), linear_bias=bias)
    assert loss.isnan()
    assert "must be a class in [0, 40), got 40" in losskit.last_violation()


@pytest.mark.parametrize("longest", [8192, 16], ids=["registers", "blocks"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("form", ["features", "scores"])
def test_two_rows(form, reduction, longest, unwatched, monkeypatch):
    """The gradient is written over the student's scores, also where rows come in blocks."""
    monkeypatch.setattr(two_rows, "LONGEST", longest)
    x, weight, bias = leaves()
    teacher, mask = [leaf.detach() for leaf in leaves()], torch.arange(17) != 3
    known = F.linear(*teacher)
    each = F.kl_div(F.linear(x, weight, bias).log_softmax(1), known.log_softmax(1), log_target=True, reduction="none")
    each = torch.where(mask, each.sum(1), 0.0)
    expected = each.sum() / mask.sum() if reduction == "mean" else each
    wanted = torch.autograd.grad(expected.sum(), [x, weight, bias])
    head = losskit.linear(losskit.KnowledgeDistillationLoss(reduction=reduction))
    assert losskit.why(head, x, weight, *teacher[:2]).implementation == "fused GPU kernel"
    given, biases = (teacher[:2], {"teacher_bias": teacher[2]}) if form == "features" else ([known], {})
    with unwatched:
        loss = head(x, weight, *given, linear_bias=bias, mask=mask, **biases)
        found = torch.autograd.grad(loss.sum(), [x, weight, bias])
    torch.testing.assert_close(loss, expected)
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right)
