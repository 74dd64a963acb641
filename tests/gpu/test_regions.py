"""Losses of regions on a GPU: the eager formula in float64, every setting, layouts, masks, units without a loss."""

import itertools
import math

import pytest
import torch

import losskit
from losskit import (
    DiceLoss,
    FocalTverskyLoss,
    GeneralizedDiceLoss,
    JaccardLoss,
    LogCoshDiceLoss,
    TverskyLoss,
)
from losskit.kernels.gpu import regions
from losskit.losses._regions import ratio

from .conftest import ON_GPU, assert_near

NAN, INF = math.nan, math.inf
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
LOSSES = [DiceLoss, GeneralizedDiceLoss, LogCoshDiceLoss, TverskyLoss, FocalTverskyLoss, JaccardLoss]
ALL = pytest.mark.parametrize("loss", LOSSES, ids=lambda cls: cls.name)
N, C, SPACE = 2, 4, (3, 5)
# NumPy's warning, under the interpreter, about the largest of nothing but NaN.
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN:RuntimeWarning")


@pytest.fixture(autouse=True)
def _several_tiles(monkeypatch):
    """A sample is several programs', and the pixels of one of them several tiles."""
    monkeypatch.setattr(regions, "TILE", 16)
    monkeypatch.setattr(regions, "PROGRAMS", 4)


def scores(activation="sigmoid", dtype=torch.float32, shape=(N, C, *SPACE)):
    generator = torch.Generator("cuda" if ON_GPU else "cpu").manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64) * 2.0
    return (x.sigmoid() if activation == "none" else x).to(dtype)


def targets(kind, shape=(N, C, *SPACE)):
    """Targets, and which pixels count."""
    generator = torch.Generator("cuda" if ON_GPU else "cpu").manual_seed(1)
    pixels = (shape[0], *shape[2:])
    mask = torch.rand(pixels, generator=generator) > 0.3 if "masked" in kind else None
    if "index" in kind:
        index = torch.randint(0, shape[1], pixels, generator=generator)
        index[torch.rand(index.shape, generator=generator) < 0.2] = -100
        return index, mask
    share = torch.rand(shape, generator=generator, dtype=torch.float64)
    return (share if "double" in kind else share.float() if "soft" in kind else (share > 0.6).to(torch.int64)), mask


def layouts(x):
    """The same numbers: contiguous, classes last, samples last, pixels apart, with a copied gradient."""
    yield x
    yield x.movedim(1, -1).contiguous().movedim(-1, 1)
    yield x.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    yield x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])[..., ::2].copy_(x)
    yield x.transpose(2, 3).contiguous().transpose(2, 3)


def got_and_expected(loss, input, target, pixels=None, *, weight=None, checks="nan", **extras):
    """Loss and gradient from the kernel, and from the eager formula in float64."""
    given = {"sample_weight": None, "mask": None, "normalizer": None, **extras}
    operands = [target] if pixels is None else [target, pixels]
    if weight is not None:
        loss.weight = weight
    assert losskit.why(loss, input, *operands, weight=weight, **extras).implementation == "fused GPU kernel"
    plan, results = loss._planned(pixels is not None), []
    for wide in (False, True):
        leaf = (input.detach().double() if wide else input.detach()).requires_grad_()
        if wide:
            weight = None if weight is None else weight.double()
            value = plan.eager(plan.validated((leaf, *operands), weight, **given), checks)
        else:
            value = loss(leaf, *operands, **extras)
        upstream = torch.linspace(1.0, 2.0, max(value.numel(), 1)).to(value.dtype)[: value.numel()]
        results.append([value.detach(), *torch.autograd.grad(value, leaf, upstream.reshape(value.shape))])
    return results


# ---------------------------------------------------------------------------------------------------------
# Settings


