"""Scores and targets of regions for proofs: a row is a class in all samples, by batch=True; and the sums of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

PIXELS = 7
OF_BATCH = (1, 1)  # the dimension of a row in scores and target
BATCH = {"batch": True}


def labels(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Scores of n classes for some pixels, and which of these each class has."""
    x = torch.randn(PIXELS, n, generator=g, dtype=torch.float64) * 2.0
    return x, (torch.rand(PIXELS, n, generator=g, dtype=torch.float64) < 0.4).double()


def shares(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Scores, and how much of each pixel a class has, in halves exactly."""
    x, _ = labels(n, g)
    return x, torch.randint(0, 17, (PIXELS, n), generator=g).double() / 16.0


class Sums(NamedTuple):
    """p, 1 - p and t of the pixels, and what is added up."""

    pixels: list[tuple[Any, Any, Any]]
    overlap: Any
    positives: Any
    negatives: Any
    soft_label: bool = False


def sums(m: Any, input: Any, target: Any, soft_label: bool = False) -> Sums:
    pixels = [(m.sigmoid(x), m.sigmoid(-x), t) for x, t in zip(input, target)]
    if soft_label:
        return Sums(
            pixels,
            m.sum(t if _above(p, q, t) else p for p, q, t in pixels),
            m.sum(p - t for p, q, t in pixels if _above(p, q, t)),
            m.sum(q * t - p * (1 - t) for p, q, t in pixels if not _above(p, q, t)),
            True,
        )
    return Sums(
        pixels,
        m.sum(p * t for p, _, t in pixels),
        m.sum(p * (1 - t) for p, _, t in pixels),
        m.sum(q * t for _, q, t in pixels),
    )


def gradient(found: Sums, by_overlap: Any, by_positives: Any, by_negatives: Any) -> list[tuple[Any, ...]]:
    """By the scores: what a pixel has to do with the class, and what it has not."""
    if found.soft_label:
        return [
            (p * q * by_positives if _above(p, q, t) else p * q * (by_overlap - by_negatives), 0 * p)
            for p, q, t in found.pixels
        ]
    return [
        (p * q * t * (by_overlap - by_negatives), p * q * (1 - t) * by_positives) for p, q, t in found.pixels
    ]  # fmt: skip


def _above(p: Any, q: Any, t: Any) -> bool:
    """Whether p > t, however near to 1."""
    return bool(p * (1 - t) > q * t)


def ratio(wrong: Any, both: Any, smooth: Any) -> tuple[Any, Any, Any]:
    """wrong / (both + wrong + smooth), its derivatives by wrong and by both."""
    size = both + wrong + smooth
    return wrong / size, (both + smooth) / size**2, -wrong / size**2


def extremes(part: float = 1.0, **given: Any) -> Callable[[torch.dtype], Any]:
    """Regions that are nearly right, nearly wrong, and without a pixel; scores from 0 to where nothing is left.

    part: of the largest scores, where a square has half the range.
    """

    def points(dtype: torch.dtype) -> Any:
        most = {torch.float16: 8.0, torch.bfloat16: 60.0, torch.float32: 80.0}.get(dtype, 600.0)
        size = torch.linspace(0.0, part * most, 24, dtype=torch.float64).to(dtype).double()
        g = torch.Generator().manual_seed(11)
        target = (torch.rand(PIXELS, 24, generator=g, dtype=torch.float64) < 0.5).double()
        target[0], target[1] = 1.0, 0.0
        right = (2.0 * target - 1.0) * size
        for x, t in ((right, target), (-right, target), (-size.expand(PIXELS, 24), torch.zeros_like(target))):
            yield (x, t), {**BATCH, "smooth": 1e-5, **given}

    return points
