"""The regions family: every setting against plain sums, limits, layouts, transforms, messages, units without a loss."""

import itertools
import math

import pytest
import torch
from row_samples import without_kernels
from torch.func import grad as func_grad
from torch.func import vmap

import losskit
from losskit.families.regions_plan import RegionsPlan
from losskit.losses.dice import DiceLoss
from losskit.losses.focal_tversky import FocalTverskyLoss
from losskit.losses.generalized_dice import GeneralizedDiceLoss
from losskit.losses.jaccard import JaccardLoss
from losskit.losses.log_cosh_dice import LogCoshDiceLoss
from losskit.losses.tversky import TverskyLoss

LOSSES = [DiceLoss, GeneralizedDiceLoss, LogCoshDiceLoss, TverskyLoss, FocalTverskyLoss, JaccardLoss]
ALL = pytest.mark.parametrize("loss", LOSSES, ids=lambda cls: cls.name)
N, C, SPACE = 3, 4, (5, 6)
NAN = float("nan")


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def scores(g, activation="sigmoid", dtype=torch.float64):
    x = torch.randn(N, C, *SPACE, generator=g, dtype=dtype)
    return x.sigmoid() if activation == "none" else x


def targets(g, kind):
    """Targets, and which pixels count."""
    mask = torch.rand(N, *SPACE, generator=g) > 0.3 if "masked" in kind else None
    if "index" in kind:
        index = torch.randint(0, C, (N, *SPACE), generator=g)
        index[torch.rand(index.shape, generator=g) < 0.2] = -100
        return index, mask
    share = torch.rand(N, C, *SPACE, generator=g, dtype=torch.float64)
    return (share if "soft" in kind else (share > 0.6).to(torch.int64)), mask


def by_hand(
    loss, x, t, mask, activation, include_background, batch, squared=False, soft_label=False, smooth=1e-5
):  # fmt: skip
    """The unreduced loss from plain sums; with soft labels, as MONAI and SMP make them, of P + T - |p - t|."""
    p = {"sigmoid": x.sigmoid(), "softmax": x.softmax(1), "none": x}[activation]
    kept = torch.ones(N, 1, *SPACE, dtype=torch.bool) if mask is None else mask.unsqueeze(1)
    if t.ndim < x.ndim:
        kept = kept & (t != -100).unsqueeze(1)
        t = torch.nn.functional.one_hot(t.clamp(min=0), C).movedim(-1, 1)
    p, t = (z.to(x.dtype) * kept for z in (p, t))
    p, t = (z[:, 0 if include_background else 1 :] for z in (p, t))
    dims = (0, 2, 3) if batch else (2, 3)
    both = (p * t).sum(dims)
    predicted, actual = ((z * z if squared else z).sum(dims) for z in (p, t))
    if soft_label:
        both = 0.5 * (predicted + actual - ((p - t) ** 2 if squared else (p - t).abs()).sum(dims))
    if loss is GeneralizedDiceLoss:
        weigh = torch.where(actual > 0, 1 / actual.clamp(min=1e-30) ** 2, 0.0)
        weigh = torch.where(actual > 0, weigh, weigh.amax(-1, keepdim=True))
        both, predicted, actual = ((weigh * z).sum(-1) for z in (both, predicted, actual))
    dice = 1 - (2 * both + smooth) / (predicted + actual + smooth)
    alpha, beta = (0.3, 0.7) if loss is FocalTverskyLoss else (0.5, 0.5)
    wrong = alpha * (predicted - both) + beta * (actual - both)
    tversky = 1 - (both + smooth) / (both + wrong + smooth)
    return {
        DiceLoss: dice, GeneralizedDiceLoss: dice, LogCoshDiceLoss: dice.cosh().log(), TverskyLoss: tversky,
        FocalTverskyLoss: tversky**0.75, JaccardLoss: 1 - (both + smooth) / (predicted + actual - both + smooth),
    }[loss]  # fmt: skip


def layouts(x):
    """The same numbers, contiguous, with classes last, and with samples last."""
    yield x
    yield x.movedim(1, -1).contiguous().movedim(-1, 1)
    yield x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    yield x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])[..., ::2].copy_(x) if not x.requires_grad else x


