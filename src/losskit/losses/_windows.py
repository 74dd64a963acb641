"""What the structural similarities share: statistics of the windows of two images, and how unlike they are.

1. A window is Gaussian and separable: it is applied along one dimension after the other, as weighted sums of shifted
   images, which costs 1 ns a number and dimension where torch's convolution costs 5 (float32, one thread).
2. All is said in s, half the sum of both images, and d, their difference. With the means m and variances v in a window

       1 - luminance = m(d)^2 / (2 m(s)^2 + m(d)^2 / 2 + c1) = a
       1 - contrast  = v(d) / (2 v(s) + v(d) / 2 + c2) = b
       1 - S = a + b - a b

   so four filtered images do in place of five, and nothing cancels where the images are alike.
3. Variances are those of images less their own means: of bright flat images the difference of squares has no digits.
   The filters sum to 1, so the mean is a constant for derivatives.
4. On a CPU a few planes are done at a time, which stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED = 2**17  # numbers of an image that are done at a time
FEW = 2**12  # numbers that take less time than the operation on them

Window = Sequence[float]


def gaussian(size: int, sigma: float) -> list[float]:
    """The weights of a window along one dimension; their sum is 1."""
    weights = [math.exp(-0.5 * ((i - 0.5 * (size - 1)) / sigma) ** 2) for i in range(size)]
    return [weight / math.fsum(weights) for weight in weights]


def filtered(x: Tensor, window: Window) -> Tensor:
    """The means in all windows that are inside of the image."""
    for dim in range(2, x.ndim):
        n = x.shape[dim] - len(window) + 1
        found = x.narrow(dim, 0, n) * window[0]
        for i in range(1, len(window)):
            found.add_(x.narrow(dim, i, n), alpha=window[i])
        x = found
    return x


def spread(x: Tensor, window: Window) -> Tensor:
    """The adjoint of `filtered`: what all windows say of a pixel."""
    for dim in range(x.ndim - 1, 1, -1):
        n = x.shape[dim]
        found = x.new_zeros(*x.shape[:dim], n + len(window) - 1, *x.shape[dim + 1 :])
        for i in range(len(window)):
            found.narrow(dim, i, n).add_(x, alpha=window[i])
        x = found
    return x


def centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Images less their means, and the means."""
    mean = x.detach().mean(tuple(range(2, x.ndim)), keepdim=True)
    return x - mean, mean


def parted(input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Half the sum of two images, and their difference; new tensors."""
    return 0.5 * (input + target), input - target


def joined_gradients(by_half: Tensor, by_apart: Tensor) -> dict[str, Tensor]:
    """The gradients by two images, from half of that by half their sum, which is overwritten, and by the difference."""
    return {"input": by_half + by_apart, "target": by_half.sub_(by_apart)}


def unlike(half: Tensor, apart: Tensor, window: Window, c1: float | None, c2: float) -> Tensor:
    """One less the mean similarity of each plane, (N, C); without c1 that of the contrast alone."""
    half, half_mean = centred(half)
    apart, apart_mean = centred(apart)
    m, n = filtered(half, window), filtered(apart, window)
    v, w = filtered(half * half, window) - m * m, filtered(apart * apart, window) - n * n
    b = w / (2.0 * v + 0.5 * w + c2)
    dims = tuple(range(2, b.ndim))
    if c1 is None:
        return b.mean(dims)
    m, n = m + half_mean, n + apart_mean
    a = n * n / (2.0 * m * m + 0.5 * n * n + c1)
    return (a + b - a * b).mean(dims)


def unlike_by_gradients(half: Tensor, apart: Tensor, window: Window, c1: float | None, c2: float) -> Tensor:
    """The same. Half of the gradient by `half` takes its place, and the gradient by `apart` the place of that."""
    planes = half.shape[0] * half.shape[1]
    count = max(1, CACHED // max(1, half[:1, :1].numel())) if half.is_cpu else max(1, planes)
    loss = half.new_empty(half.shape[:2])
    halves, aparts = (x.view(planes, 1, *x.shape[2:]) for x in (half, apart))
    for start in range(0, planes, count):
        part = slice(start, start + count)
        loss.view(planes)[part] = _of_planes(halves[part], aparts[part], window, c1, c2)
    return loss


def _of_planes(half: Tensor, apart: Tensor, window: Window, c1: float | None, c2: float) -> Tensor:
    (s, mean), (d, off) = centred(half), centred(apart)
    m, n, v, w = _each(filtered, [s, d, s.square(), d.square()], window)
    v.addcmul_(m, m, value=-1.0)
    w.addcmul_(n, n, value=-1.0)
    dims, share = tuple(range(1, m.ndim)), 1.0 / m[0].numel()
    below = v.mul_(2.0).add_(w, alpha=0.5).add_(c2)
    b = w.div_(below)
    of_b = below.reciprocal_().mul_(share)  # what the loss changes by b, over the denominator of b
    if c1 is None:
        loss = b.mean(dims)
    else:
        mean, off = m + mean, n + off
        beneath = mean.square().mul_(2.0).addcmul_(off, off, value=0.5).add_(c1)
        a = off.square().div_(beneath)
        loss = torch.addcmul(a + b, a, b, value=-1.0).mean(dims)
        of_b.addcmul_(of_b, a, value=-1.0)
        of_a = (1.0 - b).div_(beneath).mul_(share)
    by_v = (b * of_b).mul_(-2.0)
    by_w = of_b.addcmul_(b, of_b, value=-0.5)
    by_m, by_n = m.mul_(by_v).mul_(-2.0), n.mul_(by_w).mul_(-2.0)
    if c1 is not None:
        by_m.addcmul_(mean.mul_(a), of_a, value=-4.0)
        by_n.addcmul_(off.mul_(2.0 - a), of_a)
    of_m, of_v, of_n, of_w = _each(spread, [by_m, by_v, by_n, by_w], window)
    torch.addcmul(of_m.mul_(0.5), s, of_v, out=half)
    torch.addcmul(of_n, d, of_w, value=2.0, out=apart)
    return loss


def _each(function: Callable[[Tensor, Window], Tensor], images: list[Tensor], window: Window) -> Sequence[Tensor]:
    """A function of each image; of small ones at once. An image has the same bits either way."""
    if images[0].numel() > FEW:
        return [function(x, window) for x in images]
    return function(torch.cat(images), window).chunk(len(images))


def halved(x: Tensor) -> Tensor:
    """The means of 2 x 2 (x 2) pixels; an odd last row is left out."""
    return F.avg_pool2d(x, 2) if x.ndim == 4 else F.avg_pool3d(x, 2)


def of_half(gradient: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient by an image of this shape of what has a gradient by its half."""
    share = 0.5 ** (gradient.ndim - 2)
    for dim in range(2, gradient.ndim):
        gradient = gradient.repeat_interleave(2, dim)
    left_out = [(0, shape[dim] - gradient.shape[dim]) for dim in range(gradient.ndim - 1, 1, -1)]
    return F.pad(gradient * share, [size for pair in left_out for size in pair])


def joined(losses: Tensor, exponents: Sequence[float]) -> Tensor:
    """One less the product of powers of similarities, which are one less the losses of scales (M, N, C).

    Where one of them is not positive the product is 0, and so is its gradient.
    """
    none = (losses >= 1.0).any(0)
    logs = torch.log1p(-torch.where(none, 0.0, losses))
    weights = torch.tensor(exponents, dtype=losses.dtype, device=losses.device).view(-1, 1, 1)
    return torch.where(none, 1.0, -torch.expm1((weights * logs).sum(0)))
