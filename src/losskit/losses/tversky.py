"""TverskyLoss: a Dice loss in which false positives and false negatives weigh differently."""

from losskit.declaration import Case, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.regions import RegionsLoss
from losskit.losses._regions import SMOOTH, ratio, slopes


class TverskyLoss(RegionsLoss):
    """The Tversky loss: false positives count `alpha`, false negatives `beta`, beside what both regions have.

    Choose it where a missed pixel costs more than a false one, as lesions do (alpha=0.3, beta=0.7), or less.
    Prefer DiceLoss where both cost the same, FocalTverskyLoss where hard regions should count more.

    With 0.5 and 0.5 it is the Dice loss whose `smooth` is twice as large, with 1 and 1 JaccardLoss.
    """

    alpha: float = param(default=0.5, domain=nonnegative, doc="Weight of false positives.")
    beta: float = param(default=0.5, domain=nonnegative, doc="Weight of false negatives.")
    smooth: float = SMOOTH

    @staticmethod
    def value(overlap, false_positives, false_negatives, alpha, beta, smooth):
        return ratio(alpha * false_positives + beta * false_negatives, overlap, smooth)

    @staticmethod
    def grad(overlap, false_positives, false_negatives, alpha, beta, smooth):
        by_wrong, by_both = slopes(alpha * false_positives + beta * false_negatives, overlap, smooth)
        return by_both, alpha * by_wrong, beta * by_wrong

    @staticmethod
    def textbook(overlap, false_positives, false_negatives, alpha, beta, smooth):
        both = overlap + smooth
        return 1.0 - both / (both + alpha * false_positives + beta * false_negatives)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[[0.0, 0.0]]], target=[[[1.0, 0.0]]], smooth=1.0, value=0.25, grad=[[[-0.078125, 0.046875]]],
             source="1 - 1.5 / 2"),
        Case(input=[[[0.9, 0.8, 0.2]]], target=[[[1.0, 0.0, 0.0]]], alpha=0.3, beta=0.7, smooth=0.0, activation="none",
             value=0.37 / 1.27, source="1 - 0.9 / 1.27",
             grad=[[[-0.62000124000248, 0.16740033480066956, 0.16740033480066956]]]),
        Case(input=[[[0.9, 0.8, 0.2]]], target=[[[1.0, 0.0, 0.0]]], alpha=0.7, beta=0.3, smooth=0.0, activation="none",
             value=0.73 / 1.63, source="1 - 0.9 / 1.63"),
    ]  # fmt: skip
    peers = [
        Peer(
            "monai",
            "monai.losses.TverskyLoss(sigmoid=True, alpha=0.3, beta=0.7)(input, target)",
            "tversky_loss(input, target, alpha=0.3, beta=0.7)",
            agrees=1e-6,
        ),
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.TverskyLoss('multilabel', smooth=1.0, alpha=0.3, beta=0.7)(input, target)",
            "tversky_loss(input, target, alpha=0.3, beta=0.7, smooth=1.0, batch=True)",
            why="Regions are of the batch there, and smooth is 0 by default.",
        ),
    ]
    aliases = "tversky_index"
    task = "segmentation"
    best_for = "Segmentation where missed pixels cost more than false ones."
    not_for = "Calibrated probabilities."
    reference = (
        "Salehi, S. S. M. et al. (2017). Tversky loss function for image segmentation using 3D fully convolutional "
        "deep networks. MLMI. arXiv:1706.05721."
    )
