"""Soft alignments on a GPU: the loss and its gradients against torch's operations, lengths, extremes."""

import math

import pytest
import torch

import losskit
from losskit.families import warping
from losskit.functional import soft_dtw_loss as soft_dtw
from losskit.kernels.gpu import warping as kernels

LENGTHS, OTHERS = [4, 2, 0, 1], [1, 3, 3, 0]


def batch(n=4, steps=4, others=3, features=2, dtype=torch.float64):
    g, device = torch.Generator(device="cpu").manual_seed(0), torch.get_default_device()
    made = (torch.randn(n, k, features, dtype=torch.float64, generator=g, device="cpu") for k in (steps, others))
    return [x.to(device, dtype).requires_grad_() for x in made]


def results(*operands, **kwargs):
    leaves = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in operands]
    loss = soft_dtw(*leaves, **kwargs)
    return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves[:2])]


def agree(*operands, monkeypatch, within=1e-12, **kwargs):
    """Value and gradients with the kernel, which must be those without."""
    ours = results(*operands, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(warping, "kernel_of", lambda *_: None)
        for got, expected in zip(ours, results(*operands, **kwargs), strict=True):
            torch.testing.assert_close(got, expected, rtol=within, atol=within, equal_nan=True)
    return ours


def test_the_kernel_runs(monkeypatch):
    why = losskit.why(losskit.SoftDTWLoss(), *batch())
    assert why.implementation == "eager formula"
    assert why.reason.endswith("; alignments, and the gradient of them, in a fused GPU kernel")
    called, own = [], kernels.soft_alignment

    def counted(*args):
        called.append(args)
        own(*args)

    monkeypatch.setattr(kernels, "soft_alignment", counted)
    soft_dtw(*batch()).backward()
    assert len(called) == 1
    with torch.no_grad():
        soft_dtw(*batch(), normalize=True)
    assert len(called) == 4


@pytest.mark.parametrize(
    ("steps", "others", "features"), [(1, 1, 1), (5, 4, 2), (3, 37, 3), (37, 3, 1), (1, 6, 2), (4, 4, 0)]
)
@pytest.mark.parametrize("gamma", [1e-3, 0.7, 1e4])
def test_alignments(steps, others, features, gamma, monkeypatch):
    """Losses, and the probability of each cell; beyond the lengths it is 0."""
    x, y = batch(3, steps, others, features)
    given = (x, torch.tensor([1, steps, (steps + 1) // 2])), (y, torch.tensor([others, 1, others])), gamma
    loss, at = warping.alignment_of(*given)
    with torch.no_grad():
        alone = warping.aligned(*given)
    monkeypatch.setattr(warping, "kernel_of", lambda *_: None)
    with torch.no_grad():
        found = *warping.alignment_of(*given), warping.aligned(*given)
    for got, expected in zip((loss, at, alone), found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(loss, alone)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_reductions_and_lengths(reduction, normalize, monkeypatch):
    """What stands beyond the lengths is not read; a series of length 0 has no loss."""
    x, y = (z.detach() for z in batch())
    lengths = [torch.tensor(n) for n in (LENGTHS, OTHERS)]
    for z, n in zip((x, y), lengths, strict=True):
        z[torch.arange(z.shape[1]) >= n.unsqueeze(1)] = math.nan
    extras = {"gamma": 0.5, "reduction": reduction, "sample_weight": torch.tensor([1.0, 2.0, 3.0, 4.0]).double()}
    loss, *gradients = agree(x, y, *lengths, normalize=normalize, monkeypatch=monkeypatch, **extras)
    assert loss.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_dtypes(dtype, within, monkeypatch):
    agree(*batch(dtype=dtype), monkeypatch=monkeypatch, within=within)


def test_strides_and_masks(monkeypatch):
    x, y = batch()
    spread = x.detach().mT.contiguous().mT, y.detach().expand(2, -1, -1, -1)[1]
    hidden = spread[0].clone()
    hidden[1] = math.nan
    loss, gradient, _ = agree(hidden, spread[1], mask=torch.tensor([True, False, True, True]), monkeypatch=monkeypatch)
    assert loss.isfinite()
    assert gradient[1].count_nonzero() == 0


def test_nothing():
    x, y = batch()
    assert soft_dtw(x[:0], y[:0], reduction="none").shape == (0,)
    assert soft_dtw(x[:0], y[:0], reduction="sum") == 0


def test_extremes():
    x = torch.tensor([[[0.0], [1e2], [-1e2]]], requires_grad=True)
    y = torch.tensor([[[-30.0], [1e2]]])
    for gamma in (1e-8, 1.0, 1e8):
        loss = soft_dtw(x, y, gamma=gamma, reduction="sum")
        assert torch.autograd.grad(loss, x)[0].isfinite().all()
    far = torch.tensor([[[1e25], [-1e25]]], dtype=torch.float64)
    assert soft_dtw(far, -far).item() == pytest.approx(8e50)
    assert soft_dtw(far * 1e150, far).item() == math.inf
    x = x.detach().clone()
    x[0, 1] = math.nan
    assert soft_dtw(x, y).isnan()


def test_second_derivatives_run_in_torch():
    x, y = batch(2, 3, 2, 1)
    assert torch.autograd.gradgradcheck(lambda x, y: soft_dtw(x, y, gamma=0.7), (x, y))


def test_more_steps_than_lanes(monkeypatch):
    monkeypatch.setattr(kernels, "MOST", 2)
    assert losskit.why(losskit.SoftDTWLoss(), *batch()).reason.endswith("no kernel computes all of it")
    soft_dtw(*batch()).backward()


def test_the_host_does_not_wait(unwatched):
    x, y = batch()
    with unwatched:
        loss = soft_dtw(x, y)
        gradients = torch.autograd.grad(loss, (x, y))
    assert all(gradient.isfinite().all() for gradient in gradients)
