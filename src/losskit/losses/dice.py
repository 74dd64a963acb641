"""DiceLoss: 1 less the Dice score of predicted and actual regions."""

from losskit.declaration import Case, Peer, param
from losskit.facts import Facts
from losskit.families.regions import RegionsLoss
from losskit.formula import log, log1p, where
from losskit.losses._regions import SMOOTH, ratio, slopes, whole


class DiceLoss(RegionsLoss):
    """The Dice loss: what is wrong of two regions, over the sum of their sizes; the F1 score as a loss.

    Choose it for segmentation with few pixels of the class, where cross entropy is content with the background.
    Prefer TverskyLoss where missed pixels cost more than false ones, JaccardLoss where the IoU is the measure.

    Every region counts the same, however small, and one without any pixel costs 0 if nothing is predicted. Often added
    to a loss of pixels: `DiceLoss() + BCEWithLogitsLoss()`.
    """

    smooth: float = SMOOTH
    squared: bool = param(
        default=False, doc="Whether sizes are sums of squares, as in V-Net; the target's, too."
    )  # fmt: skip
    log_score: bool = param(default=False, doc="Whether the loss is -log of the score instead of 1 less it.")

    squares = "squared"

    @staticmethod
    def value(overlap, false_positives, false_negatives, smooth, log_score):
        wrong, both = false_positives + false_negatives, 2.0 * overlap
        part = ratio(wrong, both, smooth)
        if not log_score:
            return part
        size, _ = whole(wrong, both, smooth)
        return where(part > 0.5, -log((both + smooth) / size), -log1p(-part))

    @staticmethod
    def grad(overlap, false_positives, false_negatives, smooth, log_score):
        wrong, both = false_positives + false_negatives, 2.0 * overlap
        by_wrong, by_both = slopes(wrong, both, smooth)
        if log_score:  # over the score
            size, nothing = whole(wrong, both, smooth)
            by_wrong = where(nothing, 0.0, 1.0 / size)
            by_both = -(wrong / size) / where(nothing, 1.0, both + smooth)
        return 2.0 * by_both, by_wrong, by_wrong

    @staticmethod
    def textbook(overlap, false_positives, false_negatives, smooth, log_score):
        both = 2.0 * overlap + smooth
        score = both / (both + false_positives + false_negatives)
        return -log(score) if log_score else 1.0 - score

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[[0.0, 0.0]]], target=[[[1.0, 0.0]]], smooth=1.0, value=1 / 3, grad=[[[-1 / 9, 1 / 18]]],
             source="by hand"),
        Case(input=[[[0.9, 0.8, 0.2]]], target=[[[1.0, 0.0, 0.0]]], smooth=0.0, activation="none", value=1.1 / 2.9,
             grad=[[[-0.47562425683709869, 0.21403091557669442, 0.21403091557669442]]], source="1 - 1.8 / 2.9"),
        Case(input=[[[0.9, 0.8, 0.2]]], target=[[[1.0, 0.0, 0.0]]], smooth=0.0, squared=True, activation="none",
             value=0.69 / 2.49, source="1 - 1.8 / 2.49",
             grad=[[[-0.28064063482847051, 0.46450863695746743, 0.11612715923936687]]]),
        Case(input=[[[0.0, 0.0, 0.0]]], target=[[[0.0, 0.0, 0.0]]], activation="none", value=0.0,
             source="nothing there, nothing predicted"),
    ]  # fmt: skip
    peers = [
        Peer(
            "monai",
            "monai.losses.DiceLoss(sigmoid=True)(input, target)",
            agrees=1e-6,
        ),
        Peer(
            "monai",
            "monai.losses.DiceLoss(softmax=True, squared_pred=True, batch=True)(input, target)",
            "dice_loss(input, target, activation='softmax', squared=True, batch=True)",
            agrees=1e-6,
        ),
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.DiceLoss('multilabel', smooth=1.0)(input, target)",
            "dice_loss(input, target, smooth=2.0, batch=True)",
            why="smooth counts twice there, and the default is 0; regions are of the batch; a class that the batch "
            "does not have costs 0 there and still counts.",
        ),
    ]
    aliases = "soft_dice sorensen_dice f1 v_net"
    task = "segmentation"
    best_for = "Segmentation with few pixels of the class; F1 of labels."
    not_for = "Calibrated probabilities; classes that are mostly absent."
    reference = (
        "Milletari, F. et al. (2016). V-Net. 3DV. arXiv:1606.04797 (squared); Sudre, C. H. et al. (2017). Generalised "
        "Dice overlap as a deep learning loss function for highly unbalanced segmentations. arXiv:1707.03237."
    )
