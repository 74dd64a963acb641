"""The truth about the generalised IoU loss of boxes. An edge that two boxes share pulls each of them by half."""

from box_rows import Corners, boxes, example, overlapping, pairs
from proofs import Bars, RowProof, Variant


def exact(m, input, target, eps=1e-7):
    c = Corners(m, input, target)
    u, a = c.union + eps, c.around + eps
    value = (m.one, -c.overlap / u, c.around / a, -c.union / a)
    slopes = {}
    for which in (0, 1):
        entries = []
        for i in range(4):
            overlap, area, around = c.slopes(which, i)
            union = area - overlap
            by_iou = (-overlap / u, c.overlap * area / u**2, -c.overlap * overlap / u**2)
            by_around = (around * eps / a**2, -union / a, c.union * around / a**2)
            entries.append((*by_iou, *by_around))
        slopes[which] = entries
    return value, slopes


proof = RowProof(
    name="generalized_box_iou_loss",
    exact=exact,
    bars=Bars(value=1.5, gradient=3.5, eager_value=1.4, eager_gradient=3.1),
    points={"overlapping": overlapping, "pairs": pairs},
    formula_at={"pairs": 3.5},
    variants=[Variant("corners", boxes, gradients=(0, 1)), Variant("eps", boxes, {"eps": 0.01}, gradients=(0, 1))],
    example=example(
        "1.0 - iou + (around - union) / (around + eps)",
        "around",
        more="""loss = losskit.GeneralizedBoxIoULoss(reduction="none")
assert torch.allclose(loss(true, true), torch.zeros(5), atol=1e-6)  # perfect fits: nothing""",
    ),
)
