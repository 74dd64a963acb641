"""Losses of whole images: published numbers, plain twins in torch, volumes, scales, derivatives, what is refused."""

import math

import pytest
import torch
import torch.nn.functional as F

import losskit
import losskit.functional as LF
from losskit.losses import _windows

G = torch.Generator().manual_seed(3)
WAVES = torch.tensor([[((3 * i + 5 * j) % 7) / 8 for j in range(8)] for i in range(8)], dtype=torch.float64)[None, None]
MOVED = torch.tensor([[((3 * i + 5 * j + 1) % 7) / 8 for j in range(8)] for i in range(8)])[None, None].double()
FLAT = 0.5 * WAVES + 0.25


def images(*shape, dtype=torch.float64):
    """Images, and noisy ones."""
    x = torch.rand(shape, generator=G, dtype=torch.float64)
    return x.to(dtype), (0.75 * x + 0.25 * torch.rand(shape, generator=G, dtype=torch.float64)).to(dtype)


def twin(x, y, size=11, sigma=1.5, data_range=1.0, k1=0.01, k2=0.03):
    """The similarity in each window as books have it, and contrast and structure alone: filters that are not separated."""
    space = x.ndim - 2
    place = torch.arange(size, dtype=x.dtype) - 0.5 * (size - 1)
    weights = torch.exp(-(place**2) / (2 * sigma**2))
    kernel = weights / weights.sum()
    for _ in range(space - 1):
        kernel = kernel.unsqueeze(-1) * (weights / weights.sum())
    kernel = kernel.expand(x.shape[1], 1, *kernel.shape)
    filter = lambda v: (F.conv2d if space == 2 else F.conv3d)(v, kernel, groups=x.shape[1])
    c1, c2 = (k1 * data_range) ** 2, (k2 * data_range) ** 2
    mx, my = filter(x), filter(y)
    vx, vy, both = filter(x * x) - mx * mx, filter(y * y) - my * my, filter(x * y) - mx * my
    contrast = (2 * both + c2) / (vx + vy + c2)
    return (2 * mx * my + c1) / (mx * mx + my * my + c1) * contrast, contrast


def twin_of_scales(x, y, exponents, **given):
    product, dims = 1.0, tuple(range(2, x.ndim))
    for scale, exponent in enumerate(exponents):
        whole, contrast = twin(x, y, **given)
        product = product * (whole if scale == len(exponents) - 1 else contrast).mean(dims).clamp(min=0) ** exponent
        x, y = ((F.avg_pool2d if x.ndim == 4 else F.avg_pool3d)(v, 2) for v in (x, y))
    return (1 - product).mean(1)


def agree(call, other, *tensors):
    """Values, and the gradients in the ordinary call and in a transform."""
    leaves = [x.clone().requires_grad_() for x in tensors]
    got, expected = call(*leaves), other(*leaves)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-14)
    wanted = torch.autograd.grad(expected.sum(), leaves)
    places = tuple(range(len(tensors)))
    transformed = torch.func.grad(lambda *x: call(*x).sum(), places)(*tensors)
    for slope, alike, exact in zip(torch.autograd.grad(got.sum(), leaves), transformed, wanted, strict=True):
        torch.testing.assert_close(slope, exact, rtol=1e-8, atol=1e-13)
        torch.testing.assert_close(alike, exact, rtol=1e-8, atol=1e-13)


# ---------------------------------------------------------------------------------------------------------
# Similarity


def test_published_numbers():
    assert LF.ssim_loss(WAVES, MOVED, window_size=3).item() == pytest.approx(0.731850, abs=5e-7)
    assert LF.ssim_loss(WAVES, FLAT, window_size=3).item() == pytest.approx(0.207851, abs=5e-7)
    window = _windows.gaussian(3, 1.5)
    half, apart = _windows.parted(WAVES, FLAT)
    finest = _windows.unlike(half, apart, window, None, 9e-4)
    coarse = _windows.unlike(_windows.halved(half), _windows.halved(apart), window, 1e-4, 9e-4)
    assert _windows.joined(torch.stack([finest, coarse]), [0.4, 0.6]).item() == pytest.approx(0.186046, abs=5e-7)


@pytest.mark.parametrize("shape", [(2, 3, 12, 14), (1, 1, 11, 11), (3, 2, 11, 40)], ids=str)
def test_as_the_books_have_it(shape):
    agree(
        lambda x, y: LF.ssim_loss(x, y, reduction="none"),
        lambda x, y: 1 - twin(x, y)[0].mean((1, 2, 3)),
        *images(*shape),
    )


def test_parameters():
    given = {"sigma": 0.8, "data_range": 3.0, "k1": 0.1, "k2": 0.2}
    for size in (1, 2, 4, 5):
        agree(
            lambda x, y, n=size: LF.ssim_loss(x, y, window_size=n, **given),
            lambda x, y, n=size: 1 - twin(x, y, n, **given)[0].mean(),
            *images(2, 2, 6, 7),
        )


