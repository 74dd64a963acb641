"""Centre lines of masks: plain twins in torch, the kernel, its gradient at ties, every way of autograd."""

import math

import pytest
import torch
import torch.nn.functional as F
from test_images import agree, images

import losskit.functional as LF
from losskit.families import centre_lines

G = torch.Generator().manual_seed(4)


def eroded_twin(x):
    """The least of the neighbours across a side: every pixel's, from an image with a border."""
    padded = F.pad(x, [1] * 2 * (x.ndim - 2), value=math.inf)
    found = x
    for dim in range(2, x.ndim):
        middle = padded
        for other in range(2, x.ndim):
            if other != dim:
                middle = middle.narrow(other, 1, x.shape[other])
        for start in range(3):
            found = torch.minimum(found, middle.narrow(dim, start, x.shape[dim]))
    return found


def skeleton_twin(x, iters):
    pool = F.max_pool2d if x.ndim == 4 else F.max_pool3d
    opened = lambda x: pool(eroded_twin(x), 3, 1, 1)
    found = F.relu(x - opened(x))
    for _ in range(iters):
        x = eroded_twin(x)
        more = F.relu(x - opened(x))
        found = found + F.relu(more - found * more)
    return found


def cldice_twin(p, t, iters=3, smooth=1.0):
    dims = tuple(range(2, p.ndim))
    s, q = skeleton_twin(p, iters), skeleton_twin(t, iters)
    precision = ((s * t).sum(dims) + smooth) / (s.sum(dims) + smooth)
    recall = ((q * p).sum(dims) + smooth) / (q.sum(dims) + smooth)
    return (1 - 2 * precision * recall / (precision + recall)).mean(1)


@pytest.mark.parametrize("shape", [(2, 2, 9, 8), (1, 1, 5, 6, 7)], ids=str)
@pytest.mark.parametrize("given", [{}, {"iters": 1, "smooth": 0.01}], ids=str)
def test_centre_lines(shape, given):
    agree(
        lambda p, t: LF.soft_cldice_loss(p, t, reduction="none", **given),
        lambda p, t: cldice_twin(p, t, **given),
        *images(*shape),
    )


def outside_and_slopes(x, y, iters, upstream):
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_()
    found = centre_lines.lines_outside(x, y, iters)
    return found.detach(), *torch.autograd.grad(found, (x, y), upstream)


@pytest.mark.parametrize("levels", [2, 4, 10**6])
@pytest.mark.parametrize("iters", [1, 3, 6])
@pytest.mark.parametrize(
    "shape",
    [(1, 2, 1, 1), (2, 1, 1, 5), (1, 2, 5, 1), (2, 2, 7, 16), (1, 2, 40, 33), (1, 2, 1, 1, 1), (1, 2, 1, 6, 5),
     (2, 1, 3, 4, 5), (1, 1, 9, 7, 18), (1, 1, 20, 3, 4)], ids=str,
)  # fmt: skip
def test_the_kernel_of_centre_lines_agrees_with_torch(shape, iters, levels, monkeypatch):
    """Also where neighbours are alike, of which torch gives the gradient to the first; of a part of the gradients, too."""
    x, y = (torch.randint(0, levels, shape, generator=G).double() / (levels - 1) for _ in range(2))
    upstream = torch.randn(*shape[:2], 2, generator=G, dtype=torch.float64)
    double = outside_and_slopes(x, y, iters, upstream)
    rounded = x.float(), y.float(), iters, upstream.float()
    single = outside_and_slopes(*rounded)
    for i, name in ((0, "x"), (1, "y")):
        masks = {"x": x, "y": y}
        masks[name] = masks[name].detach().requires_grad_()
        (alone,) = torch.autograd.grad(centre_lines.lines_outside(**masks, iters=iters), masks[name], upstream)
        assert alone.equal(double[1 + i])
    monkeypatch.setattr(centre_lines, "helps", lambda _: False)
    expected = outside_and_slopes(x, y, iters, upstream)
    alike = outside_and_slopes(*(v.double() if torch.is_tensor(v) else v for v in rounded))
    for got, other, right, near in zip(double, single, expected, alike, strict=True):
        torch.testing.assert_close(got, right, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(other, near, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_centre_lines_by_every_way_of_autograd():
    x, y = (v.requires_grad_() for v in images(2, 2, 9, 8))
    masked = torch.ones(2, dtype=torch.bool)
    loss, general = LF.soft_cldice_loss(x, y), LF.soft_cldice_loss(x, y, mask=masked)
    expected = torch.func.grad(LF.soft_cldice_loss, (0, 1))(x.detach(), y.detach())
    for value in (loss, general):
        for _ in range(2):
            found = torch.autograd.grad(value, (x, y), retain_graph=True)
            torch.testing.assert_close(found, expected)
            for slope in found:
                slope.zero_()  # it is the user's
    several = torch.tensor([1.0, -2.0], dtype=torch.float64)
    found = torch.autograd.grad(loss, (x, y), several, retain_graph=True, is_grads_batched=True)
    torch.testing.assert_close(found, tuple(torch.stack([slope, -2.0 * slope]) for slope in expected))
    torch.testing.assert_close(torch.autograd.grad(loss, (x, y), create_graph=True), expected)


def test_centre_lines_of_any_number_of_threads():
    x, y = images(7, 3, 65, 50, dtype=torch.float32)
    results, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            results.append(outside_and_slopes(x, y, 3, torch.ones(7, 3, 2)))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_published_harmonic_mean():
    """The catalogue's skeletons are of no image; so is the loss of them here."""
    s, p, q, t = (torch.tensor(x) for x in ([0.0, 0.8, 0, 0.1], [0.2, 0.9, 0.3, 0.1], [0.0, 1, 0, 0], [1.0, 1, 0, 0]))
    precision, recall = ((s * t).sum() + 1) / (s.sum() + 1), ((q * p).sum() + 1) / (q.sum() + 1)
    assert (1 - 2 * precision * recall / (precision + recall)).item() == pytest.approx(0.0513176, abs=1e-6)


def test_a_gap_costs_more_than_a_thinner_line():
    line = torch.zeros(1, 1, 24, 24)
    line[..., 10:15, :] = 1.0
    thin, gap = line.clone(), line.clone()
    thin[..., 10, :] = 0.0
    gap[..., 8:12] = 0.0
    assert LF.soft_cldice_loss(line, line).item() == 0.0
    assert LF.soft_cldice_loss(gap, line) > 2 * LF.soft_cldice_loss(thin, line)


def test_empty_masks():
    nothing, line = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    line[..., 3, :] = 1.0
    assert LF.soft_cldice_loss(nothing, nothing).item() == 0.0
    assert 0.0 < LF.soft_cldice_loss(nothing, line).item() < 1.0
    assert 0.0 < LF.soft_cldice_loss(line, nothing).item() < 1.0
