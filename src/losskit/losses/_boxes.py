"""What the losses of boxes share: the operands, and the areas of two boxes, their overlap, union and enclosure.

A box is (x1, y1, x2, y2), two corners. Where an edge of one box is at an edge of the other, the derivative is shared by
the two, so that it is 0 where the boxes are the same.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from losskit.declaration import Operand, param
from losskit.domains import Interval, nonnegative, real
from losskit.formula import maximum, minimum, where

HINT = "Boxes are (x1, y1, x2, y2); torchvision.ops.box_convert makes them of other forms."
CORNERS = {
    "x1": real, "y1": real,
    "x2": Interval("boxes with x1 <= x2", low=0.0, back=2), "y2": Interval("boxes with y1 <= y2", low=0.0, back=2),
}  # fmt: skip
OPERANDS = {
    "input": Operand("Predicted boxes (..., 4), as (x1, y1, x2, y2).", components=CORNERS, hint=HINT),
    "target": Operand("True boxes.", components=CORNERS, broadcast=True, hint=HINT),
}
EPS: Any = param(default=1e-7, domain=nonnegative, doc="Added to every denominator, for boxes without an area.")


class Pair(NamedTuple):
    """Two boxes: 1 - overlap / union, the sides of both, and those of the box around them."""

    missed: Any
    overlap: Any
    union: Any
    w: Any
    h: Any
    target_w: Any
    target_h: Any
    around_w: Any
    around_h: Any
    centre_x: Any  # from that of one box to that of the other
    centre_y: Any


def larger(a: Any, b: Any) -> Any:
    """The larger of two numbers, whose derivative is shared where they are equal."""
    return where(a == b, 0.5 * a + 0.5 * b, maximum(a, b))


def smaller(a: Any, b: Any) -> Any:
    """The smaller of two numbers, whose derivative is shared where they are equal."""
    return where(a == b, 0.5 * a + 0.5 * b, minimum(a, b))


def pair(x1: Any, y1: Any, x2: Any, y2: Any, u1: Any, v1: Any, u2: Any, v2: Any, eps: Any) -> Pair:
    """What the losses speak of, for the box (x1, y1, x2, y2) and the true one (u1, v1, u2, v2)."""
    w, h, target_w, target_h = x2 - x1, y2 - y1, u2 - u1, v2 - v1
    # 0 first: boxes that touch have no overlap, and no derivative of it.
    overlap = maximum(0.0, smaller(x2, u2) - larger(x1, u1)) * maximum(0.0, smaller(y2, v2) - larger(y1, v1))
    union = w * h + target_w * target_h - overlap
    around_w, around_h = larger(x2, u2) - smaller(x1, u1), larger(y2, v2) - smaller(y1, v1)
    missed = 1.0 - overlap / (union + eps)
    centre_x, centre_y = 0.5 * ((x1 - u1) + (x2 - u2)), 0.5 * ((y1 - v1) + (y2 - v2))
    return Pair(missed, overlap, union, w, h, target_w, target_h, around_w, around_h, centre_x, centre_y)


def apart(boxes: Pair, eps: Any) -> Any:
    """The squared distance of the centres, as a share of the squared diagonal of the box around both."""
    distance = boxes.centre_x * boxes.centre_x + boxes.centre_y * boxes.centre_y
    return distance / (boxes.around_w * boxes.around_w + boxes.around_h * boxes.around_h + eps)