def test_volumes():
    x, y = images(2, 2, 5, 6, 7)
    agree(lambda x, y: LF.ssim_loss(x, y, window_size=3), lambda x, y: 1 - twin(x, y, 3)[0].mean(), x, y)
    exponents = [0.0448 / 0.3304, 0.2856 / 0.3304]
    agree(
        lambda x, y: LF.ms_ssim_loss(x, y, window_size=2, scales=2, reduction="none"),
        lambda x, y: twin_of_scales(x, y, exponents, size=2), x, y,
    )  # fmt: skip


@pytest.mark.parametrize(("shape", "size"), [((2, 2, 48, 48), 3), ((1, 1, 37, 35), 2)], ids=str)
def test_five_scales(shape, size):
    """Odd sides lose their last row."""
    exponents = [w / 1.0001 for w in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)]
    agree(
        lambda x, y: LF.ms_ssim_loss(x, y, window_size=size, reduction="none"),
        lambda x, y: twin_of_scales(x, y, exponents, size=size), *images(*shape),
    )  # fmt: skip


def test_one_scale_is_ssim():
    x, y = images(2, 3, 13, 12)
    torch.testing.assert_close(LF.ms_ssim_loss(x, y, scales=1), LF.ssim_loss(x, y), rtol=1e-12, atol=0.0)


def test_many_planes_and_few():
    """Planes are done a few at a time."""
    x, y = images(3, 5, 12, 13)
    expected = LF.ssim_loss(x, y.requires_grad_(), reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), y)
    for cached in (1, 12 * 13 * 4, 10**9):
        before, _windows.CACHED = _windows.CACHED, cached
        try:
            found = LF.ssim_loss(x, y, reduction="none")
            torch.testing.assert_close(found, expected, rtol=1e-14, atol=0.0)
            torch.testing.assert_close(torch.autograd.grad(found.sum(), y)[0], slope, rtol=1e-12, atol=1e-18)
        finally:
            _windows.CACHED = before


@pytest.mark.parametrize("apart", [1e-2, 1e-4, 1e-6])
def test_images_that_are_nearly_alike_keep_their_digits(apart):
    """1 - S has none left of float32 where S is nearly 1."""
    x = torch.rand(1, 1, 32, 32, generator=G)
    y = x + apart * torch.randn(1, 1, 32, 32, generator=G)
    for name, given in (("ssim_loss", {}), ("ms_ssim_loss", {"scales": 2})):
        exact = losskit.get(name).functional(x.double(), y.double(), **given).item()
        assert losskit.get(name).functional(x, y, **given).item() == pytest.approx(exact, rel=1e-5)


def test_bright_flat_images():
    """Differences of squares have no digits there: of a mean of 1000 and a deviation of 1, float32 loses 6."""
    x, y = images(1, 1, 16, 16, dtype=torch.float32)
    x, y = (1000 + torch.round(v * 256) / 256 for v in (x, y))
    exact = LF.ssim_loss(x.double(), y.double(), data_range=1.0).item()
    assert LF.ssim_loss(x, y, data_range=1.0).item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("name", ["ssim_loss", "ms_ssim_loss"])
def test_a_copy_has_no_loss(name):
    given = {"scales": 2} if name == "ms_ssim_loss" else {}
    for x in (images(2, 1, 24, 24)[0], torch.zeros(1, 1, 24, 24), torch.full((1, 2, 24, 24), 1e6)):
        x = x.clone().requires_grad_()
        loss = losskit.get(name).functional(x, x.detach(), **given)
        assert loss.item() == 0.0
        assert not torch.autograd.grad(loss, x)[0].any()


def test_negative_contrast():
    """The loss is 1 where a scale has no similarity on average, and nothing pulls there."""
    x = images(2, 1, 8, 8)[0]
    both = torch.cat([x[:1], x[:1]])
    other = torch.cat([1 - x[:1], 0.5 * x[:1]]).requires_grad_()
    loss = LF.ms_ssim_loss(both, other, window_size=3, scales=2, reduction="none")
    assert loss[0].item() == 1.0 and 0.0 < loss[1].item() < 1.0
    (slope,) = torch.autograd.grad(loss.sum(), other)
    assert not slope[0].any() and slope[1].any() and slope.isfinite().all()
    found = torch.func.grad(lambda y: LF.ms_ssim_loss(both, y, window_size=3, scales=2, reduction="sum"))(
        other.detach()
    )
    torch.testing.assert_close(found, slope)


# ---------------------------------------------------------------------------------------------------------
# All of them

CALLS = {
    "ssim_loss": {"window_size": 3},
    "ms_ssim_loss": {"window_size": 2, "scales": 2},
    "soft_cldice_loss": {"iters": 1},
}


