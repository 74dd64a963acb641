"""Losses of images and masks as people write them in torch, for the benchmarks."""

import torch
import torch.nn.functional as F


def boundary_loss(input, distance_map):
    return (input * distance_map).mean()


def hausdorff_dt_loss(input, target, input_distance, target_distance, alpha=2.0):
    return ((input - target) ** 2 * (input_distance**alpha + target_distance**alpha)).mean()


def _similarity(x, y, size=11, sigma=1.5, c1=1e-4, c2=9e-4):
    """The similarity and the contrast of windows, filtered by a square window, as libraries do."""
    weights = torch.exp(-((torch.arange(size, dtype=x.dtype, device=x.device) - size // 2) ** 2) / (2 * sigma**2))
    weights = weights / weights.sum()
    kernel = torch.outer(weights, weights).expand(x.shape[1], 1, size, size)

    def mean(image):
        return F.conv2d(image, kernel, groups=image.shape[1])

    mx, my = mean(x), mean(y)
    vx, vy, both = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    contrast = (2 * both + c2) / (vx + vy + c2)
    return (2 * mx * my + c1) / (mx * mx + my * my + c1) * contrast, contrast


def ssim_loss(input, target):
    return 1.0 - _similarity(input, target)[0].mean()


def ms_ssim_loss(input, target):
    product, (input, target) = 1.0, (input.double(), target.double())  # float32 loses its digits in five scales
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        whole, contrast = _similarity(input, target)
        product = product * F.relu((whole if scale == 4 else contrast).mean((2, 3))) ** (weight / 1.0001)
        input, target = F.avg_pool2d(input, 2), F.avg_pool2d(target, 2)
    return 1.0 - product.mean()


def _eroded(x):
    return torch.minimum(-F.max_pool2d(-x, (3, 1), 1, (1, 0)), -F.max_pool2d(-x, (1, 3), 1, (0, 1)))


def _skeleton(x, iters):
    found = F.relu(x - F.max_pool2d(_eroded(x), 3, 1, 1))
    for _ in range(iters):
        x = _eroded(x)
        more = F.relu(x - F.max_pool2d(_eroded(x), 3, 1, 1))
        found = found + F.relu(more - found * more)
    return found


def soft_cldice_loss(input, target, iters=3, smooth=1.0):
    of_input, of_target = _skeleton(input, iters), _skeleton(target, iters)
    precision = ((of_input * target).sum((2, 3)) + smooth) / (of_input.sum((2, 3)) + smooth)
    sensitivity = ((of_target * input).sum((2, 3)) + smooth) / (of_target.sum((2, 3)) + smooth)
    return (1.0 - 2.0 * precision * sensitivity / (precision + sensitivity)).mean()
