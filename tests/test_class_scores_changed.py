"""Scores with a margin: the kernel, which changes scores itself, against the formula of changed scores."""

import math

import pytest
import torch
from row_samples import without_kernels

import losskit
import losskit.functional as LF
from losskit import ClassScoresLoss, Operand
from losskit.domains import Interval, positive
from losskit.families.class_scores_plan import ClassScoresPlan
from losskit.formula import exp

CLASSES = [3, 16, 70, 300]  # tiles and rows
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def cosines(*shape, dtype=torch.float64):
    return torch.tanh(torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)).to(dtype)


def labels(rows, classes):
    return torch.arange(rows) * 7 % classes


CALLS = {
    "arcface": lambda x, y, n, **more: LF.arcface_loss(x, y, **more),
    "cosface": lambda x, y, n, **more: LF.cosface_loss(x, y, scale=9.0, **more),
    "sphereface": lambda x, y, n, **more: LF.sphereface_loss(x, y, n, **more),
    "ldam": lambda x, y, n, **more: LF.ldam_loss(x, y, torch.arange(1.0, x.shape[1] + 1), **more),
}
OPTIONS = {
    "plain": lambda rows, classes: {},
    "smoothing": lambda rows, classes: {"label_smoothing": 0.1},
    "weights": lambda rows, classes: {"weight": torch.linspace(0.5, 2.0, classes), "ignore_index": 0},
    "mask": lambda rows, classes: {
        "mask": torch.arange(rows) % 3 != 1,
        "sample_weight": torch.linspace(0.1, 1.0, rows),
    },
    "none": lambda rows, classes: {"reduction": "none"},
}


def results(call, x, y, n, **more):
    x, n = x.detach().requires_grad_(), n.detach().requires_grad_()
    loss = call(x, y, n, **more)
    upstream = torch.linspace(0.5, 1.5, loss.numel()).view(loss.shape).to(loss.dtype)
    found = torch.autograd.grad(loss, [x, n], upstream, allow_unused=True, materialize_grads=True)
    return [loss.detach(), *found]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CALLS)
def test_the_kernel_is_the_formula(name, options, classes, dtype, monkeypatch):
    x, y = cosines(11, classes, dtype=dtype), labels(11, classes)
    n, more = torch.linspace(0.5, 4.0, 11).to(dtype), OPTIONS[options](11, classes)
    more = {k: v.to(dtype) if k == "weight" else v for k, v in more.items()}
    got = results(CALLS[name], x, y, n, **more)
    without_kernels(monkeypatch)
    # Doubles that are multiplied are rounded, and their exponentials show it.
    tolerance = (256 if dtype == torch.float64 else 16) * torch.finfo(dtype).eps
    for a, b in zip(got, results(CALLS[name], x, y, n, **more), strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "made", [lambda x: x.t().contiguous().t(), lambda x: x.repeat(1, 2)[:, ::2], lambda x: x.flip(0)]
)
@pytest.mark.parametrize("classes", CLASSES)
def test_layouts(classes, made):
    x, y, n = cosines(11, classes), labels(11, classes), torch.linspace(0.5, 4.0, 11, dtype=torch.float64)
    x = made(x)
    for a, b in zip(
        results(CALLS["sphereface"], x, y, n), results(CALLS["sphereface"], x.contiguous(), y, n), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_pixels(monkeypatch):
    x, y = torch.randn(2, 5, 3, 4), torch.randint(0, 5, (2, 3, 4))
    counts = torch.tensor([9.0, 5.0, 3.0, 2.0, 1.0])
    rows = x.movedim(1, -1).reshape(-1, 5)
    one = LF.ldam_loss(x, y, counts, reduction="none")
    torch.testing.assert_close(one.flatten(), LF.ldam_loss(rows, y.flatten(), counts, reduction="none"))
    torch.testing.assert_close(one[0, 1, 2], LF.ldam_loss(x[0, :, 1, 2], y[0, 1, 2], counts))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.uint16, torch.uint32], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_labels_of_any_integers(name, dtype):
    """156 is -100, the index that is ignored, modulo 256."""
    x, y, n = cosines(4, 200), torch.tensor([156, 3, 100, 28]), torch.linspace(0.5, 4.0, 4)
    right = results(CALLS[name], x, y, n, reduction="none")
    for got, expected in zip(results(CALLS[name], x, y.to(dtype), n, reduction="none"), right, strict=True):
        assert torch.equal(got, expected)


def test_a_norm_for_all_rows():
    """It broadcasts, and its gradient is the sum of those of the rows."""
    x, y = cosines(6, 4), labels(6, 4)
    one = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    each = torch.full((6,), 3.0, dtype=torch.float64, requires_grad=True)
    LF.sphereface_loss(x.requires_grad_(), y, one).backward()
    LF.sphereface_loss(x, y, each).backward()
    torch.testing.assert_close(one.grad, each.grad.sum())
    (alone,) = torch.autograd.grad(LF.sphereface_loss(x.detach(), y, each), each)
    torch.testing.assert_close(alone, each.grad)


