"""The ordered family: orders and ties, elements and units that do not count."""

from __future__ import annotations

import math

import mpmath
import pytest
import reference
import torch
from losses import lovasz_softmax
from ordered_rows import INF, LOSSES, NAN, PATHS, WIDE, list_mle, normal, operands, take, whole, with_gradient

import losskit
import losskit.functional as LF

# ---------------------------------------------------------------------------------------------------------
# Against other formulas


def cox(x, time, event, ties):
    """Every event against everybody at risk."""
    total = x.new_zeros(())
    for i in event.nonzero().flatten().tolist():
        tied = ((time == time[i]) & (event != 0)).nonzero().flatten().tolist()
        weights = (time >= time[i]).to(x.dtype)
        if ties == "efron":
            weights[tied] -= tied.index(i) / len(tied)
        total = total + (weights * x.exp()).sum().log() - x[i]
    return total


def lovasz(errors, labels):
    """Of one set, its errors in any order."""
    errors, order = errors.sort(descending=True, stable=True)
    t = labels[order].to(errors.dtype)
    jaccard = 1 - (t.sum() - t.cumsum(0)) / (t.sum() + (1 - t).cumsum(0))
    return (errors * jaccard.diff(prepend=jaccard.new_zeros(1))).sum()


@PATHS
@pytest.mark.parametrize("size", [1, 2, 23, 24, 25, 300, 1500, 9000])
@pytest.mark.parametrize("key", ["int64", "uint8", "float32", "float64", "float16", "signed"])
def test_orders_of_every_size_and_dtype(path, monkeypatch, size, key):
    """Insertion, short digits and long ones; keys of few and of all bits; ties keep the order of the input."""
    take(path, monkeypatch)
    x = normal(2, size, dtype=torch.float64)
    t = {
        "int64": whole(1 << 40, 2, size) - (1 << 39), "uint8": whole(200, 2, size).to(torch.uint8),
        "float32": normal(2, size, seed=3).float(), "float64": normal(2, size, seed=3),
        "float16": normal(2, size, seed=3).half(), "signed": torch.tensor([-0.0, 0.0, 1.0, -1.0])[whole(4, 2, size)],
    }[key]  # fmt: skip
    got, expected = (with_gradient(f, x, t) for f in (lambda x, t: LF.list_mle_loss(x, t, reduction="none"), list_mle))
    torch.testing.assert_close(got, expected if size > 1 else (torch.zeros(2).double(), x * 0), rtol=1e-10, atol=1e-10)


@PATHS
@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("times", [1, 3, 40, 100000])
def test_ties_of_times(path, monkeypatch, ties, times):
    """All at once, many tied, few, none."""
    take(path, monkeypatch)
    x, time, event = normal(60), whole(times, 60), whole(2, 60, seed=2)
    got, expected = (
        with_gradient(f, x, time, event, ties=ties)
        for f in (lambda *a, **k: LF.cox_ph_loss(*a, **k, reduction="sum"), cox)
    )
    torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-12)
    assert LF.cox_ph_loss(x, time, event, ties=ties).item() == pytest.approx(expected[0].item() / event.sum().item())


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_lists_beside_one_another(ties, dtype):
    """One of scores far apart, one with ties, one without any, one without an event: the bits of each alone."""
    x, time, event = normal(4, 9, dtype=dtype), whole(3, 4, 9), whole(2, 4, 9, seed=2)
    x[0] *= 1e4
    time[2], event[3] = torch.arange(9), 0
    together = with_gradient(LF.cox_ph_loss, x, time, event, ties=ties, reduction="none")
    for i in range(4):
        alone = with_gradient(LF.cox_ph_loss, x[i], time[i], event[i], ties=ties, reduction="none")
        assert torch.equal(together[0][i], alone[0])
        assert torch.equal(together[1][i], alone[1])


