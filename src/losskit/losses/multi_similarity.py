"""MultiSimilarityLoss: soft maxima of positive and negative pairs, each by itself."""

from losskit.declaration import Case, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pairs import PairsLoss
from losskit.formula import softplus


class MultiSimilarityLoss(PairsLoss):
    """Labels, with soft maxima: positives less similar than `base` pull, negatives more similar push.

    Choose it for retrieval from class labels, mostly after pairs were mined.
    Prefer CircleLoss where each pair should have a weight of its own, SupConLoss before a classifier.

    Every row counts; one without positives, or negatives, has only the other part. Mining is a separate step.
    """

    alpha: float = param(default=2.0, domain=positive, doc="How sharply positives are weighed.")
    beta: float = param(default=50.0, domain=positive, doc="How sharply negatives are weighed.")
    base: float = param(default=0.5, doc="The similarity beyond which pairs weigh little.")

    name = "multi_similarity_loss"
    arguments = "alpha beta base normalize reduction"
    pairing = "labels"
    needs = "nothing"

    @staticmethod
    def positive(similarity, alpha, base):
        return -alpha * (similarity - base)

    @staticmethod
    def negative(similarity, beta, base):
        return beta * (similarity - base)

    @staticmethod
    def value(positive_log_sum_exp, negative_log_sum_exp, alpha, beta):
        return softplus(positive_log_sum_exp) / alpha + softplus(negative_log_sum_exp) / beta

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]], target=[0, 0, 1, 1], value=1.796276,
             source="mpmath"),
        Case(input=[[1.0, 0.0], [0.0, 1.0]], target=[0, 0], base=0.0, value=0.6931471805599453,
             grad=[[0.0, -1.0], [-1.0, 0.0]], source="log 2"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-metric-learning",
            "pytorch_metric_learning.losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5)(input, target)",
            "multi_similarity_loss(input, target)",
            given={
                "input": [[0.5, -1.0, 2.0], [1.0, 0.3, -0.2], [-0.4, 0.8, 0.1], [0.2, 0.2, 0.9]],
                "target": [0, 1, 0, 1],
            },
        ),
    ]
    aliases = "ms_loss"
    task = "metric learning"
    best_for = "Retrieval from class labels."
    not_for = "Pairs without labels."
    reference = (
        "Wang, X. et al. (2019). Multi-similarity loss with general pair weighting for deep metric learning. CVPR. "
        "arXiv:1904.06627."
    )
