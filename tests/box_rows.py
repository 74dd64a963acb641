"""Boxes for the proofs of their losses, and what two boxes have in common, with derivatives by all corners."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from proofs import Example, Point
from torch import Tensor

DATA = """true = torch.rand(5, 4)
true[:, 2:] += true[:, :2] + 0.5  # (x1, y1, x2, y2): the second corner is right and below
predicted = true + 0.1 * torch.randn(5, 4)
eps = 1e-7"""
BY_HAND = """x1, y1, x2, y2 = predicted.unbind(-1)
u1, v1, u2, v2 = true.unbind(-1)
overlap = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp(min=0)
overlap = overlap * (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp(min=0)
union = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - overlap
iou = overlap / (union + eps)
around_w = torch.maximum(x2, u2) - torch.minimum(x1, u1)
around_h = torch.maximum(y2, v2) - torch.minimum(y1, v1)
"""


STEPS = {
    "around": "around = around_w * around_h",
    "distance": "distance = ((x1 + x2 - u1 - u2) / 2) ** 2 + ((y1 + y2 - v1 - v2) / 2) ** 2",
    "diagonal": "diagonal = around_w**2 + around_h**2",
    "aspect": "turned = torch.atan2(u2 - u1, v2 - v1) - torch.atan2(x2 - x1, y2 - y1)\naspect = 4 / torch.pi**2 * turned**2",
    "weight": "weight = aspect / (1.0 - iou + aspect + eps)",
}


def example(formula: str, steps: str, more: str = "") -> Example:
    """The worked example of a loss of boxes, whose formula speaks of iou, union and some of STEPS."""
    lines = [*(STEPS[name] for name in steps.split(", ")), f"by_hand = {formula}"]
    return Example(data=DATA, by_hand=BY_HAND + "\n".join(lines), operands="predicted, true", more=more)


def boxes(n: int, g: torch.Generator) -> tuple[Tensor, ...]:
    """Pairs of boxes, some of which overlap."""
    corners = torch.rand(2, n, 4, generator=g, dtype=torch.float64) * 3.0
    corners[..., 2:] += corners[..., :2] + 0.25
    return corners[0], corners[1]


def overlapping(dtype: torch.dtype) -> Iterator[Point]:
    """Boxes that overlap, at many sizes and places."""
    g = torch.Generator().manual_seed(1)
    for size in (1e-3, 1.0, 1e3):
        x, t = boxes(20, g)
        near = x + torch.randn(20, 4, generator=g, dtype=torch.float64) * 0.05
        yield (x * size, t * size), {"eps": 0.0}
        yield (x * size, near * size), {"eps": 0.0}


def pairs(dtype: torch.dtype) -> Iterator[Point]:
    """Boxes one in the other, beside each other, that touch, that share edges, that are the same."""
    sides = [(0.0, 1.0), (0.0, 2.0), (0.5, 1.5), (1.0, 2.0), (2.0, 3.0)]
    placed = [(x1, y1, x2, y2) for (x1, x2), (y1, y2) in itertools.product(sides, sides)]
    every = [*itertools.product(placed, placed)]
    x, t = (torch.tensor(part, dtype=torch.float64) for part in zip(*every, strict=True))
    yield (x, t), {}


class Corners:
    """Two boxes: areas of the overlap, of the union, and of the box around both, and how they change with a corner."""

    def __init__(self, m: Any, input: Sequence[Any], target: Sequence[Any]) -> None:
        self.m, self.boxes = m, (input, target)
        self.sizes = [(b[2] - b[0], b[3] - b[1]) for b in self.boxes]
        inner = [min(input[i + 2], target[i + 2]) - max(input[i], target[i]) for i in (0, 1)]
        self.inner = [max(x, m.zero) for x in inner]
        self.outer = [max(input[i + 2], target[i + 2]) - min(input[i], target[i]) for i in (0, 1)]
        self.overlap = self.inner[0] * self.inner[1]
        self.union = sum(w * h for w, h in self.sizes) - self.overlap
        self.around = self.outer[0] * self.outer[1]

    def distance_iou(self, eps: Any) -> tuple[tuple[Any, ...], dict[int, list[Any]]]:
        """The distance IoU loss as terms, and its derivatives by both boxes."""
        input, target = self.boxes
        u, diagonal = self.union + eps, self.outer[0] ** 2 + self.outer[1] ** 2 + eps
        centre = [(input[i] + input[i + 2] - target[i] - target[i + 2]) / 2 for i in (0, 1)]
        distance = centre[0] ** 2 + centre[1] ** 2
        slopes: dict[int, list[Any]] = {}
        for which in (0, 1):
            slopes[which] = []
            for i in range(4):
                overlap, area, _ = self.slopes(which, i)
                by_iou = (-overlap / u, self.overlap * area / u**2, -self.overlap * overlap / u**2)
                moved = (1 - 2 * which) * centre[i % 2] / diagonal
                grown = -distance * 2 * self.outer[i % 2] * self.side(which, i)[2] / diagonal**2
                slopes[which].append((*by_iou, moved, grown))
        return (self.m.one, -self.overlap / u, distance / diagonal), slopes

    def side(self, which: int, corner: int) -> tuple[Any, Any, Any]:
        """How the sides of the overlap, of the box itself and of the box around both grow with a coordinate."""
        m, own, other = self.m, self.boxes[which][corner], self.boxes[1 - which][corner]
        axis, upper = corner % 2, corner >= 2
        further = m.one / 2 if own == other else m.one if (own > other) == upper else m.zero
        sign = 1 if upper else -1
        inner = sign * (1 - further) if self.inner[axis] > 0 else m.zero
        return inner, sign * m.one, sign * further

    def slopes(self, which: int, corner: int) -> tuple[Any, Any, Any]:
        """The derivatives of the overlap, of the box's own area and of the area around both."""
        axis = corner % 2
        inner, own, outer = self.side(which, corner)
        return inner * self.inner[1 - axis], own * self.sizes[which][1 - axis], outer * self.outer[1 - axis]
