"""CosFaceLoss: cross entropy of cosines, that of the own class reduced by a margin."""

from losskit.declaration import Case, Peer, param
from losskit.domains import Interval
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.losses._scores import COSINES, SCALE


class CosFaceLoss(ClassScoresLoss):
    """Additive cosine margin: cross entropy of cosines, where the cosine to the own class counts as `margin` smaller.

    Choose it to train embeddings for recognition (faces, products, places) from class labels, with the simplest margin.
    Prefer ArcFaceLoss for a margin that is an angle, CrossEntropyLoss to classify and nothing else.

    The input is the cosines of the embeddings to one vector per class: the product of normalised embeddings and
    normalised weights.
    """

    margin: float = param(
        default=0.35, domain=Interval("in [0, 1)", low=0.0, high=1.0, high_open=True),
        doc="What is taken from the cosine to the own class.",
    )  # fmt: skip
    scale: float = SCALE

    name = "cosface_loss"
    arguments = "margin scale weight ignore_index reduction label_smoothing"
    scaled_by = "scale"
    operands = COSINES

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def target_score(score, margin):
        return score - margin

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.3, 0.2, -0.1], target=0, scale=10.0, value=2.62387, grad=[-9.27479, 8.83492, 0.439865],
             source="mpmath"),
        Case(input=[0.0, 0.0], target=0, margin=0.0, scale=10.0, value=0.6931471805599453, grad=[-5.0, 5.0],
             source="log 2"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-metric-learning",
            "with_classes(pytorch_metric_learning.losses.CosFaceLoss(5, 3), classes)(embeddings, target)",
            "cosface_loss(F.normalize(embeddings) @ F.normalize(classes, dim=0), target)",
            given={
                "embeddings": [[0.5, -1.0, 2.0], [1.0, 0.3, -0.2], [-0.4, 0.8, 0.1]],
                "target": [0, 3, 4],
                "classes": [[0.3, -1.2, 0.8, 0.1, -0.5], [1.1, 0.4, -0.6, 0.9, 0.2], [-0.7, 0.5, 0.2, -1.3, 1.0]],
            },
            why="PML computes the cosines; here they are the input.",
        ),
    ]
    aliases = "am_softmax additive_margin_softmax large_margin_cosine"
    task = "metric learning"
    best_for = "Embeddings for recognition, from class labels."
    not_for = "Raw scores; classes that need probabilities."
    reference = (
        "Wang, H. et al. (2018). CosFace: large margin cosine loss for deep face recognition. CVPR. arXiv:1801.09414."
    )
