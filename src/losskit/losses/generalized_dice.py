"""GeneralizedDiceLoss: the Dice loss of all classes of a sample together, small classes weighing more."""

import math

import torch

from losskit.declaration import Case, Peer, param
from losskit.facts import Facts
from losskit.families.regions import RegionsLoss
from losskit.losses._regions import SMOOTH, ratio, slopes


class GeneralizedDiceLoss(RegionsLoss):
    """The generalised Dice loss: one ratio for all classes of a sample, each weighed by its size to the power -2.

    Choose it for classes of very different sizes in each image, where the mean of Dice losses is too restless.
    Prefer DiceLoss with few classes, and where classes are often absent: an absent one weighs here like the smallest.

    A sample that has none of the classes has no loss, for there is no weight. With 'square', weights are small numbers:
    1e-5, the default of `smooth`, outweighs a region of 1,000 pixels a hundred times. Take `smooth=0.0` or 'simple'
    for regions that large.
    """

    smooth: float = SMOOTH
    weight_type: str = param(
        default="square", choices=("square", "simple", "uniform"),
        doc="What the sums of a class are divided by: the square of its size, its size, or nothing.",
    )  # fmt: skip

    arguments = "reduction smooth weight_type activation include_background batch ignore_index soft_label"

    @staticmethod
    def weigh(actual, weight_type):
        if weight_type == "uniform":
            return torch.ones_like(actual)
        there = actual > 0
        size = actual * actual if weight_type == "square" else actual
        weights = torch.where(there, size, math.inf).reciprocal()
        if actual.shape[-1] == 0:
            return weights
        return torch.where(there, weights, weights.amax(-1, keepdim=True))  # an absent class: the largest one

    @staticmethod
    def value(overlap, false_positives, false_negatives, smooth):
        return ratio(false_positives + false_negatives, 2.0 * overlap, smooth)

    @staticmethod
    def grad(overlap, false_positives, false_negatives, smooth):
        by_wrong, by_both = slopes(false_positives + false_negatives, 2.0 * overlap, smooth)
        return 2.0 * by_both, by_wrong, by_wrong

    @staticmethod
    def textbook(overlap, false_positives, false_negatives, smooth):
        both = 2.0 * overlap + smooth
        return 1.0 - both / (both + false_positives + false_negatives)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[[0.0, 0.0], [0.0, 0.0]]], target=[[[1.0, 0.0], [1.0, 1.0]]], smooth=0.0, value=5 / 11,
             grad=[[[-16 / 121, 6 / 121], [-4 / 121, -4 / 121]]], source="1 - 2 (1/2 + 1/4) / (2 + 3/4)"),
        Case(input=[[[0.9, 0.8, 0.2], [0.1, 0.2, 0.8]]], target=[[[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]], smooth=0.0,
             activation="none", value=0.37414965986394558, source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "monai",
            "monai.losses.GeneralizedDiceLoss(sigmoid=True)(input, target)",
            agrees=1e-6,
            why="A sample without any of the classes counts there in the mean, with a loss of 0.",
        ),
    ]
    aliases = "gdl"
    task = "segmentation"
    best_for = "Segmentation into classes of very different sizes."
    not_for = "Classes that are mostly absent."
    reference = (
        "Sudre, C. H. et al. (2017). Generalised Dice overlap as a deep learning loss function for highly unbalanced "
        "segmentations. DLMIA. arXiv:1707.03237."
    )
