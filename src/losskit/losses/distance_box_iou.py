"""DistanceBoxIoULoss: how little two boxes overlap, and how far apart their centres are."""

from losskit.declaration import Case, Peer
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.losses._boxes import EPS, OPERANDS, apart, pair


class DistanceBoxIoULoss(PointwiseLoss):
    """Distance IoU loss of boxes: 1 - IoU, plus the squared distance of the centres over that of the outermost corners.

    Choose it to train the boxes of a detector: it moves a box straight to the true one, also where they do not overlap.
    Prefer CompleteBoxIoULoss where the shape of boxes matters, GeneralizedBoxIoULoss to compare with older results.

    The unreduced loss is one number for each box, less than 2. In float32 sides must be less than 1e19: areas overflow
    beyond.
    """

    eps: float = EPS

    name = "distance_box_iou_loss"
    arguments = "eps reduction"
    operands = OPERANDS

    @staticmethod
    def value(
        input_x1, input_y1, input_x2, input_y2, target_x1, target_y1, target_x2, target_y2, eps
    ):  # fmt: skip
        boxes = pair(input_x1, input_y1, input_x2, input_y2, target_x1, target_y1, target_x2, target_y2, eps)
        return boxes.missed + apart(boxes, eps)

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=[[0.0, 0.0, 2.0, 2.0]], target=[[1.0, 1.0, 3.0, 4.0]], eps=0.0, value=1.0188888888888889,
             grad=[[-0.033491358, -0.043091358, -0.13876543, -0.15876543]], source="mpmath"),
        Case(input=[[0.0, 0.0, 1.0, 1.0]], target=[[2.0, 2.0, 4.0, 3.0]], eps=0.0, value=1.41,
             grad=[[0.0312, 0.0184, -0.1, -0.08]], source="mpmath; the boxes are disjoint"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torchvision",
            "torchvision.ops.distance_box_iou_loss(input, target)",
            "distance_box_iou_loss(input, target, reduction='none')",
            why="torchvision's reduction is 'none' by default.",
        ),
    ]
    aliases = "diou diou_loss distance_iou"
    task = "detection"
    best_for = "Boxes of a detector, with fast convergence."
    not_for = "Offsets from anchors; boxes given by centre and size."
    reference = "Zheng, Z. et al. (2020). Distance-IoU loss. AAAI. arXiv:1911.08287."
