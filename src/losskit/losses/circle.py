"""CircleLoss: pairs that are far from where they should be pull harder."""

from losskit.declaration import Case, Peer, param
from losskit.domains import Interval, positive
from losskit.facts import Facts
from losskit.families.pairs import PairsLoss
from losskit.formula import maximum, softplus, stop


class CircleLoss(PairsLoss):
    """Labels, each pair with a weight of its own: the farther a similarity is from its optimum, the harder it pulls.

    Choose it for recognition from class labels, by pairs: faces, persons, products.
    Prefer SupConLoss for an encoder before a classifier, ArcFaceLoss where a vector for each class can be kept.

    A row counts if it has positives and negatives. The weights of pairs are constants for the gradient.
    """

    margin: float = param(
        default=0.4, domain=Interval("in [0, 1)", low=0.0, high=1.0, high_open=True),
        doc="How far similarities may stay from 1 and 0.",
    )  # fmt: skip
    gamma: float = param(default=80.0, domain=positive, doc="By which everything is multiplied before the softmax.")

    name = "circle_loss"
    arguments = "margin gamma normalize reduction"
    pairing = "labels"
    needs = "both"

    @staticmethod
    def positive(similarity, margin, gamma):
        return -gamma * stop(maximum(1.0 + margin - similarity, 0.0)) * (similarity - (1.0 - margin))

    @staticmethod
    def negative(similarity, margin, gamma):
        return gamma * stop(maximum(similarity + margin, 0.0)) * (similarity - margin)

    @staticmethod
    def value(positive_log_sum_exp, negative_log_sum_exp):
        return softplus(positive_log_sum_exp + negative_log_sum_exp)

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]], target=[0, 0, 1, 1], value=78.186297,
             source="mpmath"),
        Case(input=[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]], target=[0, 0, 1, 1], margin=0.25, gamma=2.0,
             value=5.94048, source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-metric-learning",
            (
                "pytorch_metric_learning.losses.CircleLoss(m=0.4, gamma=80, "
                "reducer=pytorch_metric_learning.reducers.MeanReducer())(input, target)"
            ),
            "circle_loss(input, target)",
            given={
                "input": [[0.5, -1.0, 2.0], [1.0, 0.3, -0.2], [-0.4, 0.8, 0.1], [0.2, 0.2, 0.9]],
                "target": [0, 1, 0, 1],
            },
            why="Its own reducer leaves losses of 0 out of the mean.",
        ),
    ]
    task = "metric learning"
    best_for = "Recognition by pairs, from class labels."
    not_for = "Batches of one class."
    reference = (
        "Sun, Y. et al. (2020). Circle loss: a unified perspective of pair similarity optimization. CVPR. "
        "arXiv:2002.10857."
    )
