"""Class scores on a GPU: the truth and the behaviour of the CPU's kernels, rows of any length, and what only a GPU has.

Most tests run twice: as they are, and with limits so small that every row is too long for registers.
"""

import itertools
import math

import class_scores_of_test as losses_of_test
import pytest
import row_samples
import test_class_scores as on_cpu
import test_rows
import torch
import torch.nn.functional as F
from losses.cross_entropy import scores
from row_truth import errors_of
from tiers import full

import losskit
import losskit.functional as LF
from losskit.kernels.gpu.class_scores.layouts import placed
from losskit.kernels.gpu.frame import Call

from .conftest import ON_GPU

INF, NAN = math.inf, math.nan
TAKEN = {
    "cross_entropy-weight", "cross_entropy-smoothing", "cross_entropy-probabilities_weight", "nll_loss-weight",
    "arcface_loss-weight_smoothing", "sphereface_loss-embeddings", "ldam_loss-scores", "softmax_focal_loss-alpha_weight",
    "z_loss-scores", "coral_loss-grades", "corn_loss-grades", "logistic_hazard_loss-times",
}  # fmt: skip
SAMPLES = [s for s in row_samples.SAMPLES if str(s) in TAKEN]


# ---------------------------------------------------------------------------------------------------------
# What the CPU's kernels must do, too


LAWS = [
    test_rows.test_reductions_of_rows, test_rows.test_micro_batches_compose, test_rows.test_nothing,
    test_rows.test_nan_in_gives_nan_out, test_rows.test_dtype_ladder, test_rows.test_integer_dtypes,
    test_rows.test_backward,
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__[5:])
@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_law(law, sample):
    law(sample)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_the_kernel_runs(sample):
    for dtype in (torch.float32, torch.bfloat16):
        operands = sample.operands(dtype=dtype)
        loss = sample.loss(**sample.kwargs(dtype))
        assert losskit.why(loss, *operands).implementation == "fused GPU kernel"


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_masked_rows_are_exact_zeros(sample):
    with losskit.checks("nan"):
        test_rows.test_masked_rows_are_exact_zeros(sample, NAN)


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_layouts(sample):
    test_rows.test_layouts(sample, torch.float32)


def test_targets_of_any_kind(either):
    on_cpu.test_index_dtypes()
    on_cpu.test_ignore_index()


