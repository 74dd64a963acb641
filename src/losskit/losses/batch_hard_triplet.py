"""BatchHardTripletLoss: the farthest positive and the nearest negative of each row."""

from losskit.declaration import Case, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.pairs import PairsLoss
from losskit.formula import maximum, softplus


class BatchHardTripletLoss(PairsLoss):
    """Triplets that a batch makes itself: the farthest row of the own label against the nearest of another.

    Choose it for re-identification and retrieval, with batches of some labels and some rows of each.
    Prefer TripletMarginLoss where triplets are given, CircleLoss or SupConLoss where all pairs should count.

    Distances are Euclidean, of embeddings as they are. A row counts if it has positives and negatives.
    """

    margin: float = param(
        default=1.0, domain=nonnegative, doc="By how much nearer the farthest positive must be to cost nothing."
    )
    soft: bool = param(
        default=False, doc="Whether softplus stands in the place of the hinge; it takes the margin, too."
    )

    name = "batch_hard_triplet_loss"
    arguments = "margin soft reduction"
    pairing = "labels"
    measure = "distance"
    needs = "both"

    @staticmethod
    def value(positive_max, negative_min, margin, soft):
        excess = positive_max - negative_min + margin
        return softplus(excess) if soft else maximum(excess, 0.0)

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 2.0]], target=[0, 0, 1, 1], margin=1.5, value=4.93552,
             grad=[[-2.0, 2.0], [2.259892, 1.601532], [-1.552788, -2.894428], [1.292892, -0.707104]],
             source="mpmath"),
        Case(input=[[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 2.0]], target=[0, 0, 1, 1], margin=0.0, soft=True,
             value=2.66418, source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-metric-learning",
            "pytorch_metric_learning.losses.TripletMarginLoss(margin=1.0, "
            "distance=pytorch_metric_learning.distances.LpDistance(normalize_embeddings=False), "
            "reducer=pytorch_metric_learning.reducers.MeanReducer())(input, target, "
            "pytorch_metric_learning.miners.BatchHardMiner("
            "distance=pytorch_metric_learning.distances.LpDistance(normalize_embeddings=False))(input, target))",
            "batch_hard_triplet_loss(input, target)",
            given={
                "input": [[0.5, -1.0, 2.0], [1.0, 0.3, -0.2], [-0.4, 0.8, 0.1], [0.2, 0.2, 0.9]],
                "target": [0, 1, 0, 1],
            },
            why="Its own distance normalises embeddings, and its own reducer leaves losses of 0 out of the mean.",
        ),
    ]
    aliases = "hard_triplet online_triplet triplet_hard"
    task = "metric learning"
    best_for = "Re-identification, batches of labels."
    not_for = "Triplets that are given; noisy labels."
    reference = (
        "Hermans, A., Beyer, L. and Leibe, B. (2017). In defense of the triplet loss for person re-identification. "
        "arXiv:1703.07737."
    )
