"""The class-scores family: shapes, strides, dtypes, targets, limits, facts. The truth is in the proofs."""

import itertools
import math

import mpmath
import pytest
import torch
import torch.nn.functional as F  # its usual name
from row_samples import without_kernels
from tiers import full, rest

import losskit
import losskit.functional as LF
from losskit import Facts

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


# ---------------------------------------------------------------------------------------------------------
# Parity in shapes, strides and dtypes


@pytest.mark.filterwarnings("ignore:cross_entropy. input has one class")
@pytest.mark.parametrize(
    "classes",
    rest(
        [1, 2, 3, 7, 10, 15, 16, 17, 33, 64, 100, 257, 1500],
        [1, 16, 257],
        "class scores: kernels at every number of classes, layout and dtype",
    ),
)
def test_shapes_and_strides(classes):
    """(C,), (N, C), (N, C, d...), in every order of memory, against torch in double."""
    torch.manual_seed(0)
    for shape in ((classes,), (5, classes), (40, classes), (3, classes, 7), (2, classes, 3, 5), (2, classes, 1, 2, 3)):
        rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
        target = torch.randint(0, classes, rows)
        for order in itertools.islice(itertools.permutations(range(len(shape))), 12):
            back = [order.index(i) for i in range(len(shape))]
            x = torch.randn([shape[i] for i in order], dtype=torch.float64).permute(back).requires_grad_()
            own, torchs = LF.cross_entropy(x, target), F.cross_entropy(x, target)
            torch.testing.assert_close(own, torchs, rtol=1e-12, atol=1e-13)
            got, expected = (torch.autograd.grad(v, x)[0] for v in (own, torchs))
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)
            sizes = [i for i in range(len(shape)) if shape[i] > 1]
            assert [got.stride(i) for i in sizes] == [x.stride(i) for i in sizes]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "classes", rest([2, 10, 47, 1000], [47], "class scores: kernels at every number of classes, layout and dtype")
)
def test_every_option_is_torchs(dtype, classes):
    """All options at once, in float64 of the same numbers by torch."""
    torch.manual_seed(1)
    eps = torch.finfo(dtype).eps
    for shape, soft, weighted, smoothing, reduction in itertools.product(
        ((12, classes), (3, classes, 5)), (False, True), (False, True), (0.0, 0.3), ("none", "mean", "sum")
    ):
        x = (3 * torch.randn(shape)).to(dtype).requires_grad_()
        rows = shape[:1] + shape[2:]
        target = torch.rand(shape).softmax(1).to(dtype) if soft else torch.randint(0, classes, rows)
        if not soft:
            target.view(-1)[::4] = -100
        weight = (torch.rand(classes) + 0.5).to(dtype) if weighted else None
        options = {"reduction": reduction, "label_smoothing": smoothing}
        got = LF.cross_entropy(x, target, weight, **options)
        wide = x.detach().double().requires_grad_()
        truth = F.cross_entropy(
            wide, target.double() if soft else target, weight.double() if weighted else None, **options
        )
        scale = float(truth.detach().abs().max())
        torch.testing.assert_close(got.double(), truth, rtol=16 * eps, atol=2 * eps * scale)
        upstream = torch.linspace(0.5, 2.0, truth.numel(), dtype=torch.float64).reshape(truth.shape).to(dtype)
        (gradient,) = torch.autograd.grad(got, x, upstream)
        (right,) = torch.autograd.grad(truth, wide, upstream.double())
        largest = float(right.abs().max())
        # The truth is torch's in float64, so float64 is compared with its own errors.
        several = 1000 if dtype == torch.float64 else 1
        torch.testing.assert_close(gradient.double(), right, rtol=8 * several * eps, atol=4 * several * eps * largest)


def test_index_dtypes():
    x = torch.randn(6, 5, requires_grad=True)
    y = torch.tensor([0, 1, 2, 3, 4, 1])
    expected = LF.cross_entropy(x, y)
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32):
        assert torch.equal(LF.cross_entropy(x, y.to(dtype)), expected), dtype
        assert torch.equal(LF.nll_loss(x.log_softmax(1), y.to(dtype)), LF.nll_loss(x.log_softmax(1), y)), dtype
    pair = torch.randn(6, 2)
    assert torch.equal(LF.cross_entropy(pair, y > 1), LF.cross_entropy(pair, (y > 1).long()))