@pytest.mark.parametrize("classes", [2, 20])
def test_infinite_scores(classes, either, monkeypatch):
    on_cpu.test_infinite_scores(classes, True, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_certain_rows_keep_learning(dtype, either):
    """As on the CPU; NVIDIA's exp flushes subnormals to 0."""
    for margin in (1.0, 17.0, 20.0, 60.0, 86.0):
        x = torch.tensor([[margin, 0.0]], dtype=dtype, requires_grad=True)
        for target in (torch.tensor([0]), torch.tensor([[1.0, 0.0]], dtype=dtype)):
            loss = LF.cross_entropy(x, target, reduction="none")
            (gradient,) = torch.autograd.grad(loss.sum(), x)
            found = errors_of("cross_entropy", [x, target], {}, loss, {0: gradient})
            assert found.value <= 3 and found.each <= 8, found.where


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_truth(dtype, either):
    """Values within 3 ULP, gradients within 8 ULP each and 4 of the largest, but for what is subnormal."""
    with torch.device("cpu"):
        points = [(x[-2:], y[-2:]) for (x, y), _ in scores(dtype) if x.shape[1] in (3, 19)]
    for rows, target in points:
        x, y = rows.to(torch.get_default_device(), dtype).requires_grad_(), target.to(torch.get_default_device())
        loss = LF.cross_entropy(x, y, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        smallest = 1e-36 if dtype == torch.float32 else torch.finfo(dtype).tiny
        found = errors_of("cross_entropy", [x, y], {}, loss, {0: gradient}, smallest)
        assert found.value <= 3 and found.gradient <= 4 and found.each <= 8, found.where


# ---------------------------------------------------------------------------------------------------------
# Against the definition


def definition(loss, params, z, target, weight, smoothing, ignored):
    """The losses of rows (the last dimension holds classes) by their definition, in float64."""
    classes = z.shape[-1]
    soft = target.is_floating_point()
    kept = torch.ones(z.shape[:-1], dtype=torch.bool) if soft else target != ignored
    hard = None if soft else F.one_hot(torch.where(kept, target, 0).long(), classes).double()
    shares = (1 - smoothing) * (target.double() if soft else hard) + smoothing / classes
    shares = shares if weight is None else shares * weight.double()
    if loss is losskit.CrossEntropyLoss:
        values = -(shares * z.log_softmax(-1)).sum(-1)
    else:
        flat = losses_of_test.textbook(loss, params, z.reshape(-1, classes), shares.reshape(-1, classes))
        values = flat.reshape(z.shape[:-1])
    return values, kept, 1.0 if weight is None or soft else weight.double()[torch.where(kept, target, 0).long()]


LOSSES = [
    (losskit.CrossEntropyLoss, {}), (losses_of_test.FocalOfTest, {"gamma": 3.0}), (losses_of_test.NormaliserOfTest, {"scale": 0.1}),
    (losses_of_test.SmoothedOfTest, {}),
]  # fmt: skip
SHAPES = [(1,), (6,), (5, 2), (37, 3), (3, 50), (2, 1, 3), (2, 9, 3, 2), (2, 20, 7), (2, 5, 70)]
OPTIONS = list(itertools.product((False, True), (0.0, 0.2), (False, True), (False, True), ("mean", "none", "sum")))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("loss", "params"), LOSSES, ids=lambda x: getattr(x, "name", ""))
def test_definition(loss, params, shape, either):
    """Indices and probabilities, smoothing, weights, masks, reductions, in every dtype; each option in some pair."""
    torch.manual_seed(len(shape))
    dim = min(1, len(shape) - 1)
    rows = shape[:dim] + shape[dim + 1 :]
    classes = shape[dim]
    dtypes = itertools.cycle([torch.float32, torch.bfloat16, torch.float64, torch.float16])
    start = SHAPES.index(shape) + LOSSES.index((loss, params))
    every = 13 if either == "registers" else 26
    for option, dtype in zip(OPTIONS[start % 13 :: every], dtypes):
        soft, smoothing, weighted, extra, reduction = option
        z = (2 * torch.randn(shape)).to(dtype)
        t = torch.randn(shape).softmax(dim).to(dtype) if soft else torch.randint(0, classes, rows)
        if not soft and rows:
            t.view(-1)[::4] = -100
        weight = (torch.rand(classes) + 0.5).to(dtype) if weighted else None
        sample_weight = (torch.rand(rows) + 0.1).to(dtype) if extra else None
        mask = torch.rand(rows) > 0.3 if extra else None
        leaves = [x.requires_grad_() for x in ([z, t] if soft else [z])]
        got = loss.functional(z, t, weight=weight, label_smoothing=smoothing, reduction=reduction,
                              sample_weight=sample_weight, mask=mask, **params)  # fmt: skip
        wide = [x.detach().double().requires_grad_() for x in leaves]
        values, kept, own = definition(
            loss, params, wide[0].movedim(dim, -1), wide[1].movedim(dim, -1) if soft else t, weight, smoothing, -100
        )
        counts = (kept if mask is None else kept & mask) * (1.0 if sample_weight is None else sample_weight.double())
        values = torch.where(counts > 0, values, 0.0) * counts
        want = values if reduction == "none" else values.sum()
        if reduction == "mean":
            want = want / (counts * own).sum()
        eps, several = torch.finfo(dtype).eps, 40 if dtype == torch.float64 else 4
        scale = float(want.detach().abs().max().nan_to_num())
        torch.testing.assert_close(got.double(), want, rtol=several * eps, atol=several * eps * scale, equal_nan=True,
                                   msg=lambda m: f"{option} {dtype}: {m}")  # fmt: skip
        upstream = torch.linspace(0.5, 2.0, want.numel(), dtype=torch.float64).reshape(want.shape).to(dtype)
        right = torch.autograd.grad(want, wide, upstream.double())
        for a, b in zip(torch.autograd.grad(got, leaves, upstream.to(got.dtype)), right):
            b = torch.where(b.isfinite(), b, 0.0)  # of nothing
            largest = float(b.abs().max())
            assert a.dtype == dtype
            torch.testing.assert_close(a.double(), b, rtol=several * 4 * eps, atol=several * eps * largest,
                                       msg=lambda m: f"{option} {dtype}, gradient: {m}")  # fmt: skip


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_orders_of_memory(order):
    """(N, C, H, W) in every order, with extras and targets in another one."""
    shape = (2, 5, 3, 4)
    back = [order.index(i) for i in range(4)]
    x = torch.randn([shape[i] for i in order], dtype=torch.float64).permute(back).requires_grad_()
    y = torch.randint(0, 5, (4, 3, 2)).permute(2, 1, 0)
    w = torch.rand(3, 1, dtype=torch.float64)
    soft = torch.rand(4, 2, 3, 5, dtype=torch.float64).permute(1, 3, 2, 0).requires_grad_()
    for target, leaves in ((y, [x]), (soft, [x, soft])):
        got = LF.cross_entropy(x, target, reduction="none", sample_weight=w)
        want = F.cross_entropy(x, target, reduction="none") * w
        torch.testing.assert_close(got, want)
        upstream = torch.rand(2, 4, 3, dtype=torch.float64).transpose(1, 2)
        pairs = [torch.autograd.grad(v, leaves, upstream) for v in (got, want)]
        for a, b in zip(*pairs):
            torch.testing.assert_close(a, b)
            assert a.stride() == x.stride()


def test_slices_and_expanded_scores():
    wide = torch.randn(4, 9, 6, 10, dtype=torch.float64)
    for x in (wide[:, ::2], wide[:, :, 1:4, ::2], wide[::2, :, :, :3], wide[:1].expand(3, 9, 6, 10), wide.mT[:, 2:5]):
        x = x.detach().requires_grad_()
        y = torch.randint(0, x.shape[1], x.shape[:1] + x.shape[2:])
        pairs = [torch.autograd.grad(f(x, y), x)[0] for f in (LF.cross_entropy, F.cross_entropy)]
        torch.testing.assert_close(*pairs)


def test_tokens_without_the_last():
    """Logits of (batch, time, vocabulary) as (batch, vocabulary, time), cut without a copy."""
    logits = torch.randn(3, 8, 20)
    x, y = logits[:, :-1].transpose(1, 2).detach().requires_grad_(), torch.randint(0, 20, (3, 7))
    layout, tensors = placed(Call(None, [x, y], *[None] * 4, True, False, x.dtype, x.dtype), None)
    assert tensors[0] is x and (layout.outer, layout.inner, layout.classes) == (3, 7, 20)
    torch.testing.assert_close(LF.cross_entropy(x, y), F.cross_entropy(x, y))


@full("paths of seconds: compiled with numbers and tensors that change, races, type checkers, long pivots")
def test_pivots_between_multiples_of_log_2():
    """The exponential of the pivot itself is 1, whichever way its multiple of log 2 is rounded."""
    halfway = (torch.arange(-2000, 2000, dtype=torch.float64) + 0.5) * math.log(2)
    pivot = halfway.float()
    pivot = torch.cat([pivot, *(torch.nextafter(pivot, torch.full_like(pivot, side)) for side in (-INF, INF))])
    x = torch.stack([pivot, pivot - 20], 1)
    loss = LF.cross_entropy(x, torch.zeros(len(x), dtype=torch.int64), reduction="none")
    others = (x[:, 1].double() - x[:, 0].double()).exp()
    torch.testing.assert_close(loss.double(), others.log1p(), rtol=3e-7, atol=0)


def test_halves_are_exact_to_a_rounding():
    """Nothing is rounded off in distances of halves: they are not mended, and need not be."""
    for dtype, allowed in ((torch.bfloat16, 1.0 if not ON_GPU else 0.51), (torch.float16, 0.51)):
        x = (4 * torch.randn(40, 30)).to(dtype).requires_grad_()
        y = torch.randint(0, 30, (40,))
        rows = LF.cross_entropy(x, y, reduction="none")
        (gradient,) = torch.autograd.grad(rows.sum(), x)
        wide = x.detach().double().requires_grad_()
        want = F.cross_entropy(wide, y, reduction="none")
        (slope,) = torch.autograd.grad(want.sum(), wide)
        eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
        for got, right in ((rows.double(), want), (gradient.double(), slope)):
            unit = torch.exp2(right.abs().clamp(min=tiny).log2().floor()) * eps
            assert ((got - right).abs() <= allowed * unit).all()


def test_long_rows():
    """A vocabulary, over the limits as they are, with a row that is ignored and not read."""
    x = torch.randn(3, 40_000)
    x[1] = NAN
    x.requires_grad_()
    y = torch.tensor([39_999, -100, 17])
    loss = LF.cross_entropy(x, y, label_smoothing=0.1)
    loss.backward()
    wide = x.detach()[[0, 2]].double().requires_grad_()
    want = F.cross_entropy(wide, y[[0, 2]], label_smoothing=0.1)
    want.backward()
    torch.testing.assert_close(loss.double(), want, rtol=4e-7, atol=0)
    torch.testing.assert_close(x.grad[[0, 2]].double(), wide.grad, rtol=1e-6, atol=1e-10)
    assert not x.grad[1].any()


def test_shift():
    """Scores with a number for each class added; a shift that is learnt goes to the formula."""
    prior = torch.tensor([0.7, 0.2, 0.1])
    z, y = torch.randn(9, 3, requires_grad=True), torch.randint(0, 3, (9,))
    loss = losses_of_test.AdjustedOfTest(prior=prior)
    assert losskit.why(loss, z, y).implementation == "fused GPU kernel"
    want = F.cross_entropy(z + prior.log(), y)
    torch.testing.assert_close(loss(z, y), want)
    torch.testing.assert_close(torch.autograd.grad(loss(z, y), z), torch.autograd.grad(want, z))
