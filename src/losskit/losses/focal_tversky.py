"""FocalTverskyLoss: a power of the Tversky loss."""

from losskit.declaration import Case, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.regions import RegionsLoss
from losskit.formula import power, where
from losskit.losses._regions import SMOOTH, ratio, slopes


class FocalTverskyLoss(RegionsLoss):
    """The focal Tversky loss: the Tversky loss of each region to the power `gamma`.

    Choose it for small structures. Below 1, `gamma` makes a region that is nearly right pull more, above 1 less.
    Prefer TverskyLoss, which is `gamma=1.0`, where regions need no focus.

    Below 1 the slope grows without bound as a region becomes right, and is 0 where it is exactly right.
    """

    alpha: float = param(default=0.3, domain=nonnegative, doc="Weight of false positives.")
    beta: float = param(default=0.7, domain=nonnegative, doc="Weight of false negatives.")
    gamma: float = param(default=0.75, domain=positive, doc="Power of the Tversky loss.")
    smooth: float = SMOOTH

    @staticmethod
    def value(overlap, false_positives, false_negatives, alpha, beta, gamma, smooth):
        return power(ratio(alpha * false_positives + beta * false_negatives, overlap, smooth), gamma)

    @staticmethod
    def grad(overlap, false_positives, false_negatives, alpha, beta, gamma, smooth):
        wrong = alpha * false_positives + beta * false_negatives
        by_wrong, by_both = slopes(wrong, overlap, smooth)
        part = ratio(wrong, overlap, smooth)
        slope = where(part == 0.0, 0.0, gamma * power(where(part == 0.0, 1.0, part), gamma - 1.0))
        return slope * by_both, slope * alpha * by_wrong, slope * beta * by_wrong

    @staticmethod
    def textbook(overlap, false_positives, false_negatives, alpha, beta, gamma, smooth):
        both = overlap + smooth
        return power(1.0 - both / (both + alpha * false_positives + beta * false_negatives), gamma)

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[[0.0, 0.0]]], target=[[[1.0, 0.0]]], gamma=2.0, smooth=1.0, value=0.0625,
             grad=[[[-0.0484375, 0.0140625]]], source="(1 - 1.5 / 2) ** 2"),
        Case(input=[[[0.9, 0.8, 0.2]]], target=[[[1.0, 0.0, 0.0]]], smooth=0.0, activation="none",
             value=0.39655050048291163, source="(1 - 0.9 / 1.27) ** 0.75"),
    ]  # fmt: skip
    peers = [
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.TverskyLoss('binary', smooth=1.0, alpha=0.3, beta=0.7, gamma=0.75)(input, target)",
            "focal_tversky_loss(input.reshape(1, 1, -1), target.reshape(1, 1, -1), smooth=1.0)",
            why="All numbers are one region there; with several classes their mean is raised to the power.",
        ),
    ]
    task = "segmentation"
    best_for = "Segmentation of small structures."
    not_for = "Regions that are nearly right: with gamma below 1 their slope is large."
    reference = (
        "Abraham, N. and Khan, N. M. (2019). A novel focal Tversky loss function with improved attention U-Net for "
        "lesion segmentation. ISBI. arXiv:1810.07842. The exponent there is 1 / gamma, with gamma 4/3."
    )