def test_ignore_index():
    """Any integer, inside the classes or outside; 255 in uint8; ignored rows are exact zeros, also from NaN."""
    for ignored in (-100, -1, 0, 3, 255, 10**12):
        dtype = torch.uint8 if ignored == 255 else torch.int64
        x = torch.randn(6, 5)
        y = torch.tensor([1, 2, 4, 1, 2, 4], dtype=dtype)
        y[[1, 4]] = ignored
        x[1] = math.nan
        x.requires_grad_()
        loss = LF.cross_entropy(x, y, ignore_index=ignored)
        loss.backward()
        kept = [0, 2, 3, 5]
        torch.testing.assert_close(loss, F.cross_entropy(x[kept], y[kept].long()))
        assert not x.grad[[1, 4]].any()
        assert LF.cross_entropy(x, y, ignore_index=ignored, reduction="none")[[1, 4]].tolist() == [0.0, 0.0]


def test_more_rows_than_half_counts():
    """The mean of 70,000 rows of halves: a count in float16 overflows at 65,504."""
    x = torch.zeros(70_000, 4, dtype=torch.float16, requires_grad=True)
    loss = LF.cross_entropy(x, torch.zeros(70_000, dtype=torch.int64))
    (1000 * loss.float()).backward()
    assert loss.item() == pytest.approx(math.log(4), rel=1e-3)
    assert x.grad.abs().max() > 0


@full("class scores: 200,000 of them")
def test_long_rows():
    """200,000 classes: the sum of the exponentials loses nothing."""
    torch.manual_seed(0)
    for dtype, allowed in ((torch.float32, 3), (torch.float64, 3)):
        x = (torch.randn(3, 200_000, dtype=torch.float64) * 3).to(dtype)
        y = torch.tensor([5, 77_777, 199_999])
        with mpmath.workdps(40):
            for row in range(3):
                z = [mpmath.mpf(v) for v in x[row].tolist()]
                truth = mpmath.log(mpmath.fsum(mpmath.exp(v) for v in z)) - z[int(y[row])]
                got = LF.cross_entropy(x[row], y[row]).item()
                unit = torch.finfo(dtype).eps * 2.0 ** (math.frexp(float(truth))[1] - 1)
                assert abs(float(got - truth)) <= allowed * unit


# ---------------------------------------------------------------------------------------------------------
# Limits. The truth about finite scores is in the proofs.


@pytest.mark.parametrize("classes", [2, 5, 20, 100])
@pytest.mark.parametrize("fused", [True, False])
def test_infinite_scores(classes, fused, monkeypatch):
    """Limits: a right class at +inf costs nothing, a wrong one everything; -inf has no probability."""
    if not fused:
        without_kernels(monkeypatch)
    inf = math.inf
    x = torch.zeros(6, classes)
    x[0, 0], x[1, 1], x[2, 0], x[4] = inf, inf, -inf, -inf
    x[3, 0] = x[3, 1] = inf
    x[5, 1:] = -inf
    y = torch.zeros(6, dtype=torch.int64)
    rows = LF.cross_entropy(x, y, reduction="none")
    assert rows[[0, 1, 2, 5]].tolist() == [0.0, inf, inf, 0.0]
    assert rows[3].item() == pytest.approx(math.log(2))
    assert rows[4].isnan()
    leaf = x[[0, 5]].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(LF.cross_entropy(leaf, y[:2]), leaf)
    assert not gradient.any()
    soft = torch.zeros(1, classes)
    soft[0, 0] = 1.0
    masked = torch.tensor([[1.0] + [-inf] * (classes - 1)], requires_grad=True)
    loss = LF.cross_entropy(masked, soft)
    assert loss == 0.0
    assert not torch.autograd.grad(loss, masked)[0].any()


def test_nll_is_the_second_half():
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    y = torch.randint(0, 5, (4, 3))
    weight = torch.rand(5, dtype=torch.float64)
    for reduction in ("none", "mean", "sum"):
        both = LF.nll_loss(x.log_softmax(1), y, weight, reduction=reduction)
        torch.testing.assert_close(both, LF.cross_entropy(x, y, weight, reduction=reduction))


