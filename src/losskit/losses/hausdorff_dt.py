"""HausdorffDTLoss: the squared error of probabilities, weighted by the distances from both boundaries."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive, probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import power


def roots(input_distance, target_distance, alpha):
    """The roots of both weights: what they multiply may be small where they are large, and the square of it smaller."""
    return power(input_distance, 0.5 * alpha), power(target_distance, 0.5 * alpha)


class HausdorffDTLoss(PointwiseLoss):
    """The squared error of a pixel times its distances from the predicted and the true boundary, to the power alpha.

    Choose it beside a loss of regions, such as DiceLoss, when the worst place counts: a wrong pixel far from both
    boundaries is what makes the Hausdorff distance large.
    Prefer BoundaryLoss when distances of the predictions cost too much: it needs those of the true mask alone.

    The distances are constants for the gradient. `losskit.distance_field` makes them: `input_distance` of the
    prediction cut at 0.5 in every step, `target_distance` of the true mask once for each image.
    """

    alpha: float = param(
        default=2.0, domain=positive, doc="Power of the distances: the larger, the more far ones count."
    )

    name = "hausdorff_dt_loss"
    arguments = "alpha reduction"
    operands = {
        "input": Operand("Predicted probabilities.", domain=probability,
                         hint="For raw scores pass their sigmoid, or softmax."),
        "target": Operand("True mask, 0 and 1, or probabilities.", domain=probability),
        "input_distance": Operand("Distance of each pixel from the boundary of the predicted mask.",
                                  domain=nonnegative, differentiable=False,
                                  hint="Pass distance_field(input > 0.5), which has no sign."),
        "target_distance": Operand("Distance of each pixel from the boundary of the true mask.",
                                   domain=nonnegative, differentiable=False,
                                   hint="Pass distance_field(target > 0.5), which has no sign."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, input_distance, target_distance, alpha):
        d = input - target
        root, other = roots(input_distance, target_distance, alpha)
        return (d * root) * (d * root) + (d * other) * (d * other)

    @staticmethod
    def grad(input, target, input_distance, target_distance, alpha):
        d = 2.0 * (input - target)
        root, other = roots(input_distance, target_distance, alpha)
        slope = (d * root) * root + (d * other) * other
        return slope, -slope

    @staticmethod
    def textbook(input, target, input_distance, target_distance, alpha):
        return (input - target) ** 2 * (input_distance**alpha + target_distance**alpha)

    facts = Facts(convex="input", smooth=True, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=0.75, target=0.0, input_distance=1.0, target_distance=2.0, value=2.8125, grad=7.5,
             source="0.75^2 * (1 + 4)"),
        Case(input=0.25, target=1.0, input_distance=3.0, target_distance=2.0, alpha=1.0, value=2.8125, grad=-7.5,
             source="0.75^2 * 5"),
        Case(input=0.25, target=1.0, input_distance=0.0, target_distance=0.0, value=0.0, grad=0.0,
             source="empty masks have no boundary"),
    ]  # fmt: skip
    peers = [
        Peer(
            "monai",
            "monai.losses.HausdorffDTLoss(alpha=2.0)(input, target)",
            "hausdorff_dt_loss(input, target, "
            "losskit.distance_field(input > 0.5), losskit.distance_field(target > 0.5))",
            agrees=1e-6,
            given={
                "input": [[[[0.1, 0.9, 0.3], [0.2, 0.6, 0.8], [0.4, 0.7, 0.4]]]],
                "target": [[[[0.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]]],
            },
            why="MONAI makes both distances in every step, on the CPU.",
        ),
    ]
    aliases = "hausdorff_distance_transform"
    task = "segmentation"
    best_for = "Boundaries whose worst place counts, beside a loss of regions."
    not_for = "Use alone; training whose steps are short against a distance transform."
    reference = (
        "Karimi, D. and Salcudean, S. E. (2019). Reducing the Hausdorff distance in medical image segmentation with "
        "convolutional neural networks. IEEE Trans. Med. Imaging 39, 499-513. arXiv:1904.10030."
    )