@ALL
@pytest.mark.parametrize("path", ["fused", "eager"])
def test_settings(loss, path, generator, monkeypatch):
    """Each setting with each kind of target and each reduction: value and gradient, whatever the memory is like."""
    if path == "eager":
        without_kernels(monkeypatch)
    else:
        monkeypatch.setattr(RegionsPlan, "eager", lambda *_: pytest.fail("the eager formula ran"))
    kinds = ["hard", "soft_masked", "index", "index_masked"]
    settings = itertools.product(["sigmoid", "softmax", "none"], [True, False], [True, False], kinds)
    for number, (activation, include_background, batch, kind) in enumerate(settings):
        x = scores(generator, activation)
        t, mask = targets(generator, kind)
        given = {"activation": activation, "include_background": include_background, "batch": batch}
        squared = loss is DiceLoss and number % 2 == 1
        if squared:
            given["squared"] = True
        leaf = x.clone().requires_grad_()
        expected = by_hand(loss, leaf, t, mask, activation, include_background, batch, squared)
        for reduction in (("none", "mean", "sum")[number % 3],):
            right = {"none": expected, "mean": expected.mean(), "sum": expected.sum()}[reduction]
            upstream = torch.rand(right.shape, generator=generator, dtype=torch.float64)
            (slope,) = torch.autograd.grad(right, leaf, upstream, retain_graph=True)
            for view in layouts(x):
                view = view.detach().requires_grad_()
                got = loss.functional(view, t, mask, reduction=reduction, **given)
                assert got.shape == right.shape
                torch.testing.assert_close(got, right, rtol=1e-12, atol=1e-13)
                (own,) = torch.autograd.grad(got, view, upstream)
                torch.testing.assert_close(own, slope, rtol=1e-11, atol=1e-14)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(loss, dtype, generator):
    """Halves are computed in float32 and rounded once, in every layout; float32 has its digits."""
    for activation, kind in itertools.product(["sigmoid", "softmax"], ["soft", "index"]):
        t, _ = targets(generator, kind)
        t = t.to(dtype) if t.is_floating_point() else t
        x = scores(generator).to(dtype)
        wide = x.double().requires_grad_()
        right = loss.functional(wide, t.double() if kind == "soft" else t, activation=activation)
        (slope,) = torch.autograd.grad(right, wide)
        for view in layouts(x):
            view = view.detach().requires_grad_()
            got = loss.functional(view, t, activation=activation)
            (own,) = torch.autograd.grad(got, view)
            assert got.dtype == own.dtype == dtype
            rounded, slack = torch.finfo(dtype).eps, 4 if dtype == torch.float32 else 1
            torch.testing.assert_close(got.double(), right, rtol=slack * rounded, atol=1e-7)
            # Slopes of soft targets are differences: of 60 seeds, the worst generalised Dice loss has 2.0 here.
            most = float(slope.abs().max()) * (2.5 if (kind, activation) == ("soft", "softmax") else 1.0)
            torch.testing.assert_close(own.double(), slope, rtol=slack * rounded, atol=rounded * most)


def test_labels_of_any_width(generator):
    x = scores(generator)
    t, _ = targets(generator, "hard_index")
    t = t.clamp(min=0)
    right = DiceLoss.functional(x, t)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert DiceLoss.functional(x, t.to(dtype)) == right
    dense, _ = targets(generator, "hard")
    right = DiceLoss.functional(x, dense)
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.float64):
        assert DiceLoss.functional(x, dense.to(dtype)) == right


def test_class_weights(generator, monkeypatch):
    """The mean divides by the sum of the weights."""
    x = scores(generator)
    t, _ = targets(generator, "soft")
    weight = torch.tensor([0.0, 0.5, 2.0, 1.0], dtype=torch.float64)
    each = DiceLoss.functional(x, t, reduction="none")
    for _ in range(2):
        got = DiceLoss.functional(x, t, weight=weight)
        torch.testing.assert_close(got, (each * weight).sum() / (N * weight.sum()))
        torch.testing.assert_close(DiceLoss.functional(x, t, weight=weight, reduction="none"), each * weight)
        got = DiceLoss.functional(x, t, weight=weight, include_background=False, batch=True)
        whole = DiceLoss.functional(x, t, batch=True, reduction="none")
        torch.testing.assert_close(got, (whole * weight)[1:].sum() / weight[1:].sum())
        without_kernels(monkeypatch)


def test_threads_change_no_bit(generator):
    x = torch.randn(2, 3, 200, 201, generator=generator)
    t = torch.randint(0, 3, (2, 200, 201), generator=generator)
    found = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaf = x.clone().requires_grad_()
        loss = DiceLoss.functional(leaf, t, activation="softmax")
        found.append((loss.detach(), *torch.autograd.grad(loss, leaf)))
    torch.set_num_threads(before)
    for loss, gradient in found[1:]:
        assert torch.equal(loss, found[0][0])
        assert torch.equal(gradient, found[0][1])


