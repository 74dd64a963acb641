"""Losses of regions as people write them in torch operations: the peers of their rows.

Operands are those of losskit's function of the same name; the result is the mean. Class indices are made one-hot, as
every library does.
"""

import torch
import torch.nn.functional as F


def _sums(input, target, activation, soft_label=False):
    """What both regions have, and their sizes; soft labels as MONAI and SMP make them."""
    p = input.softmax(1) if activation == "softmax" else input.sigmoid()
    t = F.one_hot(target, input.shape[1]).movedim(-1, 1).to(p.dtype) if target.ndim < input.ndim else target
    dims = tuple(range(2, input.ndim))
    predicted, actual = p.sum(dims), t.sum(dims)
    if soft_label:
        return 0.5 * (predicted + actual - (p - t).abs().sum(dims)), predicted, actual
    return (p * t).sum(dims), predicted, actual


def dice_loss(input, target, smooth=1e-5, activation="sigmoid", soft_label=False):
    overlap, predicted, actual = _sums(input, target, activation, soft_label)
    return (1 - (2 * overlap + smooth) / (predicted + actual + smooth)).mean()


def generalized_dice_loss(input, target, smooth=1e-5, activation="sigmoid"):
    overlap, predicted, actual = _sums(input, target, activation)
    weight = 1 / (actual * actual)
    weight = torch.where(torch.isinf(weight), torch.zeros_like(weight), weight)
    both = 2 * (weight * overlap).sum(1) + smooth
    return (1 - both / ((weight * (predicted + actual)).sum(1) + smooth)).mean()


def log_cosh_dice_loss(input, target, smooth=1e-5, activation="sigmoid"):
    overlap, predicted, actual = _sums(input, target, activation)
    return torch.log(torch.cosh(1 - (2 * overlap + smooth) / (predicted + actual + smooth))).mean()


def _tversky(input, target, alpha, beta, smooth, activation):
    overlap, predicted, actual = _sums(input, target, activation)
    wrong = alpha * (predicted - overlap) + beta * (actual - overlap)
    return 1 - (overlap + smooth) / (overlap + wrong + smooth)


def tversky_loss(input, target, alpha=0.5, beta=0.5, smooth=1e-5, activation="sigmoid"):
    return _tversky(input, target, alpha, beta, smooth, activation).mean()


def focal_tversky_loss(input, target, alpha=0.3, beta=0.7, gamma=0.75, smooth=1e-5, activation="sigmoid"):
    return (_tversky(input, target, alpha, beta, smooth, activation) ** gamma).mean()


def jaccard_loss(input, target, smooth=1e-5, activation="sigmoid"):
    overlap, predicted, actual = _sums(input, target, activation)
    return (1 - (overlap + smooth) / (predicted + actual - overlap + smooth)).mean()
