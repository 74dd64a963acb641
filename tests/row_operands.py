"""Operands that losses of rows share, for their proofs; what one loss alone takes is made in its own proof."""

from __future__ import annotations

import torch
from torch import Tensor

CLASSES, WIDTH = 5, 7
WEIGHT = torch.linspace(0.5, 2.0, CLASSES, dtype=torch.float64)


def normal(*shape: int, g: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=g, dtype=torch.float64) * 2.0


def labels(*shape: int, g: torch.Generator) -> Tensor:
    return torch.randint(0, CLASSES, shape, generator=g)


def indices(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Scores, and the class of each row."""
    return normal(n, CLASSES, g=g), labels(n, g=g)


def every_scale(dtype: torch.dtype) -> tuple[float, ...]:
    """Magnitudes from subnormal numbers to the largest."""
    if dtype == torch.float64:
        return (1e-320, 1e-300, 1e-160, 1e-10, 1.0, 1e100, 1e160, 1e307)
    if dtype == torch.float16:
        return (1e-7, 1e-4, 1e-2, 1.0, 1e2, 1e4)
    return (1e-43, 1e-38, 1e-20, 1e-10, 1e-3, 1.0, 1e10, 1e20, 5e37)


def triplets(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Embeddings: anchors, positives, negatives."""
    return normal(n, WIDTH, g=g), normal(n, WIDTH, g=g), normal(n, WIDTH, g=g)
