"""BoundaryLoss: predicted probabilities, weighted by the signed distance to the true boundary."""

from losskit.declaration import Case, Operand, Peer
from losskit.domains import probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss


class BoundaryLoss(PointwiseLoss):
    """The probability of a pixel times its distance to the true boundary, which is negative inside of the object.

    Choose it beside a loss of regions, such as DiceLoss, when objects are small against the background: it says how
    far off a boundary is, which no overlap does.
    Prefer HausdorffDTLoss where the largest distance matters, and a loss of regions where there is one loss only.

    Alone it is a bad start, for predicting nothing is nearly as good as the object: add it with a weight that grows
    over the training. `losskit.signed_distance` makes `distance_map` of the true mask, once for each image. The loss
    may be negative.
    """

    operands = {
        "input": Operand("Predicted probabilities.", domain=probability,
                         hint="For raw scores pass their sigmoid, or softmax."),
        "distance_map": Operand("Signed distance of each pixel to the true boundary, negative inside.",
                                differentiable=False),
    }  # fmt: skip

    @staticmethod
    def value(input, distance_map):
        return input * distance_map

    @staticmethod
    def grad(input, distance_map):
        return distance_map

    facts = Facts(convex="input", smooth=True, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(input=0.25, distance_map=1.0, value=0.25, grad=1.0, source="one pixel outside"),
        Case(input=0.9, distance_map=-2.0, value=-1.8, grad=-2.0, source="inside"),
        Case(input=0.6, distance_map=0.0, value=0.0, grad=0.0, source="on the boundary"),
    ]
    peers = [
        Peer(
            "monai",
            "monai.losses.BoundaryLoss()(input, target)",
            "boundary_loss(input, losskit.signed_distance(target > 0.5))",
            agrees=1e-6,
            given={
                "input": [[[[0.1, 0.9, 0.3], [0.2, 0.6, 0.8], [0.4, 0.7, 0.5]]]],
                "target": [[[[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]]],
            },
            why="MONAI takes the mask and makes the distances in every step, on the CPU.",
        ),
    ]
    aliases = "surface_loss"
    task = "segmentation"
    best_for = "Small objects against much background, beside a loss of regions."
    not_for = "Use alone; masks that change in every step, whose distances cost more than the loss."
    reference = (
        "Kervadec, H., Bouchtiba, J., Desrosiers, C., Granger, E., Dolz, J. and Ben Ayed, I. (2019). Boundary loss for "
        "highly unbalanced segmentation. MIDL. arXiv:1812.07032."
    )