@PATHS
def test_a_long_tie(path, monkeypatch):
    """2000 subjects at 3 times: Efron's parts become small, and sums of a tie long."""
    take(path, monkeypatch)
    x, time, event = normal(2000), whole(3, 2000), whole(2, 2000, seed=2)
    got, expected = (
        with_gradient(f, x, time, event, ties="efron")
        for f in (lambda *a, **k: LF.cox_ph_loss(*a, **k, reduction="sum"), cox)
    )
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@PATHS
@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_hinges_of_images(path, monkeypatch, per_image, dtype):
    take(path, monkeypatch)
    x, t = normal(3, 30, 50, dtype=dtype), whole(2, 3, 30, 50)
    errors = 1 - x * (2 * t - 1)
    sets = zip(errors.flatten(1), t.flatten(1)) if per_image else [(errors.flatten(), t.flatten())]
    expected = torch.stack([lovasz(e, y).clamp(min=0) for e, y in ((e.clamp(min=0), y) for e, y in sets)])
    got = LF.lovasz_hinge_loss(x, t, per_image=per_image, reduction="none")
    assert got.shape == ((3,) if per_image else ())
    torch.testing.assert_close(got, expected if per_image else expected[0], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("width", [1, 2, 3, 7, 10, 16, 31, 32, 33])
def test_few_pixels_take_their_own_loop(width, reduction):
    """Sets side by side, and one by one with a mask: the same gradients, also of ties and of sets left to the other."""
    x = (normal(537, width) * 4).round().div(4)
    x[7, 0], x[300, 0], weights = INF, -INF, normal(537, seed=3) if reduction == "none" else 1.0
    for t in (whole(2, 537, width), whole(2, width, 537).T.to(torch.uint8), torch.zeros(537, width)):
        together, alone = (
            with_gradient(lambda *a, m=mask: LF.lovasz_hinge_loss(*a, m, reduction=reduction) * weights, x.float(), t)
            for mask in (None, torch.ones(537, width, dtype=torch.bool))
        )
        torch.testing.assert_close(together[0], alone[0], rtol=3e-7, atol=0)
        assert torch.equal(together[1], alone[1])
    x[20, width // 2] = NAN
    value, gradient = with_gradient(LF.lovasz_hinge_loss, x.float(), t, reduction="none")
    assert value.isnan().nonzero().tolist() == gradient.isnan().any(1).nonzero().tolist() == [[20]]
    t[400, 0] = 2
    with pytest.raises(ValueError, match=r"0 or 1, got 2 at index \(400, 0\)"):
        LF.lovasz_hinge_loss(x.float(), t)


@PATHS
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_the_truth_about_classes(path, monkeypatch, dtype):
    """Each class of each set, and its gradient through the softmax, in ULP of the largest term."""
    take(path, monkeypatch)
    x, t = normal(2, 4, 9, seed=5, dtype=dtype) * 2, whole(3, 2, 9, seed=7)
    t[0, 3] = -100
    t[1, 8] = -100
    for per_image in (True, False):
        sets = [[(n, p) for p in range(9)] for n in range(2)] if per_image else [
            [(n, p) for n in range(2) for p in range(9)]
        ]  # fmt: skip
        losses, gradient, many = [], torch.zeros(2, 4, 9, dtype=torch.float64), 0
        for places in sets:
            kept = [(n, p) for n, p in places if t[n, p] != -100]
            with mpmath.workdps(reference.DIGITS):
                pixels = [reference.numbers(x[n, :, p].double().tolist()) for n, p in kept]
                found = lovasz_softmax.exact(reference.Exact, pixels, [int(t[n, p]) for n, p in kept])
            for c, (value, slopes) in enumerate(found):
                there = any(t[n, p] == c for n, p in kept)
                many += there
                losses.append(float(value) if there else 0.0)
                for (n, p), row in zip(kept, slopes):
                    if there:
                        gradient[n, :, p] += torch.tensor([float(g) for g in row], dtype=torch.float64)
        got = LF.lovasz_softmax_loss(x, t, per_image=per_image, reduction="none")
        assert got.shape == ((2, 4) if per_image else (4,))
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(
            got.double().flatten(), torch.tensor(losses, dtype=torch.float64), rtol=2 * eps, atol=eps / 64
        )
        value, slopes = with_gradient(LF.lovasz_softmax_loss, x, t, per_image=per_image)
        assert value.item() == pytest.approx(sum(losses) / many, rel=2 * eps)
        torch.testing.assert_close(slopes.double(), gradient / many, rtol=8 * eps, atol=eps / 8)


@PATHS
def test_a_confident_pixel_keeps_its_digits(path, monkeypatch):
    """The error of the right class is the sum of the others, not 1 less a probability of 1."""
    take(path, monkeypatch)
    for dtype in WIDE:
        x = torch.tensor([[60.0, 0.0]], dtype=dtype)
        value, gradient = with_gradient(LF.lovasz_softmax_loss, x, torch.tensor([0]))
        assert value.item() == pytest.approx(math.exp(-60), rel=1e-6)
        assert gradient.flatten().tolist() == pytest.approx([-math.exp(-60), math.exp(-60)], rel=1e-6)
        value, gradient = with_gradient(LF.list_mle_loss, x, torch.tensor([[1, 0]]))
        assert value.item() == pytest.approx(math.exp(-60), rel=1e-6)
        assert gradient.flatten().tolist() == pytest.approx([-math.exp(-60), math.exp(-60)], rel=1e-6)
        value, gradient = with_gradient(LF.squared_emd_loss, x, torch.tensor([0]), reduction="sum")
        assert gradient.flatten().tolist() == pytest.approx(
            [-2 * math.exp(-120), 2 * math.exp(-120)], rel=1e-5, abs=1e-44
        )


@PATHS
@pytest.mark.parametrize("classes", [1, 5, 63, 64, 65, 71, 200, 1003, 2050])
def test_running_sums_of_rows_of_every_length(path, monkeypatch, classes):
    """Short rows are summed side by side, long ones alone, eight classes at a time; both have the same truth."""
    take(path, monkeypatch)
    x, label = normal(6, classes, dtype=torch.float64), whole(classes, 6)
    for target in (label, normal(6, classes, seed=5, dtype=torch.float64).softmax(-1)):
        shares = target if target.is_floating_point() else torch.nn.functional.one_hot(target, classes)
        for wide, bar in ((x, 1e-12), (x.float(), 2e-6)):
            got = with_gradient(LF.squared_emd_loss, wide, target, reduction="none")
            expected = with_gradient(
                lambda z, t: (z.softmax(-1) - t).cumsum(-1).square().sum(-1), wide.double(), shares.double()
            )
            for found, right in zip(got, expected, strict=True):
                torch.testing.assert_close(found, right, check_dtype=False, rtol=bar, atol=bar)


@PATHS
def test_a_long_row_keeps_the_digits_of_both_ends(path, monkeypatch):
    """The sums below and above a class are added up apart, also eight at a time."""
    take(path, monkeypatch)
    for place in (0, 40, 99):
        x = torch.zeros(1, 100, dtype=torch.float64)
        x[0, place] = 60.0
        value, _ = with_gradient(LF.squared_emd_loss, x, torch.tensor([place]), reduction="none")
        rest = math.exp(-60) / (1 + 99 * math.exp(-60))
        exact = rest * rest * (sum((i + 1) ** 2 for i in range(place)) + sum(i * i for i in range(100 - place)))
        assert value.item() == pytest.approx(exact, rel=1e-13)


@PATHS
def test_scores_that_leave_every_exponential(path, monkeypatch):
    """Scores that are 1e4 apart, in both orders: the loss is their distance, or nothing."""
    take(path, monkeypatch)
    x = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]])
    value, gradient = with_gradient(LF.list_mle_loss, x, torch.tensor([[3, 2, 1]] * 2), reduction="none")
    assert value.tolist() == [0.0, 3e4]
    assert gradient.tolist() == [[0.0] * 3, [-1.0, -1.0, 2.0]]
    time, event = torch.tensor([[1, 1, 2]] * 2), torch.ones(2, 3)
    value, gradient = with_gradient(LF.cox_ph_loss, x, time, event, ties="breslow", reduction="none")
    assert value.tolist() == [1e4, 3e4]
    assert gradient.tolist() == [[1.0, -1.0, 0.0], [-1.0, -1.0, 2.0]]