@ALL
@pytest.mark.parametrize("activation", ["sigmoid", "softmax", "none"])
def test_settings(loss, activation):
    """Each setting with each kind of target and each reduction, whatever the memory is like."""
    kinds = ["hard", "soft_masked", "index", "index_masked"]
    settings = list(enumerate(itertools.product([True, False], [True, False], kinds)))
    for number, (background, batch, kind) in settings[LOSSES.index(loss) % 3 :: 3]:
        given = {"activation": activation, "include_background": background, "batch": batch}
        given["soft_label"] = number % 4 < 2
        given["reduction"] = ("none", "mean", "sum")[number % 3]
        if loss is DiceLoss and number % 2:
            given["squared"] = True
        view = list(layouts(scores(activation)))[number % 5]
        found = got_and_expected(loss(**given), view, *targets(kind))
        assert_near(*found, torch.float32, 16.0)
        assert found[0][1].shape == view.shape


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", [DiceLoss, GeneralizedDiceLoss], ids=lambda cls: cls.name)
def test_dtypes(loss, dtype):
    """Halves are computed in float32 and rounded once."""
    for activation, kind in (("sigmoid", "soft"), ("softmax", "soft"), ("sigmoid", "hard"), ("softmax", "index")):
        target, _ = targets(kind)
        if target.is_floating_point():
            target = target.to(dtype)
        for reduction in ("none", "mean"):
            loss_of = loss(activation=activation, reduction=reduction)
            assert_near(*got_and_expected(loss_of, scores(dtype=dtype), target), dtype, 32.0)


def test_a_target_of_doubles_and_labels_of_any_width():
    x = scores()
    got, expected = got_and_expected(DiceLoss(), x, targets("double soft")[0])
    assert got[0].dtype == torch.float64 and got[1].dtype == torch.float32
    torch.testing.assert_close(got[0], expected[0], rtol=1e-14, atol=0.0)
    index = targets("index")[0].clamp(min=0)
    wanted = DiceLoss()(x, index)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        assert DiceLoss()(x, index.to(dtype)) == wanted
    dense = targets("hard")[0]
    wanted = DiceLoss()(x, dense)
    for dtype in (torch.bool, torch.uint8, torch.float16):
        assert DiceLoss()(x, dense.to(dtype)) == wanted


@pytest.mark.parametrize("shape", [(2, 1, 7), (1, 21, 2, 2, 3), (2, 34, 5), (5, 3), (1, 2, 1, 1), (9, 3, 2)], ids=str)
def test_sizes(shape):
    """One class, many, no dimension of space."""
    for activation, kind, loss in itertools.product(
        ["sigmoid", "softmax"], ["soft", "index"], [DiceLoss, GeneralizedDiceLoss]
    ):
        if shape[1] == 1 and (activation == "softmax" or kind == "index"):
            continue
        target = targets(kind, shape)[0].clamp(min=0)
        for view in (scores(shape=shape), scores(shape=shape).movedim(1, -1).contiguous().movedim(-1, 1)):
            found = got_and_expected(loss(activation=activation, smooth=1.0), view, target)
            assert_near(*found, torch.float32, 16.0)


class OfSizesLoss(losskit.RegionsLoss):
    """A loss of everything that there is to speak of."""

    @staticmethod
    def value(overlap, predicted, actual, false_positives, false_negatives):
        return (
            ratio(false_positives + false_negatives, overlap, 1.0)
            + overlap / (1.0 + predicted)
            + actual / (2.0 + predicted + actual)
        )


def test_a_loss_of_all_sums():
    for kind, reduction in itertools.product(("soft_masked", "index"), ("none", "mean")):
        assert_near(*got_and_expected(OfSizesLoss(reduction=reduction), scores(), *targets(kind)), torch.float32, 16.0)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_weights_masks_normalizers(reduction):
    x, weight = scores(), torch.tensor([0.0, 0.5, 2.0, 1.0])
    of_units = torch.linspace(0.5, 2.0, N * C).reshape(N, C)
    mask = torch.arange(N * C).reshape(N, C) % 3 > 0
    spoilt = x.clone()
    spoilt[~mask] = NAN
    for activation, kind in itertools.product(("sigmoid", "softmax"), ("soft", "index_masked")):
        target, pixels = targets(kind)
        hidden = spoilt if activation == "sigmoid" else x
        given = {"activation": activation, "reduction": reduction}
        for extras in (
            {"weight": weight}, {"sample_weight": of_units[:, :1]}, {"normalizer": 2.5},
            {"mask": mask, "weight": weight, "sample_weight": of_units},
            {"mask": mask[:, :1], "normalizer": torch.tensor(2.5)}, {"mask": torch.tensor(False)},
        ):  # fmt: skip
            loss = DiceLoss(**given, weight=torch.ones(C) if "weight" in extras else None)
            masked = "mask" in extras and extras["mask"].shape == (N, C)
            got, expected = got_and_expected(loss, hidden if masked else x, target, pixels, **extras)
            assert_near(got, expected, torch.float32, 16.0)
            assert not masked or activation == "softmax" or not got[1][~mask].any()
    for loss, units in ((DiceLoss(batch=True, reduction=reduction), C), (GeneralizedDiceLoss(reduction=reduction), N)):
        given = {"mask": torch.arange(units) != 1, "sample_weight": torch.rand(units) + 0.5}
        assert_near(*got_and_expected(loss, x, *targets("index_masked"), **given), torch.float32, 16.0)