@pytest.mark.parametrize("classes", [2, 7, 1000])
@pytest.mark.parametrize("layout", ["rows", "images", "columns", "steps"])
def test_nll_of_every_layout(classes, layout):
    """What is ignored or masked is 0 in loss and gradient, and so is what lies beside a target."""
    shape = {"images": (3, classes, 7, 30)}.get(layout, (630, classes))
    x = torch.randn(shape).log_softmax(1)
    x = {"columns": lambda: x.t().contiguous().t(), "steps": lambda: x.repeat_interleave(2, 1)[:, ::2]}.get(
        layout, lambda: x
    )()
    y = torch.randint(0, classes, (3, 7, 30) if layout == "images" else (630,))
    y.flatten()[::5] = -100
    weight, mask = torch.rand(classes), torch.rand(y.shape) > 0.3
    for extra in ({}, {"weight": weight}, {"mask": mask}, {"sample_weight": mask * 2.0, "weight": weight}):
        counts = extra.get("mask", torch.ones_like(y, dtype=torch.bool)) & (y != -100)
        ours, theirs = x.clone().requires_grad_(), x.clone().double().requires_grad_()
        loss = LF.nll_loss(ours, y, reduction="none", **extra)
        own = theirs.gather(1, y.clamp(min=0).unsqueeze(1)).squeeze(1)
        share = (weight.double()[y.clamp(min=0)] if "weight" in extra else 1.0) * extra.get("sample_weight", 1.0)
        expected = torch.where(counts, -own * share, 0.0)
        torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-7)
        for reduction in (lambda a: a.sum(), lambda a: (a * torch.arange(630.0).reshape(y.shape)).sum()):
            mine, truth = (torch.autograd.grad(reduction(a), b, retain_graph=True)[0]
                           for a, b in ((loss, ours), (expected, theirs)))  # fmt: skip
            torch.testing.assert_close(mine.double(), truth, rtol=1e-6, atol=1e-7)


# ---------------------------------------------------------------------------------------------------------
# Facts, measured


def test_facts():
    """Convex, smooth, with a gradient of at most sqrt(2) in the Euclidean norm, and 0 at best."""
    assert losskit.CrossEntropyLoss.facts == Facts(
        convex=True, smooth=True, lipschitz=2.0**0.5, minimum=0.0, symmetric=False
    )
    torch.manual_seed(0)
    a, b = 5 * torch.randn(500, 6, dtype=torch.float64), 5 * torch.randn(500, 6, dtype=torch.float64)
    y = torch.randint(0, 6, (500,))
    loss = lambda x: LF.cross_entropy(x, y, reduction="none")
    assert (loss((a + b) / 2) <= (loss(a) + loss(b)) / 2 + 1e-12).all()
    x = (30 * torch.randn(5000, 3, dtype=torch.float64)).requires_grad_()
    (gradient,) = torch.autograd.grad(LF.cross_entropy(x, torch.zeros(5000, dtype=torch.int64), reduction="sum"), x)
    norms = gradient.norm(dim=1)
    assert norms.max() <= 2**0.5 + 1e-12
    assert norms.max() > 2**0.5 - 1e-6
    assert loss(a).min() >= 0.0
    assert LF.cross_entropy(torch.tensor([800.0, 0.0]), torch.tensor(0)) == 0.0


def test_shift_invariance():
    x, y = torch.randn(8, 7, dtype=torch.float64), torch.randint(0, 7, (8,))
    torch.testing.assert_close(LF.cross_entropy(x + 3.25, y), LF.cross_entropy(x, y), rtol=1e-13, atol=0.0)
    order = torch.randperm(7)
    back = torch.argsort(order)
    torch.testing.assert_close(LF.cross_entropy(x[:, order], back[y]), LF.cross_entropy(x, y), rtol=1e-13, atol=0.0)


def test_two_classes_are_binary_cross_entropy():
    x = torch.linspace(-100, 100, 401, dtype=torch.float64)
    both = LF.cross_entropy(torch.stack([torch.zeros_like(x), x], 1), torch.ones(401).long(), reduction="none")
    binary = LF.binary_cross_entropy_with_logits(x, torch.ones_like(x), reduction="none")
    torch.testing.assert_close(both, binary, rtol=1e-14, atol=0.0)