# ---------------------------------------------------------------------------------------------------------
# What does not count


@PATHS
@pytest.mark.parametrize("dtype", WIDE, ids=str)
def test_elements_that_are_masked_are_not_there(path, monkeypatch, dtype):
    """Padding may be anything: the loss is that of the shorter list, and the gradient there is 0."""
    take(path, monkeypatch)
    x, t, e = normal(9, dtype=dtype), whole(4, 9), whole(2, 9, seed=2)
    e[0], mask = 1, torch.tensor([1, 0, 1, 1, 1, 0, 1, 1, 0]) == 1
    spoilt, keys = x.masked_fill(~mask, NAN), t.to(dtype).masked_fill(~mask, NAN)
    calls = [
        (lambda x, m, k, **kw: LF.list_mle_loss(x, k, m, **kw), t, keys),
        (lambda x, m, k, **kw: LF.cox_ph_loss(x, *k, m, **kw), (t, e), (keys, e.masked_fill(~mask, 7))),
        (lambda x, m, k, **kw: LF.lovasz_hinge_loss(x, k, m, **kw), e, e.masked_fill(~mask, 7)),
        (lambda x, m, k, **kw: LF.lovasz_hinge_loss(x, k, m, **kw), e, e.to(dtype).masked_fill(~mask, NAN)),
    ]
    for loss, right, wrong in calls:
        cut = tuple(k[mask] for k in right) if isinstance(right, tuple) else right[mask]
        expected, slopes = with_gradient(loss, x[mask], None, cut)
        got, gradient = with_gradient(loss, spoilt, mask, wrong)
        torch.testing.assert_close(got, expected)
        torch.testing.assert_close(gradient[mask], slopes)
        assert not gradient[~mask].any()


