"""Class scores on a GPU: many rows, bad values, gradients, and what only a GPU has."""

import pytest
import torch
import torch.nn.functional as F
import triton.language as tl

import losskit
import losskit.functional as LF
from losskit.kernels import gpu
from losskit.kernels.gpu import class_scores

INF = float("inf")

# ---------------------------------------------------------------------------------------------------------
# Many rows


@pytest.mark.parametrize("programs", [1, 3])
def test_programs_take_several_tiles(programs, monkeypatch):
    monkeypatch.setattr(class_scores, "PROGRAMS", programs)
    for shape in ((300, 5), (3, 4, 100)):
        x, y = torch.randn(shape, requires_grad=True), torch.randint(0, shape[1], shape[:1] + shape[2:])
        got, want = LF.cross_entropy(x, y), F.cross_entropy(x, y)
        torch.testing.assert_close(got, want)
        torch.testing.assert_close(torch.autograd.grad(got, x), torch.autograd.grad(want, x))
        x = x.detach().log_softmax(1).requires_grad_()
        torch.testing.assert_close(LF.nll_loss(x, y), F.nll_loss(x, y))


def test_denominators_of_many_rows(monkeypatch):
    """One program counts, or several."""
    x, y = torch.randn(1100, 3), torch.randint(0, 3, (1100,))
    y[::3] = -100
    weight = torch.tensor([0.0, 1.0, 2.0])
    want = F.cross_entropy(x, y, weight)
    for counted in (8192, 1000):
        monkeypatch.setattr(class_scores, "COUNTED", counted)
        torch.testing.assert_close(LF.cross_entropy(x, y, weight), want)


def test_offsets_beyond_int32(monkeypatch, either):
    """The 64-bit path, on few elements: what it computes does not depend on their number."""
    monkeypatch.setattr(class_scores, "index_type", lambda numel: tl.int64)
    for shape in ((20, 30), (2, 5, 30)):
        x, y = torch.randn(shape, requires_grad=True), torch.randint(0, shape[1], shape[:1] + shape[2:])
        pairs = [torch.autograd.grad(f(x, y), x)[0] for f in (LF.cross_entropy, F.cross_entropy)]
        torch.testing.assert_close(*pairs)


def test_the_same_bits():
    x, y = torch.randn(200, 10), torch.randint(0, 10, (200,))
    assert len({LF.cross_entropy(x, y).item() for _ in range(3)}) == 1


# ---------------------------------------------------------------------------------------------------------
# Bad values


@pytest.mark.parametrize("mode", ["raise", "nan", "off"])
@pytest.mark.parametrize("wild", [6, -1, 255, -(2**63), 2**63 - 1])
def test_wild_indices(wild, mode, either):
    """NaN in every mode, no foreign memory, and the row is named."""
    for shape, place in (((4, 6), (2,)), ((2, 6, 3, 4), (1, 2, 3))):
        x = torch.zeros(shape, requires_grad=True)
        y = torch.ones(shape[:1] + shape[2:], dtype=torch.int64)
        y[place] = wild
        with losskit.checks(mode):
            for loss in (LF.cross_entropy, LF.nll_loss):
                rows = loss(x, y, reduction="none")
                assert rows.isnan().nonzero().tolist() == [list(place)]
                (gradient,) = torch.autograd.grad(rows.sum(), x)
                assert gradient.isnan().all(1).nonzero().tolist() == [list(place)]
                assert gradient.isnan().sum() == 6
                assert loss(x, y, torch.ones(6)).isnan()
                told = losskit.last_violation()
                if mode == "off":
                    assert told is None
                elif abs(wild) < 2**53:
                    assert told == refusal(loss, x, y)


def refusal(loss, *operands, **options):
    """What the CPU raises."""
    gpu.interpreted, before = False, gpu.interpreted
    try:
        with losskit.checks("raise"), pytest.raises(ValueError, match=r"^\w+: ") as refused:
            loss(*(x.detach().cpu() for x in operands), **options)
    finally:
        gpu.interpreted = before
    return str(refused.value)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2), (2, 0, 3, 1)], ids=str)
