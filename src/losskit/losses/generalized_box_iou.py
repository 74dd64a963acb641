"""GeneralizedBoxIoULoss: how little two boxes overlap, and how far apart they are."""

from losskit.declaration import Case, Peer
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.losses._boxes import EPS, OPERANDS, pair


class GeneralizedBoxIoULoss(PointwiseLoss):
    """Generalised IoU loss of boxes: 1 - IoU, plus the empty share of the smallest box around both.

    Choose it to train the boxes of a detector: it sees the size of the error as IoU does, and has a gradient also where
    the boxes do not overlap.
    Prefer DistanceBoxIoULoss or CompleteBoxIoULoss for faster convergence, SmoothL1Loss for offsets from anchors.

    The unreduced loss is one number for each box. Boxes of the same place and size have the loss 0, boxes that are far
    apart nearly 2. In float32 sides must be less than 1e19: areas overflow beyond.
    """

    eps: float = EPS

    name = "generalized_box_iou_loss"
    arguments = "eps reduction"
    operands = OPERANDS

    @staticmethod
    def value(
        input_x1, input_y1, input_x2, input_y2, target_x1, target_y1, target_x2, target_y2, eps
    ):  # fmt: skip
        boxes = pair(input_x1, input_y1, input_x2, input_y2, target_x1, target_y1, target_x2, target_y2, eps)
        around = boxes.around_w * boxes.around_h
        return boxes.missed + (around - boxes.union) / (around + eps)

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=[[0.0, 0.0, 2.0, 2.0]], target=[[1.0, 1.0, 3.0, 4.0]], eps=0.0, value=1.1388888888888888,
             grad=[[-0.10802469, -0.045524691, -0.18209877, -0.18209877]], source="mpmath"),
        Case(input=[[0.0, 0.0, 1.0, 1.0]], target=[[2.0, 2.0, 4.0, 3.0]], eps=0.0, value=1.75,
             grad=[[0.020833333, 0.0, -0.083333333, -0.083333333]], source="mpmath; the boxes are disjoint"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torchvision",
            "torchvision.ops.generalized_box_iou_loss(input, target)",
            "generalized_box_iou_loss(input, target, reduction='none')",
            why="torchvision's reduction is 'none' by default.",
        ),
        Peer(
            "monai",
            "monai.losses.BoxGIoULoss()(input, target)",
            agrees=1e-6,
            why="MONAI computes in float32.",
        ),
    ]
    aliases = "giou giou_loss generalized_iou"
    task = "detection"
    best_for = "Boxes of a detector."
    not_for = "Offsets from anchors; boxes given by centre and size."
    reference = "Rezatofighi, H. et al. (2019). Generalized intersection over union. CVPR. arXiv:1902.09630."