# ---------------------------------------------------------------------------------------------------------
# Limits, units without a loss


@ALL
def test_a_certain_prediction_keeps_its_digits(loss):
    """The loss of a region that is nearly right is not rounded to 0, and neither is its gradient."""
    t = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]])
    for activation in ("sigmoid", "softmax"):
        (value, slope), (expected, gradient) = got_and_expected(loss(activation=activation), (2.0 * t - 1.0) * 15.0, t)
        assert value > 0
        torch.testing.assert_close(value.double(), expected, rtol=3e-6, atol=0.0)
        torch.testing.assert_close(slope.double(), gradient, rtol=2e-5, atol=0.0)


@ALL
def test_empty_regions(loss):
    """Nothing there and nothing predicted costs nothing, without `smooth`, too."""
    nothing = torch.zeros(2, 3, 4)
    for smooth in (0.0, 1e-5):
        got, _ = got_and_expected(loss(activation="none", smooth=smooth, reduction="sum"), nothing, nothing)
        assert got[0] == 0
        assert got[1].isfinite().all()
    got, _ = got_and_expected(loss(smooth=0.0, reduction="sum"), torch.full((2, 3, 4), -INF), nothing)
    assert got[0] == 0
    assert not got[1].any()


def test_infinite_scores_and_nan():
    x = scores()
    x[0, 1, 2, 3], x[0, 2, 0, 0], x[1, 3, 1, 1] = INF, -INF, NAN
    for activation, kind in itertools.product(("sigmoid", "softmax"), ("soft", "index")):
        loss = DiceLoss(activation=activation, reduction="none")
        got, expected = got_and_expected(loss, x, targets(kind)[0].clamp(min=0))
        torch.testing.assert_close(got[0].double(), expected[0], rtol=1e-5, atol=1e-6, equal_nan=True)
        torch.testing.assert_close(got[1].double(), expected[1], rtol=1e-5, atol=1e-6, equal_nan=True)


@ALL
def test_regions_without_a_pixel_have_no_loss(loss):
    """A sample of which no pixel counts is as if it were masked: 0, out of the mean, without gradient."""
    target, _ = targets("index")
    target[1] = -100
    x = scores()
    x[1] = NAN
    for activation, reduction in itertools.product(("sigmoid", "softmax"), ("none", "mean", "sum")):
        got, expected = got_and_expected(loss(activation=activation, reduction=reduction), x, target)
        assert_near(got, expected, torch.float32, 16.0)
        assert not got[1][1].any()
    nothing = torch.full_like(target, -100)
    got, _ = got_and_expected(loss(), x, nothing)
    assert got[0].isnan()
    assert not got[1].any()
    with losskit.empty("zero"):
        assert loss()(x, nothing) == 0
    mask = torch.ones(N, *SPACE, dtype=torch.bool)
    mask[1] = False
    got, expected = got_and_expected(loss(), x, targets("hard")[0], mask)
    assert_near(got, expected, torch.float32, 16.0)


def test_pixels_that_do_not_count_hide_everything():
    """NaN scores, and targets that are none."""
    x, mask = scores(), targets("masked")[1]
    for kind, activation in itertools.product(("soft", "index"), ("sigmoid", "softmax")):
        target, _ = targets(kind)
        spoilt, wrong = x.clone(), target.clone()
        spoilt.movedim(1, -1)[~mask] = NAN
        if kind == "soft":
            wrong.movedim(1, -1)[~mask] = 7.0
        else:
            wrong[~mask] = 77
        loss = DiceLoss(activation=activation)
        plain, spoiled = (got_and_expected(loss, *z, mask)[0] for z in ((x, target), (spoilt, wrong)))
        for a, b in zip(plain, spoiled, strict=True):
            assert torch.equal(a, b)
        assert not spoiled[1].movedim(1, -1)[~mask].any()
        assert losskit.last_violation() is None


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0)], ids=str)
def test_no_pixels(shape):
    x = torch.zeros(shape, requires_grad=True)
    with losskit.checks("off"):
        for reduction, wanted in (("sum", 0.0), ("mean", NAN)):
            got = DiceLoss(reduction=reduction)(x, torch.zeros(shape))
            torch.testing.assert_close(got, torch.tensor(wanted), equal_nan=True)
            assert torch.autograd.grad(got, x)[0].shape == shape
        with losskit.empty("zero"):
            assert DiceLoss()(x, torch.zeros(shape)) == 0
        assert DiceLoss(reduction="none")(x, torch.zeros(shape)).shape == shape[:2]


