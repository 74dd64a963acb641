"""The truth about the distance IoU loss of boxes."""

from box_rows import Corners, boxes, example, overlapping, pairs
from proofs import Bars, RowProof, Variant


def exact(m, input, target, eps=1e-7):
    c = Corners(m, input, target)
    value, slopes = c.distance_iou(eps)
    return value, slopes


proof = RowProof(
    name="distance_box_iou_loss",
    exact=exact,
    # An overlap, a union, a diagonal, and quotients of them: a dozen roundings.
    bars=Bars(value=2.2, gradient=5.5, eager_value=1.2, eager_gradient=3.5),
    points={"overlapping": overlapping, "pairs": pairs},
    formula_at={"pairs": 4.0},
    variants=[Variant("corners", boxes, gradients=(0, 1)), Variant("eps", boxes, {"eps": 0.01}, gradients=(0, 1))],
    example=example("1.0 - iou + distance / (diagonal + eps)", "distance, diagonal"),
)