def test_it_is_one_pass():
    for criterion, more in (
        (losskit.ArcFaceLoss(), ()),
        (losskit.SphereFaceLoss(), (torch.ones(6),)),
        (losskit.LDAMLoss(torch.ones(4)), ()),
    ):
        x = cosines(6, 4, dtype=torch.float32).requires_grad_()
        assert losskit.why(criterion, x, labels(6, 4), *more).implementation == "fused CPU kernel"
        loss = criterion(x, labels(6, 4), *more)
        assert loss.grad_fn.name() == "FusedBackward"


@pytest.mark.parametrize("bad", [1.5, -2.0, math.inf])
def test_cosines_that_are_none(bad):
    """The own class's score is told; under "nan" the row is NaN."""
    x = cosines(4, 3)
    x[2, 1] = bad
    y = torch.tensor([0, 1, 1, 2])
    with pytest.raises(
        ValueError, match=r"arcface_loss: input must be a cosine, in \[-1, 1\], got .* at index \(2, 1\)"
    ):
        LF.arcface_loss(x, y)
    with losskit.checks("nan"):
        assert LF.arcface_loss(x, y, reduction="none").isnan().tolist() == [False, False, True, False]
    y[2] = -100
    assert LF.arcface_loss(x, y).isfinite()
    with pytest.raises(ValueError, match=r"sphereface_loss: norm must be positive, got -1 at index \(1,\)"):
        LF.sphereface_loss(cosines(2, 3), y[:2], torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("name", CALLS)
def test_a_small_call_is_not_validated(name, monkeypatch):
    """Its checks ride in the kernel."""
    x, y, n = cosines(6, 4, dtype=torch.float32), labels(6, 4), torch.linspace(0.5, 4.0, 6)
    expected = results(CALLS[name], x, y, n)
    monkeypatch.setattr(ClassScoresPlan, "validated", None)
    for got, want in zip(results(CALLS[name], x, y, n), expected, strict=True):
        assert torch.equal(got, want)


def bad_calls():
    """Calls with a bad value, and what is told of it; the rows of pixels are walked in another order than told."""
    x, y, n = cosines(3, 4), torch.tensor([3, 1, 2]), torch.ones(3)
    pixels = cosines(2, 4, 3, 5).to(memory_format=torch.channels_last).transpose(2, 3)
    at = torch.arange(30).view(2, 5, 3) % 4
    large, low, two = x.clone(), n.clone(), pixels.clone(memory_format=torch.preserve_format)
    large[1, 1], low[2] = 1.25, 0.0
    two[1, at[1, 4, 0], 4, 0] = two[1, at[1, 2, 1], 2, 1] = -3.0
    return {
        "cosine": (LF.arcface_loss, (large, y), {}),
        "cosine of halves": (LF.arcface_loss, (large.bfloat16(), y), {}),
        "norm": (LF.sphereface_loss, (x, y, low), {}),
        "one norm": (LF.sphereface_loss, (x, y, torch.tensor(-2.0)), {"ignore_index": 3}),
        "pixels": (LF.cosface_loss, (two, at), {}),
        "class": (LF.cosface_loss, (x, torch.tensor([1, 4, 0])), {}),
    }


@pytest.mark.parametrize("case", bad_calls())
def test_kernel_and_formula_refuse_alike(case, monkeypatch):
    function, operands, more = bad_calls()[case]
    with pytest.raises(losskit.LossError) as of_kernel:
        function(*operands, **more)
    with losskit.checks("nan"):
        rows = function(*operands, reduction="none", **more)
    without_kernels(monkeypatch)
    with pytest.raises(losskit.LossError) as of_formula:
        function(*operands, **more)
    assert str(of_kernel.value) == str(of_formula.value)
    with losskit.checks("nan"):
        expected = function(*operands, reduction="none", **more)
    assert rows.isnan().any() and torch.equal(rows.isnan(), expected.isnan())


@pytest.mark.parametrize("classes", CLASSES)
def test_what_does_not_count_is_not_read(classes):
    """Bad and missing numbers in rows that are masked or ignored change nothing."""
    x, y, n = cosines(4, classes), labels(4, classes), torch.linspace(0.5, 2.0, 4, dtype=torch.float64)
    y[3], mask = -100, torch.tensor([True, False, True, True])
    bad, nothing = x.clone(), n.clone()
    bad[1], bad[3], nothing[1], nothing[3] = math.nan, 7.0, math.nan, -1.0
    for options in ({"reduction": "none"}, {"reduction": "mean"}):
        right = results(CALLS["sphereface"], x, y, n, mask=mask, **options)
        for got, expected in zip(
            results(CALLS["sphereface"], bad, y, nothing, mask=mask, **options), right, strict=True
        ):
            torch.testing.assert_close(got, expected, rtol=1e-14, atol=0.0)  # exact zeros


def test_counts_that_change():
    """What is made of counts is kept, but never longer than the counts, however they are changed."""
    x, y = cosines(6, 4), labels(6, 4)
    counts = torch.tensor([9.0, 5.0, 3.0, 2.0])
    criterion = losskit.LDAMLoss(counts, max_m=0.7)

    def right():
        return LF.ldam_loss(x, y, (1000.0 * criterion.counts.double()).requires_grad_(), max_m=0.7).detach()

    seen = [criterion(x, y)]
    for change in (
        lambda c: c.add_(1.0),
        lambda c: c.data.mul_(torch.tensor([1.0, 2.0, 1.0, 3.0])),
        lambda c: c.numpy().__setitem__(0, 50.0),
    ):
        change(criterion.counts)
        seen.append(criterion(x, y))
        torch.testing.assert_close(seen[-1], right())
        assert torch.equal(criterion(x, y), seen[-1])
    assert len({loss.item() for loss in seen}) == len(seen)
    criterion.counts.data[2] = 0.0
    for _ in range(2):
        with pytest.raises(losskit.LossError, match=r"ldam_loss: counts must be positive, got 0 at index \(2,\)"):
            criterion(x, y)


def test_counts_that_learn():
    x, y = cosines(6, 4), labels(6, 4)
    counts = torch.tensor([9.0, 5.0, 3.0, 2.0], dtype=torch.float64)
    same = LF.ldam_loss(x, y, counts)
    leaf = counts.clone().requires_grad_()
    loss = LF.ldam_loss(x, y, leaf)
    torch.testing.assert_close(loss, same)
    loss.backward()
    assert leaf.grad.isfinite().all() and leaf.grad.abs().max() > 0


class TwoFormulasOfTest(ClassScoresLoss):
    """The loss is a formula, and so is the own class's score."""

    scaled_by = "size"
    operands = {
        "input": Operand("Scores.", domain=Interval("in [-2, 2]", low=-2.0, high=2.0, typical=0.0)),
        "target": Operand("Classes."),
        "size": Operand("A number of each row.", domain=positive),
    }

    @staticmethod
    def value(log_probability):
        return 1.0 - exp(log_probability)

    @staticmethod
    def target_score(score):
        return score - 0.25


class NoMarginOfTest(ClassScoresLoss):
    """Scores are multiplied, and nothing else."""

    scaled_by = "size"
    operands = TwoFormulasOfTest.operands

    @staticmethod
    def value(log_probability):
        return -log_probability


@pytest.mark.parametrize("loss", [TwoFormulasOfTest, NoMarginOfTest])
def test_losses_of_others(loss):
    x, y = cosines(6, 4).requires_grad_(), labels(6, 4)
    size = torch.linspace(0.5, 4.0, 6, dtype=torch.float64).requires_grad_()
    margin = 0.25 if loss is TwoFormulasOfTest else 0.0
    right = ((x - margin * torch.nn.functional.one_hot(y, 4)) * size[:, None]).log_softmax(1).gather(1, y[:, None])
    expected = (1.0 - right.exp()).mean() if loss is TwoFormulasOfTest else -right.mean()
    got = loss()(x, y, size)
    torch.testing.assert_close(got, expected)
    for pair in zip(*(torch.autograd.grad(of, [x, size]) for of in (got, expected)), strict=True):
        torch.testing.assert_close(*pair)
    with pytest.raises(losskit.LossError, match=r"size must be positive, got -1 at index \(1,\)"):
        loss()(x[:2], y[:2], torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_weight_beside_a_factor(reduction):
    """Both multiply the loss of a class; the mean divides by the weights alone."""
    alpha, weight = torch.tensor([0.25, 1.0, 2.0]), torch.tensor([3.0, 0.5, 1.5])
    x, y = torch.randn(9, 3, generator=torch.Generator().manual_seed(2), requires_grad=True), labels(9, 3)
    loss = LF.softmax_focal_loss(x, y, weight=weight, alpha=alpha, reduction=reduction)
    p = x.softmax(-1).gather(1, y[:, None]).squeeze(1)
    each = -alpha[y] * weight[y] * (1.0 - p) ** 2 * p.log()
    expected = {"none": each, "sum": each.sum(), "mean": each.sum() / weight[y].sum()}[reduction]
    torch.testing.assert_close(loss, expected)
    upstream = torch.ones_like(loss)
    pair = [torch.autograd.grad(of, x, upstream, retain_graph=True)[0] for of in (loss, expected)]
    torch.testing.assert_close(*pair)