# ---------------------------------------------------------------------------------------------------------
# Bad values


def test_a_class_that_there_is_not(unwatched):
    target, _ = targets("index")
    target[1, 2, 3] = 4
    for checks in ("raise", "off"):
        with losskit.checks(checks), unwatched:
            each = DiceLoss(reduction="none")(scores(), target)
        assert each.isnan().any(1).tolist() == [False, True]
    assert losskit.last_violation() == (
        "dice_loss: target must be a class in [0, 4), got 4 at row (1, 2, 3). Class indices start at 0."
    )


def test_numbers_that_are_no_probabilities():
    x, (target, _) = scores("none"), targets("soft")
    x[1, 2, 2, 4] = 1.5
    each = DiceLoss(activation="none", reduction="none")(x, target)
    assert each.isnan().nonzero().tolist() == [[1, 2]]
    said = losskit.last_violation()
    assert "input must be in [0, 1], got 1.5 at index (1, 2, 2, 4)" in said
    target[0, 3, 1, 1] = -0.25
    masked = torch.ones(N, C, dtype=torch.bool)
    masked[1, 2] = False
    each = DiceLoss(activation="none", reduction="none")(x, target, mask=masked)
    assert each.isnan().nonzero().tolist() == [[0, 3]]
    assert "target must be in [0, 1], got -0.25 at index (0, 3, 1, 1)" in losskit.last_violation()
    with losskit.checks("off"):
        assert DiceLoss()(scores(), target).isfinite()


# ---------------------------------------------------------------------------------------------------------
# Calls


def test_the_same_bits_and_no_waiting(unwatched):
    x, target = scores(), targets("index_masked")
    found = []
    for _ in range(2):
        leaf = x.clone().requires_grad_()
        with unwatched:
            loss = DiceLoss(activation="softmax")(leaf, *target)
            (slope,) = torch.autograd.grad(loss, leaf)
        found.append((loss.detach(), slope))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])


def test_upstream_gradients_and_a_second_backward():
    for dtype in (torch.float32, torch.float16):
        x = scores(dtype=dtype).requires_grad_()
        loss = DiceLoss()(x, targets("index")[0])
        (first,) = torch.autograd.grad(64.0 * loss, x, retain_graph=True)
        (second,) = torch.autograd.grad(loss, x)
        wide = x.detach().double().requires_grad_()
        (expected,) = torch.autograd.grad(DiceLoss()(wide, targets("index")[0]), wide)
        assert_near([first, second], [64.0 * expected, expected], dtype, 16.0)


def test_compiled():
    x, target = scores().requires_grad_(), targets("index")[0]
    for loss in (DiceLoss(activation="softmax"), GeneralizedDiceLoss(), DiceLoss(reduction="none", batch=True)):
        torch._dynamo.reset()
        compiled = torch.compile(lambda z, of=loss: of(2 * z, target).sum() * 3, backend="aot_eager", fullgraph=True)
        want, got = loss(2 * x, target).sum() * 3, compiled(x)
        torch.testing.assert_close(got, want)
        (of_eager,), (of_compiled,) = torch.autograd.grad(want, x), torch.autograd.grad(got, x)
        torch.testing.assert_close(of_compiled, of_eager)


def test_why(device, monkeypatch):
    monkeypatch.setattr(regions, "LONGEST", 3)
    x, t = torch.randn(2, 4, 8, device=device), torch.zeros(2, 4, 8, device=device)
    assert losskit.why(DiceLoss(), x, t).implementation == "fused GPU kernel"
    for loss in (DiceLoss(activation="softmax"), GeneralizedDiceLoss()):
        assert losskit.why(loss, x, t) == (
            "eager formula",
            "regions whose classes depend on each other are taken for up to 3 classes",
        )
        assert loss(x, t).isnan() or loss(x, t).isfinite()