# -- limits -----------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("path", ["fused", "eager"])
def test_a_certain_prediction_keeps_its_digits(loss, path, monkeypatch):
    """The loss of a region that is nearly right is not rounded to 0, and neither is its gradient."""
    if path == "eager":
        without_kernels(monkeypatch)
    t = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    for activation in ("sigmoid", "softmax"):
        x = ((2.0 * t - 1.0) * 15.0).requires_grad_()
        got = loss.functional(x, t, activation=activation)
        (own,) = torch.autograd.grad(got, x)
        wide = x.detach().double().requires_grad_()
        right = loss.functional(wide, t.double(), activation=activation)
        (slope,) = torch.autograd.grad(right, wide)
        assert got > 0
        torch.testing.assert_close(got.double(), right, rtol=3e-6, atol=0.0)
        torch.testing.assert_close(own.double(), slope, rtol=2e-5, atol=0.0)


@ALL
@pytest.mark.parametrize("path", ["fused", "eager"])
def test_empty_regions(loss, path, monkeypatch):
    """Nothing there and nothing predicted costs nothing, without `smooth`, too."""
    if path == "eager":
        without_kernels(monkeypatch)
    nothing = torch.zeros(2, 3, 4, requires_grad=True)
    for smooth in (0.0, 1e-5):
        got = loss.functional(nothing, torch.zeros(2, 3, 4), activation="none", smooth=smooth, reduction="sum")
        assert got == 0
        assert torch.autograd.grad(got, nothing)[0].isfinite().all()
    x = torch.full((2, 3, 4), -math.inf, requires_grad=True)
    got = loss.functional(x, torch.zeros(2, 3, 4), smooth=0.0, reduction="sum")
    assert got == 0
    assert not torch.autograd.grad(got, x)[0].any()


