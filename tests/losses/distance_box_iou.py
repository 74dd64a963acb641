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
    bars=Bars(value=1.5, gradient=3.5, eager_value=1.4, eager_gradient=3.1),
    points={"overlapping": overlapping, "pairs": pairs},
    formula_at={"pairs": 3.5},
    variants=[Variant("corners", boxes, gradients=(0, 1)), Variant("eps", boxes, {"eps": 0.01}, gradients=(0, 1))],
    example=example("1.0 - iou + distance / (diagonal + eps)", "distance, diagonal"),
)
