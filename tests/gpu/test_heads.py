"""Features times weights on a GPU: matrix products in chunks, the kernel between them, and a host that never waits."""

import pytest
import torch
import torch.nn.functional as F

import losskit
import losskit.functional as LF
from losskit.families.class_scores_plan import ClassScoresPlan
from losskit.layers import heads


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    """A few rows of scores in a chunk, and no formula in the place of the kernel."""
    monkeypatch.setattr(heads, "_CHUNK", 5 * 40 * 4)
    monkeypatch.setattr(heads, "_CHUNK_ON_GPU", 5 * 40 * 4)
    monkeypatch.setattr(ClassScoresPlan, "eager", lambda *args: pytest.fail("the eager formula ran"))


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
