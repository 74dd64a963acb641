"""JaccardLoss: 1 less the intersection over union of predicted and actual regions."""

from losskit.declaration import Case, Peer
from losskit.facts import Facts
from losskit.families.regions import RegionsLoss
from losskit.losses._regions import SMOOTH, ratio, slopes


class JaccardLoss(RegionsLoss):
    """The Jaccard loss: what is wrong of two regions, over all that either has; 1 less their IoU.

    Choose it for segmentation that is measured by the intersection over union.
    Prefer DiceLoss for small regions: here the loss of one that misses half is nearer to 1, and its slope smaller.
    """

    smooth: float = SMOOTH

    @staticmethod
    def value(overlap, false_positives, false_negatives, smooth):
        return ratio(false_positives + false_negatives, overlap, smooth)

    @staticmethod
    def grad(overlap, false_positives, false_negatives, smooth):
        by_wrong, by_both = slopes(false_positives + false_negatives, overlap, smooth)
        return by_both, by_wrong, by_wrong

    @staticmethod
    def textbook(overlap, false_positives, false_negatives, smooth):
        both = overlap + smooth
        return 1.0 - both / (both + false_positives + false_negatives)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[[0.0, 0.0]]], target=[[[1.0, 0.0]]], smooth=1.0, value=0.4, grad=[[[-0.1, 0.06]]],
             source="1 - 1.5 / 2.5"),
        Case(input=[[[0.9, 0.8, 0.2]]], target=[[[1.0, 0.0, 0.0]]], smooth=0.0, activation="none", value=0.55,
             grad=[[[-0.5, 0.225, 0.225]]], source="1 - 0.9 / 2"),
        Case(input=[[[0.9, 0.8, 0.2]]], target=[[[1.0, 0.0, 0.0]]], smooth=1.0, activation="none", value=1.1 / 3,
             grad=[[[-1 / 3, 0.19 / 0.9, 0.19 / 0.9]]], source="1 - 1.9 / 3"),
    ]  # fmt: skip
    peers = [
        Peer(
            "monai",
            "monai.losses.DiceLoss(sigmoid=True, jaccard=True, smooth_nr=2e-5, smooth_dr=2e-5)(input, target)",
            agrees=1e-6,
            why="smooth is half as strong there.",
        ),
        Peer(
            "segmentation-models-pytorch",
            "smp.losses.JaccardLoss('multilabel', smooth=1.0)(input, target)",
            "jaccard_loss(input, target, smooth=1.0, batch=True)",
            why="Regions are of the batch there, and smooth is 0 by default.",
        ),
    ]
    aliases = "soft_jaccard soft_iou tanimoto"
    task = "segmentation"
    best_for = "Segmentation that is measured by the IoU."
    not_for = "Boxes, which have losses of their own."
    reference = (
        "Rahman, M. A. and Wang, Y. (2016). Optimizing intersection-over-union in deep neural networks for image "
        "segmentation. ISVC."
    )