NOTHING = {
    "a list of one": lambda x, **k: LF.list_mle_loss(x[:, :1], torch.ones(2, 1), **k),
    "a padded list of one": lambda x, **k: LF.list_mle_loss(x, torch.ones(2, 3), torch.arange(3) < 1, **k),
    "an empty list": lambda x, **k: LF.list_mle_loss(x[:, :0], torch.ones(2, 0), **k),
    "no event": lambda x, **k: LF.cox_ph_loss(x, torch.ones(2, 3), torch.zeros(2, 3), **k),
    "a masked event": lambda x, **k: LF.cox_ph_loss(
        x, torch.ones(2, 3), torch.tensor([[0, 1, 0]] * 2), torch.tensor([True, False, True]), **k
    ),
    "no pixel": lambda x, **k: LF.lovasz_hinge_loss(x, torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), **k),
    "an image without pixels": lambda x, **k: LF.lovasz_hinge_loss(x[:, :0], torch.ones(2, 0), **k),
    "ignored pixels": lambda x, **k: LF.lovasz_softmax_loss(x, torch.full((2,), -100), **k),
    "ignored pixels of all classes": lambda x, **k: LF.lovasz_softmax_loss(
        x, torch.full((2,), -100), classes="all", **k
    ),
}


@PATHS
@pytest.mark.parametrize("what", NOTHING)
def test_units_without_a_loss(path, monkeypatch, what):
    """They are masked units: 0 alone and in sums, in no mean; with gradients of 0."""
    take(path, monkeypatch)
    x = torch.tensor([[1.0, 2.0, -INF], [0.5, -3.0, INF]]) if what != "no pixel" else normal(2, 3)
    x = normal(2, 3) if "list" in what or "image" in what else x
    for reduction in ("none", "sum", "mean"):
        value, gradient = with_gradient(NOTHING[what], x, reduction=reduction)
        assert value.isnan() if reduction == "mean" else not value.any()
        assert not gradient.any()
    with losskit.empty("zero"):
        value, gradient = with_gradient(NOTHING[what], x)
    assert value == 0
    assert not gradient.any()


@PATHS
def test_units_without_a_loss_are_in_no_mean(path, monkeypatch):
    """Nor are their weights."""
    take(path, monkeypatch)
    weight = torch.tensor([2.0, 5.0], dtype=torch.float64)
    x, mask = normal(2, 4), torch.tensor([[True] * 4, [True, False, False, False]])
    first = LF.list_mle_loss(x[:1], whole(5, 1, 4))
    torch.testing.assert_close(LF.list_mle_loss(x, whole(5, 2, 4)[[0, 1]], mask, sample_weight=weight), first)
    event = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]])
    of_one = LF.cox_ph_loss(x[:1], whole(9, 1, 4), event[:1])
    torch.testing.assert_close(LF.cox_ph_loss(x, whole(9, 2, 4), event, sample_weight=weight), of_one)
    pixels, labels = normal(6, 3), torch.tensor([0, 0, 1, 1, 0, 1])  # class 2 is absent
    each = LF.lovasz_softmax_loss(pixels, labels, reduction="none")
    assert each[2] == 0
    torch.testing.assert_close(LF.lovasz_softmax_loss(pixels, labels), each[:2].mean())
    weights = torch.tensor([1.0, 3.0, 100.0], dtype=torch.float64)
    weighted = LF.lovasz_softmax_loss(pixels, labels, sample_weight=weights)
    torch.testing.assert_close(weighted, (each[0] + 3 * each[1]) / 4)
    everything = LF.lovasz_softmax_loss(pixels, labels, classes="all", reduction="none")
    assert everything[2] == pixels.softmax(1)[:, 2].max()


def test_the_mean_of_events_is_over_strata():
    x, time, event = normal(4, 6), whole(5, 4, 6), whole(2, 4, 6, seed=2)
    each = LF.cox_ph_loss(x, time, event, reduction="none")
    weight = torch.tensor([1.0, 0.5, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(LF.cox_ph_loss(x, time, event), each.sum() / event.sum())
    expected = (each * weight).sum() / (event.sum(1) * weight).sum()
    torch.testing.assert_close(LF.cox_ph_loss(x, time, event, sample_weight=weight), expected)


@PATHS
@pytest.mark.parametrize("cls", LOSSES, ids=lambda cls: cls.name)
def test_nan_in_gives_nan_out(path, monkeypatch, cls):
    """In an element without a loss of its own, too; in keys and labels; nowhere else."""
    take(path, monkeypatch)
    for place in (0, -1):
        given = operands(cls)[: 3 if cls is losskit.CoxPHLoss else 2]
        for i in range(len(given) if cls is not losskit.LovaszSoftmaxLoss else 1):
            spoilt = [x.clone() for x in given]
            if i:
                spoilt[i] = spoilt[i].double()
            spoilt[i][1].view(-1)[place] = NAN
            if spoilt[i].ndim < spoilt[0].ndim:
                continue
            each = cls("none")(*spoilt)
            kept = torch.zeros_like(each, dtype=torch.bool)
            kept[1 if cls is not losskit.LovaszSoftmaxLoss else slice(0, 3)] = True
            assert torch.equal(each.isnan(), kept), i