def test_log_of_a_region_that_is_all_wrong():
    x = torch.tensor([[[-200.0, -200.0, 3.0]]], dtype=torch.float64, requires_grad=True)
    got = DiceLoss.functional(x, torch.tensor([[[1.0, 1.0, 0.0]]], dtype=torch.float64), log_score=True, smooth=0.0)
    size = 2 + torch.sigmoid(torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(got, 200 + torch.log(size) - math.log(4))
    (slope,) = torch.autograd.grad(got, x)
    torch.testing.assert_close(slope[0, 0, :2], torch.full((2,), -0.5, dtype=torch.float64))


# -- units without a loss ---------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("path", ["fused", "eager"])
def test_regions_without_a_pixel_have_no_loss(loss, path, generator, monkeypatch):
    """A sample of which no pixel counts is as if it were masked: 0, out of the mean, without gradient."""
    if path == "eager":
        without_kernels(monkeypatch)
    t, _ = targets(generator, "index")
    t[1] = -100
    x = scores(generator)
    x[1] = NAN
    x.requires_grad_()
    for activation in ("sigmoid", "softmax"):
        each = loss.functional(x, t, activation=activation, reduction="none")
        assert not each[1].any()
        (slope,) = torch.autograd.grad(each.sum(), x)
        assert not slope[1].any()
        others = torch.tensor([0, 2])
        for reduction in ("mean", "sum"):
            got = loss.functional(x, t, activation=activation, reduction=reduction)
            right = loss.functional(x[others], t[others], activation=activation, reduction=reduction)
            torch.testing.assert_close(got, right)
            assert not torch.autograd.grad(got, x)[0][1].any()
        nothing = torch.full_like(t, -100)
        got = loss.functional(x, nothing, activation=activation)
        assert got.isnan()
        assert not torch.autograd.grad(got, x)[0].any()
        with losskit.empty("zero"):
            assert loss.functional(x, nothing, activation=activation) == 0
    mask = torch.ones(N, *SPACE, dtype=torch.bool)
    mask[1] = False
    dense, _ = targets(generator, "hard")
    each = loss.functional(x, dense, mask, reduction="none")
    assert not each[1].any()
    assert not torch.autograd.grad(each.sum(), x)[0][1].any()


@pytest.mark.parametrize("path", ["fused", "eager"])
def test_samples_without_a_class_have_no_generalized_loss(path, monkeypatch):
    """There is no weight for them."""
    if path == "eager":
        without_kernels(monkeypatch)
    x = torch.randn(2, 3, 5, requires_grad=True)
    t = torch.zeros(2, 3, 5)
    t[0, 1, 2] = 1.0
    each = GeneralizedDiceLoss.functional(x, t, reduction="none")
    assert each[1] == 0 < each[0]
    torch.testing.assert_close(GeneralizedDiceLoss.functional(x, t), each[0])
    uniform = GeneralizedDiceLoss.functional(x, t, weight_type="uniform", reduction="none")
    assert uniform[1] > 0
    assert GeneralizedDiceLoss.functional(x, torch.zeros(2, 3, 5)).isnan()


# -- masks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["fused", "eager"])
def test_pixels_that_do_not_count_hide_everything(path, generator, monkeypatch):
    """NaN scores, and targets that are none."""
    if path == "eager":
        without_kernels(monkeypatch)
    x, mask = scores(generator), torch.rand(N, *SPACE, generator=generator) > 0.4
    for kind, activation in itertools.product(("soft", "index"), ("sigmoid", "softmax")):
        t, _ = targets(generator, kind)
        spoilt, wrong = x.clone(), t.clone()
        spoilt.movedim(1, -1)[~mask] = NAN
        if kind == "soft":
            wrong.movedim(1, -1)[~mask] = 7.0
        else:
            wrong[~mask] = 77
        a, b = x.clone().requires_grad_(), spoilt.requires_grad_()
        expected, got = (DiceLoss.functional(z, y, mask, activation=activation) for z, y in ((a, t), (b, wrong)))
        torch.testing.assert_close(got, expected)
        slopes = [torch.autograd.grad(loss, z)[0] for loss, z in ((expected, a), (got, b))]
        torch.testing.assert_close(*slopes)
        assert not slopes[1].movedim(1, -1)[~mask].any()


@pytest.mark.parametrize("path", ["fused", "eager"])
def test_masked_regions(path, generator, monkeypatch):
    """A mask of the unreduced loss: of (sample, class), of samples, of classes."""
    if path == "eager":
        without_kernels(monkeypatch)
    t, _ = targets(generator, "soft")
    x = scores(generator)
    each = DiceLoss.functional(x, t, reduction="none")
    mask = torch.rand(N, C, generator=generator) > 0.4
    spoilt = x.clone()
    spoilt[~mask] = NAN
    spoilt.requires_grad_()
    got = DiceLoss.functional(spoilt, t, mask=mask)
    torch.testing.assert_close(got, each[mask].mean())
    (slope,) = torch.autograd.grad(got, spoilt)
    assert not slope[~mask].any()
    assert slope[mask].all()
    got = DiceLoss.functional(x, t, batch=True, mask=torch.tensor([True, False, True, True]))
    torch.testing.assert_close(got, DiceLoss.functional(x[:, [0, 2, 3]], t[:, [0, 2, 3]], batch=True))
    weights = torch.rand(N, C, generator=generator, dtype=torch.float64)
    got = DiceLoss.functional(x, t, sample_weight=weights)
    torch.testing.assert_close(got, (each * weights).sum() / weights.sum())


# -- transforms -------------------------------------------------------------------------------------------


@ALL
@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
def test_derivatives(loss, activation, generator):
    x = torch.rand(2, 3, 2, generator=generator, dtype=torch.float64)
    x = (0.1 + 0.8 * x if activation == "none" else x * 4 - 2).requires_grad_()
    share = torch.rand(2, 3, 2, generator=generator, dtype=torch.float64).clamp(0.05, 0.95).requires_grad_()
    index = torch.randint(0, 3, (2, 2), generator=generator)
    for t, inputs in ((share, (x, share)), (index, (x,))):
        of = lambda *z, t=t: loss.functional(z[0], z[1] if len(z) > 1 else t, activation=activation, reduction="none")
        with losskit.checks("off"):
            assert torch.autograd.gradcheck(of, inputs)
            assert torch.autograd.gradgradcheck(of, inputs)
    of = lambda *z: loss.functional(*z, activation=activation, reduction="none", soft_label=True)
    with losskit.checks("off"):  # no pixel is at its kink
        assert torch.autograd.gradcheck(of, (x, share))
        assert torch.autograd.gradgradcheck(of, (x, share))


@pytest.mark.parametrize("loss", [DiceLoss, GeneralizedDiceLoss])
def test_transforms(loss, generator):
    x = scores(generator)
    t, _ = targets(generator, "index")
    of = lambda z, y: loss.functional(z, y, activation="softmax")
    leaf = x.clone().requires_grad_()
    (right,) = torch.autograd.grad(of(leaf, t), leaf)
    torch.testing.assert_close(func_grad(of)(x, t), right)
    each = vmap(of)(x.unsqueeze(1), t.unsqueeze(1))
    torch.testing.assert_close(each, torch.stack([of(x[i : i + 1], t[i : i + 1]) for i in range(N)]))
    compiled = torch.compile(of, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(leaf, t), of(leaf, t))
    (own,) = torch.autograd.grad(compiled(leaf, t), leaf)
    torch.testing.assert_close(own, right)
