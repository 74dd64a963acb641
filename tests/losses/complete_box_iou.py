"""The truth about the complete IoU loss of boxes: the weight of the aspect term is not differentiated."""

from box_rows import Corners, boxes, example, overlapping, pairs
from proofs import Bars, RowProof, Variant


def exact(m, input, target, eps=1e-7):
    c = Corners(m, input, target)
    value, slopes = c.distance_iou(eps)
    (w, h), (u, v) = c.sizes
    turned = m.atan2(u, v) - m.atan2(w, h)
    aspect = 4 / m.pi**2 * turned**2
    # Where the boxes have one shape, the weight is 0 / (1 - IoU + eps).
    weight = aspect / (m.one - c.overlap / (c.union + eps) + aspect + eps) if aspect else m.zero
    for which, (own_w, own_h) in enumerate(c.sizes):
        factor = weight * 8 / m.pi**2 * turned * (1 if which else -1)
        around = own_w**2 + own_h**2
        for corner in range(4):
            sign = 1 if corner >= 2 else -1
            slope = (own_h if corner % 2 == 0 else -own_w) * sign / around if around else m.zero
            slopes[which][corner] = (*slopes[which][corner], factor * slope)
    return (*value, weight * aspect), slopes


proof = RowProof(
    name="complete_box_iou_loss",
    exact=exact,
    # An overlap, a union, a diagonal, and quotients of them: a dozen roundings.
    bars=Bars(value=2.2, gradient=5.5, eager_value=1.2, eager_gradient=3.5),
    points={"overlapping": overlapping, "pairs": pairs},
    formula_at={"pairs": 4.0},
    variants=[Variant("corners", boxes, gradients=(0, 1)), Variant("eps", boxes, {"eps": 0.01}, gradients=(0, 1))],
    example=example("1.0 - iou + distance / (diagonal + eps) + weight * aspect", "distance, diagonal, aspect, weight"),
)
