"""Images for the proofs of their losses, and the statistics of their windows with 66 digits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor


def pairs(n: int, g: torch.Generator, size: Sequence[int] = (1, 4, 5)) -> tuple[Tensor, ...]:
    """Images of n rows, and others that are more or less like them."""
    x = torch.rand(n, *size, generator=g, dtype=torch.float64)
    noise = torch.rand(n, *size, generator=g, dtype=torch.float64)
    share = torch.linspace(0.1, 0.9, n, dtype=torch.float64).reshape(-1, *[1] * len(size))
    return x, (1.0 - share) * x + share * noise


def gaussian(m: Any, size: int, sigma: Any) -> list[Any]:
    weights = [m.exp(-(((i - (size - 1) / m.one / 2) / sigma) ** 2) / 2) for i in range(size)]
    return [w / m.sum(weights) for w in weights]


def windows(m: Any, image: list[list[Any]], weights: list[Any]) -> list[list[tuple[tuple[int, int], Any]]]:
    """The pixels of each window inside of an image, with their weights."""
    size = len(weights)
    return [
        [((i + a, j + b), weights[a] * weights[b]) for a, b in product(range(size), repeat=2)]
        for i, j in product(range(len(image) - size + 1), range(len(image[0]) - size + 1))
    ]


def similar(m: Any, x: list[list[Any]], y: list[list[Any]], weights: list[Any], c1: Any, c2: Any) -> tuple[Any, Any]:
    """The means over windows of the similarity, and of contrast and structure alone."""
    whole, contrast = [], []
    for window in windows(m, x, weights):
        cells = [(w, x[i][j], y[i][j]) for (i, j), w in window]
        mx, my = m.sum(w * u for w, u, _ in cells), m.sum(w * v for w, _, v in cells)
        vx, vy = m.sum(w * (u - mx) ** 2 for w, u, _ in cells), m.sum(w * (v - my) ** 2 for w, _, v in cells)
        both = m.sum(w * (u - mx) * (v - my) for w, u, v in cells)
        contrast.append((2 * both + c2) / (vx + vy + c2))
        whole.append((2 * mx * my + c1) / (mx * mx + my * my + c1) * contrast[-1])
    return m.sum(whole) / len(whole), m.sum(contrast) / len(contrast)


def half(image: list[list[Any]]) -> list[list[Any]]:
    rows, columns = len(image) // 2, len(image[0]) // 2
    return [
        [sum(image[2 * i + a][2 * j + b] for a, b in product(range(2), repeat=2)) / 4 for j in range(columns)]
        for i in range(rows)
    ]
