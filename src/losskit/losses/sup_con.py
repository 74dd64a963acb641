"""SupConLoss: rows of the same label among all rows of a batch."""

from torch import Tensor

from losskit.declaration import Case, Peer, param
from losskit.domains import positive as above_zero
from losskit.facts import Facts
from losskit.families.pairs import PairsLoss
from losskit.formula import logaddexp, softplus


class SupConLoss(PairsLoss):
    """Rows with labels: each row should be more similar to all rows of its label than to the others.

    Choose it to train an encoder from labels, before a classifier on top of it.
    Prefer NTXentLoss without labels, CrossEntropyLoss to classify and nothing else, CircleLoss or ArcFaceLoss for
    recognition.

    The mean over the positives stands outside of the logarithm. A row whose label no other row has, has no loss.
    """

    temperature: float | Tensor = param(
        default=0.1, domain=above_zero, doc="By which similarities are divided: a number, or a tensor that may learn."
    )

    name = "sup_con_loss"
    arguments = "temperature normalize reduction"
    pairing = "labels"

    @staticmethod
    def value(positive_log_sum_exp, positive_mean, negative_log_sum_exp):
        # With one positive the second part is exactly 0, and the first keeps its digits.
        return softplus(negative_log_sum_exp - positive_log_sum_exp) + (positive_log_sum_exp - positive_mean)

    @staticmethod
    def textbook(positive_log_sum_exp, positive_mean, negative_log_sum_exp):
        return logaddexp(positive_log_sum_exp, negative_log_sum_exp) - positive_mean

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-0.8, 0.6]], target=[0, 0, 1, 1], value=4.2594,
             grad=[[0.0, -7.03876], [-14.12844, 10.59636], [17.66056, 0.0], [-4.22324, -5.63100]], source="mpmath"),
        Case(input=[[1.0, 0.0], [0.0, 1.0]], target=[0, 0], value=0.0, grad=[[0.0, 0.0], [0.0, 0.0]],
             source="one positive, no negative"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-metric-learning",
            "pytorch_metric_learning.losses.SupConLoss(temperature=0.1)(input, target)",
            "sup_con_loss(input, target)",
            given={
                "input": [[0.5, -1.0, 2.0], [1.0, 0.3, -0.2], [-0.4, 0.8, 0.1], [0.2, 0.2, 0.9]],
                "target": [0, 1, 0, 1],
            },
            why="There a loss of exactly 0 does not count in the mean; here each row with a positive does.",
        ),
    ]
    aliases = "supervised_contrastive"
    task = "metric learning"
    best_for = "Encoders from labels."
    not_for = "Batches in which most labels occur once."
    reference = "Khosla, P. et al. (2020). Supervised contrastive learning. NeurIPS. arXiv:2004.11362."
