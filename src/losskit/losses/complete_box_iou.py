"""CompleteBoxIoULoss: how little two boxes overlap, how far apart their centres are, how different their shapes."""

import math

from losskit.declaration import Case, Peer
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import atan2, stop
from losskit.losses._boxes import EPS, OPERANDS, apart, pair


class CompleteBoxIoULoss(PointwiseLoss):
    """Complete IoU loss of boxes: the distance IoU loss, plus a term for the difference of their aspect ratios.

    Choose it to train the boxes of a detector whose shape matters: it is the loss of the YOLO family.
    Prefer DistanceBoxIoULoss where shapes are alike, GeneralizedBoxIoULoss to compare with older results.

    The weight of the aspect term is a constant for differentiation, as in the paper, so the gradient is not that of the
    value. The unreduced loss is one number for each box. In float32 sides must be less than 1e19: areas overflow
    beyond.
    """

    eps: float = EPS

    name = "complete_box_iou_loss"
    arguments = "eps reduction"
    operands = OPERANDS

    @staticmethod
    def value(
        input_x1, input_y1, input_x2, input_y2, target_x1, target_y1, target_x2, target_y2, eps
    ):  # fmt: skip
        boxes = pair(input_x1, input_y1, input_x2, input_y2, target_x1, target_y1, target_x2, target_y2, eps)
        turned = atan2(boxes.target_w, boxes.target_h) - atan2(boxes.w, boxes.h)
        aspect = 4.0 / math.pi**2 * turned * turned
        weight = stop(aspect / (boxes.missed + aspect + eps))
        return boxes.missed + apart(boxes, eps) + weight * aspect

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=[[0.0, 0.0, 2.0, 2.0]], target=[[1.0, 1.0, 3.0, 4.0]], eps=0.0, value=1.0191574,
             grad=[[-0.034189572, -0.042393144, -0.13806722, -0.15946365]], source="mpmath"),
        Case(input=[[0.0, 0.0, 1.0, 1.0]], target=[[2.0, 2.0, 4.0, 3.0]], eps=0.0, value=1.4116906,
             grad=[[0.036450784, 0.013149216, -0.10525078, -0.074749216]], source="mpmath; the boxes are disjoint"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torchvision",
            "torchvision.ops.complete_box_iou_loss(input, target)",
            "complete_box_iou_loss(input, target, reduction='none')",
            why="torchvision's reduction is 'none' by default.",
        ),
    ]
    aliases = "ciou ciou_loss complete_iou"
    task = "detection"
    best_for = "Boxes of a detector whose shape matters."
    not_for = "Offsets from anchors; boxes given by centre and size."
    reference = "Zheng, Z. et al. (2020). Distance-IoU loss. AAAI. arXiv:1911.08287."