def test_bad_probabilities_and_log_probabilities(order, either):
    """Told by their place in the tensor, whatever the order of memory."""
    shape = (2, 6, 3, 4)
    back = [order.index(i) for i in range(4)]
    x = torch.zeros([shape[i] for i in order]).permute(back).requires_grad_()
    t = torch.full(shape, 1 / 6)
    t[1, 4, 2, 1] = 1.5
    rows = LF.cross_entropy(x, t, reduction="none")
    assert rows.isnan().nonzero().tolist() == [[1, 2, 1]]
    assert losskit.last_violation() == refusal(LF.cross_entropy, x, t)
    LF.cross_entropy(x, t, mask=~rows.isnan().detach())
    assert losskit.last_violation() is None
    with losskit.checks("off"):
        assert LF.cross_entropy(x, t).isfinite()
    y = torch.randint(0, 6, (2, 3, 4))
    with torch.no_grad():
        x -= 1.0
        x[1, int(y[1, 0, 3]), 0, 3] = 0.25
    rows = LF.nll_loss(x, y, reduction="none")
    (gradient,) = torch.autograd.grad(rows.sum(), x)
    assert rows.isnan().nonzero().tolist() == [[1, 0, 3]]
    assert gradient.isnan().all(1).nonzero().tolist() == [[1, 0, 3]]
    assert losskit.last_violation() == refusal(LF.nll_loss, x, y)


def test_rows_of_nothing_but_minus_infinity(either):
    x = torch.full((3, 20), -INF)
    x[0], x[2, 5] = 0.0, 1.0
    x.requires_grad_()
    rows = LF.cross_entropy(x, torch.tensor([0, 0, 5]), reduction="none")
    assert rows.isnan().tolist() == [False, True, False] and rows[2] == 0.0
    (gradient,) = torch.autograd.grad(rows.sum(), x)
    assert gradient[1].isnan().all() and not gradient[2].any()


# ---------------------------------------------------------------------------------------------------------
# Gradients, and what only a GPU has


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_upstream(dtype, either):
    """A loss scaler saves what 1/N leaves of a half; a second backward gives the same."""
    x, y = (3 * torch.randn(400, 7)).to(dtype).requires_grad_(), torch.randint(0, 7, (400,))
    y[::5] = -100
    for loss in (LF.cross_entropy, LF.nll_loss):
        given = x if loss is LF.cross_entropy else -x.detach().abs().requires_grad_()
        given.grad = None
        got = loss(given, y)
        for factor in (2.0**12, 1.0):
            (gradient,) = torch.autograd.grad(got.float() * factor, given, retain_graph=True)
            wide = given.detach().double().requires_grad_()
            torch_loss = F.cross_entropy if loss is LF.cross_entropy else F.nll_loss
            (right,) = torch.autograd.grad(torch_loss(wide, y) * factor, wide)
            eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
            atol = 8 * eps * float(right.abs().max()) + tiny
            torch.testing.assert_close(gradient.double(), right, rtol=16 * eps, atol=atol)


def test_double_backward():
    x, y = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randint(0, 3, (4,))
    assert torch.autograd.gradgradcheck(lambda x: LF.cross_entropy(x, y), [x])


@pytest.mark.parametrize("kind", ["indices", "smoothing", "probabilities", "nll"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_the_host_never_waits(reduction, kind, unwatched):
    x = torch.randn(30, 7).log_softmax(1).requires_grad_()
    y = torch.rand(30, 7) / 7 if kind == "probabilities" else torch.randint(0, 7, (30,))
    loss = LF.nll_loss if kind == "nll" else LF.cross_entropy
    options = {"label_smoothing": 0.1} if kind == "smoothing" else {}
    extras = [{}, {"mask": torch.rand(30) > 0.5, "sample_weight": torch.rand(30)}, {"normalizer": 5.0}]

    def call():
        for extra in extras:
            loss(x, y, torch.ones(7), reduction=reduction, **options, **extra).sum().backward()

    call()  # compiles, and copies parameters to the device
    with unwatched:
        call()


def test_no_kernel_for_statistics_of_log_probabilities():
    class OfBoth(losskit.ClassScoresLoss):
        """A loss of log-probabilities that smooths labels, for this test."""

        log_probabilities = True

        @staticmethod
        def value(log_probability):
            return -log_probability

    x, y = torch.randn(4, 3).log_softmax(1), torch.randint(0, 3, (4,))
    assert losskit.why(OfBoth(), x, y).implementation == "fused GPU kernel"
    why = losskit.why(OfBoth(label_smoothing=0.1), x, y)
    assert str(why) == "eager formula: there is no kernel for label smoothing of log-probabilities"
    got = OfBoth(label_smoothing=0.1)(x, y)
    torch.testing.assert_close(got, F.cross_entropy(x, y, label_smoothing=0.1))