@pytest.mark.parametrize("name", CALLS)
def test_derivatives(name):
    x, y = (v.requires_grad_() for v in images(2, 1, 5, 4))
    loss = lambda x, y: losskit.get(name).functional(x, y, **CALLS[name])
    assert torch.autograd.gradcheck(loss, (x, y), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(loss, (x, y))


@pytest.mark.parametrize("name", CALLS)
def test_masked_images(name):
    """A hidden image is an exact zero, also from NaN, and does not count."""
    x, y = images(3, 2, 6, 6)
    loss = lambda *args, **given: losskit.get(name).functional(*args, **CALLS[name], **given)
    kept = torch.tensor([True, False, True])
    bad = x.clone()
    bad[1] = math.nan
    bad.requires_grad_()
    found = loss(bad, y, mask=kept)
    torch.testing.assert_close(found, loss(x[kept], y[kept]))
    assert not torch.autograd.grad(found, bad)[0][1].any()
    assert loss(bad, y, mask=kept, reduction="none")[1].item() == 0.0
    weights = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)
    each = loss(x, y, reduction="none")
    torch.testing.assert_close(loss(x, y, sample_weight=weights), (each * weights).sum() / 4)


@pytest.mark.parametrize("name", CALLS)
def test_layouts_and_halves(name):
    loss = lambda *args: losskit.get(name).functional(*args, **CALLS[name])
    x, y = images(2, 3, 8, 6)
    expected = loss(x, y)
    torch.testing.assert_close(loss(x.to(memory_format=torch.channels_last), y), expected)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    found = loss(strided, y)
    torch.testing.assert_close(found, expected)
    (slope,) = torch.autograd.grad(found, strided)
    torch.testing.assert_close(slope, torch.autograd.grad(loss(x.requires_grad_(), y), x)[0])
    for dtype in (torch.bfloat16, torch.float16):
        a, b = x.detach().to(dtype), y.to(dtype)
        assert loss(a, b).dtype == dtype
        torch.testing.assert_close(loss(a, b), loss(a.float(), b.float()).to(dtype), rtol=0.0, atol=0.0)
    empty = x[:0].detach().requires_grad_()
    assert loss(empty, y[:0]).isnan()


@pytest.mark.parametrize("name", CALLS)
def test_compiled_and_mapped(name):
    loss = lambda x, y: losskit.get(name).functional(x, y, **CALLS[name])
    x, y = images(2, 1, 6, 6, dtype=torch.float32)
    torch.testing.assert_close(torch.compile(loss, backend="aot_eager", fullgraph=True)(x, y), loss(x, y))
    many = torch.func.vmap(loss)(torch.stack([x, y]), torch.stack([y, y]))
    torch.testing.assert_close(many, torch.stack([loss(x, y), loss(y, y)]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_no_kernel_and_why(name):
    x, y = images(2, 1, 6, 6)
    told = str(losskit.why(losskit.get(name)(**CALLS[name]), x, y))
    assert "composed" in told
    assert ("centre lines, their sums and the gradient of them in a fused CPU kernel" in told) == ("cldice" in name)


@pytest.mark.parametrize(
    ("name", "shapes", "given", "told"),
    [
        ("ssim_loss", ((1, 1, 9, 16),) * 2, {}, "input must be of shape (N, C, H, W) or (N, C, D, H, W) with H at least 11"),
        ("ssim_loss", ((1, 1, 4, 16), (1, 1, 4, 15)), {"window_size": 3}, "input (1, 1, 4, 16) and target (1, 1, 4, 15) must"),
        ("ssim_loss", ((16, 16),) * 2, {}, "input must be of shape (N, C, H, W) or (N, C, D, H, W), got shape (16, 16)"),
        ("ssim_loss", ((1, 1, 16, 16),) * 2, {"data_range": 0.0}, "data_range must be positive, got 0.0"),
        ("ssim_loss", ((1, 1, 16, 16),) * 2, {"window_size": 0}, "window_size must be at least 1, got 0"),
        ("ssim_loss", ((1, 1, 16, 16),) * 2, {"window_size": 3.5}, "window_size must be an integer, got 3.5"),
        ("ms_ssim_loss", ((1, 1, 200, 175),) * 2, {}, "input must be of shape (N, C, H, W) or (N, C, D, H, W) with W at least 176"),
        ("ms_ssim_loss", ((1, 1, 16, 16),) * 2, {"scales": 6}, "scales must be from 1 to 5, got 6"),
        ("soft_cldice_loss", ((1, 1, 4, 4),) * 2, {"iters": 0}, "iters must be at least 1, got 0"),
    ],
    ids=str,
)  # fmt: skip
def test_refusals(name, shapes, given, told):
    x, y = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(losskit.LossError) as caught:
        losskit.get(name).functional(x, y, **given)
    assert str(caught.value).startswith(f"{name}: {told}")


def test_scores_for_probabilities_are_refused():
    with pytest.raises(losskit.LossValueError, match="For raw scores pass their sigmoid"):
        LF.soft_cldice_loss(torch.full((1, 1, 4, 4), 3.0), torch.zeros(1, 1, 4, 4))
