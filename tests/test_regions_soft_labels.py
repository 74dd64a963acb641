"""The regions family with soft labels: against plain sums as MONAI and SMP make them, the kink, labels of 0 and 1."""

import itertools

import pytest
import torch
from row_samples import without_kernels
from test_regions import ALL, NAN, by_hand, layouts, scores, targets

import losskit
from losskit.families.regions_plan import RegionsPlan
from losskit.losses.dice import DiceLoss
from losskit.losses.focal_tversky import FocalTverskyLoss
from losskit.losses.jaccard import JaccardLoss


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@ALL
@pytest.mark.parametrize("path", ["fused", "eager"])
def test_soft_labels(loss, path, generator, monkeypatch):
    """Both regions have the smaller of p and t, in every mode; squares are the same either way."""
    if path == "eager":
        without_kernels(monkeypatch)
    else:
        monkeypatch.setattr(RegionsPlan, "eager", lambda *_: pytest.fail("the eager formula ran"))
    settings = itertools.product(["sigmoid", "softmax", "none"], [True, False], [True, False])
    for number, (activation, include_background, batch) in enumerate(settings):
        x = scores(generator, activation)
        t, mask = targets(generator, "soft_masked" if number % 2 else "soft")
        given = {"activation": activation, "include_background": include_background, "batch": batch}
        squared = loss is DiceLoss and number % 3 == 1
        leaf = x.clone().requires_grad_()
        right = by_hand(loss, leaf, t, mask, activation, include_background, batch, squared, soft_label=True).mean()
        (slope,) = torch.autograd.grad(right, leaf)
        if squared:
            given["squared"] = True
            torch.testing.assert_close(loss.functional(x, t, mask, **given), right.detach(), rtol=1e-12, atol=1e-13)
        for view in layouts(x):
            view = view.detach().requires_grad_()
            got = loss.functional(view, t, mask, soft_label=True, **given)
            torch.testing.assert_close(got, right, rtol=1e-12, atol=1e-13)
            torch.testing.assert_close(torch.autograd.grad(got, view)[0], slope, rtol=1e-11, atol=1e-14)


@ALL
@pytest.mark.parametrize("path", ["fused", "eager"])
def test_a_prediction_that_is_its_soft_label_is_right(loss, path, monkeypatch):
    """It costs nothing, its slope is that of neither side but between them, and near it no digit is lost."""
    if path == "eager":
        without_kernels(monkeypatch)
    t = torch.tensor([[[0.25, 0.5, 0.75, 0.0, 1.0]]])
    p = t.clone().requires_grad_()
    got = loss.functional(p, t, activation="none", soft_label=True)
    assert got == 0 < loss.functional(p, t, activation="none")
    wide = t.double().requires_grad_()
    right = by_hand(loss, wide.unsqueeze(-1), t.double().unsqueeze(-1), None, "none", True, False, soft_label=True)
    if loss is not FocalTverskyLoss:  # a power, whose slope at 0 is 0 here
        (slope,) = torch.autograd.grad(right.sum(), wide)
        torch.testing.assert_close(torch.autograd.grad(got, p)[0], slope.float(), rtol=1e-6, atol=1e-9)
    near = (t.logit(1e-3) + 1e-5 * torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0])).requires_grad_()
    got = loss.functional(near, near.detach().double().sigmoid().float(), soft_label=True)
    assert got < 1e-6
    got = loss.functional(near, t, soft_label=True)
    wide = near.detach().double().requires_grad_()
    right = loss.functional(wide, t.double(), soft_label=True)
    torch.testing.assert_close(got.double(), right, rtol=1e-4, atol=0.0)
    (own,), (slope,) = torch.autograd.grad(got, near), torch.autograd.grad(right, wide)
    torch.testing.assert_close(own.double(), slope, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("path", ["fused", "eager"])
def test_soft_labels_of_0_and_1_make_no_difference(path, generator, monkeypatch):
    """Of class indices, too; and a bad share is told, or becomes NaN."""
    if path == "eager":
        without_kernels(monkeypatch)
    for kind in ("hard", "index"):
        t, _ = targets(generator, kind)
        x = scores(generator).requires_grad_()
        t = t.double() if kind == "hard" else t
        found = [DiceLoss.functional(x, t, activation="softmax", soft_label=soft) for soft in (False, True)]
        torch.testing.assert_close(*found, rtol=1e-14, atol=0.0)
        slopes = [torch.autograd.grad(one, x)[0] for one in found]
        torch.testing.assert_close(*slopes, rtol=1e-13, atol=1e-16)
    x, t = torch.randn(1, 2, 3), torch.full((1, 2, 3), 0.5)
    t[0, 1, 2] = NAN
    with losskit.checks("off"):
        each = JaccardLoss.functional(x, t, reduction="none", soft_label=True)
    assert each.isnan().tolist() == [[False, True]]
