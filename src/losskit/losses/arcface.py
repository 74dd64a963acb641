"""ArcFaceLoss: cross entropy of cosines, the angle to the own class widened by a margin."""

from losskit.declaration import Case, Peer, param
from losskit.domains import Interval
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.formula import cos, sin, sqrt, where
from losskit.losses._scores import COSINES, SCALE


class ArcFaceLoss(ClassScoresLoss):
    """Additive angular margin: cross entropy of cosines, where the angle to the own class counts as `margin` larger.

    Choose it to train embeddings for recognition (faces, products, places) from class labels: the classes come out as
    tight bundles.
    Prefer CosFaceLoss for a gentler margin, CrossEntropyLoss to classify and nothing else.

    The input is the cosines of the embeddings to one vector per class: the product of normalised embeddings and
    normalised weights. Where angle and margin exceed half a turn, the margin is a number that is subtracted.
    """

    margin: float = param(
        default=0.5, domain=Interval("in [0, pi)", low=0.0, high=3.141592653589793, high_open=True),
        doc="What is added to the angle to the own class, in radians.",
    )  # fmt: skip
    scale: float = SCALE

    name = "arcface_loss"
    arguments = "margin scale weight ignore_index reduction label_smoothing"
    scaled_by = "scale"
    operands = COSINES

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def target_score(score, margin):
        square = (1.0 - score) * (1.0 + score)
        # At 0 and at half a turn the slope of the sine is infinite; there it does not count.
        sine = where(square > 0.0, sqrt(where(square > 0.0, square, 1.0)), 0.0)
        turned = score * cos(margin) - sine * sin(margin)
        return where(score >= -cos(margin), turned, score - margin * sin(margin))

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.7, 0.2, -0.1], target=0, value=0.00996702, grad=[-0.855295, 0.634721, 2.91158e-09],
             source="mpmath"),
        Case(input=[0.3, 0.2, -0.1], target=0, scale=10.0, value=4.00761, grad=[-10.0966, 9.35259, 0.465638],
             source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-metric-learning",
            (
                "with_classes(pytorch_metric_learning.losses.ArcFaceLoss(5, 3, margin=28.64788975654116, scale=64), "
                "classes)(embeddings, target)"
            ),
            "arcface_loss(F.normalize(embeddings) @ F.normalize(classes, dim=0), target)",
            given={
                "embeddings": [[0.5, -1.0, 2.0], [1.0, 0.3, -0.2], [-0.4, 0.8, 0.1]],
                "target": [0, 3, 4],
                "classes": [[0.3, -1.2, 0.8, 0.1, -0.5], [1.1, 0.4, -0.6, 0.9, 0.2], [-0.7, 0.5, 0.2, -1.3, 1.0]],
            },
            why="PML computes the cosines and takes degrees, 28.6; here are cosines, and radians.",
        ),
    ]
    aliases = "additive_angular_margin"
    task = "metric learning"
    best_for = "Embeddings for recognition, from class labels."
    not_for = "Raw scores; classes that need probabilities."
    reference = (
        "Deng, J. et al. (2019). ArcFace: additive angular margin loss for deep face recognition. CVPR. "
        "arXiv:1801.07698."
    )
