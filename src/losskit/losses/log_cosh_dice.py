"""LogCoshDiceLoss: log cosh of the Dice loss, flat where a region is nearly right."""

from losskit.declaration import Case, Peer
from losskit.facts import Facts
from losskit.families.regions import RegionsLoss
from losskit.formula import exp, expm1, log, log1p, tanh
from losskit.losses._regions import SMOOTH, ratio, slopes


class LogCoshDiceLoss(RegionsLoss):
    """The log-cosh Dice loss: the Dice loss of each region, smoothed to a parabola where that is small.

    Choose it where the Dice loss does not settle: the nearer a region is to its target, the less it pulls.
    Prefer DiceLoss where the last percent of overlap matters.
    """

    smooth: float = SMOOTH

    @staticmethod
    def value(overlap, false_positives, false_negatives, smooth):
        u = expm1(ratio(false_positives + false_negatives, 2.0 * overlap, smooth))
        return log1p(0.5 * u * (u / (1.0 + u)))

    @staticmethod
    def grad(overlap, false_positives, false_negatives, smooth):
        wrong, both = false_positives + false_negatives, 2.0 * overlap
        by_wrong, by_both = slopes(wrong, both, smooth)
        slope = tanh(ratio(wrong, both, smooth))
        return 2.0 * slope * by_both, slope * by_wrong, slope * by_wrong

    @staticmethod
    def textbook(overlap, false_positives, false_negatives, smooth):
        both = 2.0 * overlap + smooth
        dice = 1.0 - both / (both + false_positives + false_negatives)
        return log(0.5 * (exp(dice) + exp(-dice)))

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[[0.0, 0.0]]], target=[[[1.0, 0.0]]], smooth=1.0, value=0.054556239625460081,
             grad=[[[-0.035723637503514927, 0.017861818751757464]]], source="log cosh of 1/3"),
        Case(input=[[[0.9, 0.8, 0.2]]], target=[[[1.0, 0.0, 0.0]]], smooth=0.0, activation="none",
             value=0.070276557734239046, source="log cosh of 1.1 / 2.9"),
    ]  # fmt: skip
    peers = [
        Peer(
            "monai",
            "monai.losses.DiceLoss(sigmoid=True, reduction='none')(input, target).cosh().log().mean()",
            agrees=1e-6,
            why="MONAI has the Dice loss alone.",
        ),
    ]
    task = "segmentation"
    best_for = "Segmentation where the Dice loss does not settle."
    not_for = "The last percent of overlap."
    reference = "Jadon, S. (2020). A survey of loss functions for semantic segmentation. CIBCB. arXiv:2006.14822."
