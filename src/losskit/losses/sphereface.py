"""SphereFaceLoss: cross entropy of cosines, the angle to the own class multiplied by a margin."""

import math

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval, positive
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.formula import acos, cos, floor, where
from losskit.losses._scores import COSINES


class SphereFaceLoss(ClassScoresLoss):
    """Multiplicative angular margin: cross entropy of cosines, where the angle to the own class counts `margin` times.

    Choose it to repeat results of the first margin loss for face recognition.
    Prefer ArcFaceLoss or CosFaceLoss otherwise: they are easier to train.

    The input is the cosines of the embeddings to one vector per class; `norm` is the length of each embedding, by which
    its cosines are multiplied. The formula of the angle falls without end, by a piece of cosine for each turn.
    """

    margin: int = param(
        default=4, domain=Interval("at least 1", low=1.0), doc="By which the angle to the own class is multiplied."
    )

    name = "sphereface_loss"
    arguments = "margin weight ignore_index reduction label_smoothing"
    scaled_by = "norm"
    operands = COSINES | {"norm": Operand("Length of each embedding, of shape (N,).", domain=positive)}

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def target_score(score, margin):
        # Of the obtuse angle what it lacks to half a turn: near that its cosine's digits are.
        size = where(score >= 0.0, score, -score)
        angle = margin * acos(where(size < 1.0, size, 0.5))
        turns = floor(angle / math.pi)
        odd = turns - 2.0 * floor(0.5 * turns)
        acute = (1.0 - 2.0 * odd) * cos(angle) - 2.0 * turns
        # At 0 the sine of the angle, by which the slope is divided, is 0; the limit is the margin squared.
        acute = where(size < 1.0, acute, 1.0 + margin * margin * (size - 1.0))
        return where(score >= 0.0, acute, -acute - 2.0 * (margin - 1.0))

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[0.7, 0.2, -0.1]], target=[0], norm=[3.0], value=3.96275, grad=[[-0.659225, 2.09230, 0.850666]],
             source="mpmath"),
        Case(input=[[0.0, 0.0]], target=[0], norm=[2.0], margin=1, value=0.6931471805599453, grad=[[-1.0, 1.0]],
             source="log 2"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-metric-learning",
            "with_classes(pytorch_metric_learning.losses.SphereFaceLoss(5, 3), classes)(embeddings, target)",
            "sphereface_loss(F.normalize(embeddings) @ F.normalize(classes, dim=0), target, embeddings.norm(dim=1))",
            given={
                "embeddings": [[0.5, -1.0, 2.0], [1.0, 0.3, -0.2], [-0.4, 0.8, 0.1]],
                "target": [0, 3, 4],
                "classes": [[0.3, -1.2, 0.8, 0.1, -0.5], [1.1, 0.4, -0.6, 0.9, 0.2], [-0.7, 0.5, 0.2, -1.3, 1.0]],
            },
            why="PML computes cosines and lengths; here they are the input.",
        ),
    ]
    aliases = "a_softmax angular_softmax multiplicative_angular_margin"
    task = "metric learning"
    best_for = "Results that compare with the first margin loss."
    not_for = "Raw scores; a new project."
    reference = (
        "Liu, W. et al. (2017). SphereFace: deep hypersphere embedding for face recognition. CVPR. arXiv:1704.08063."
    )
