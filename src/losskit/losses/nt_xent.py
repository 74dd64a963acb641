"""NTXentLoss: the other view of an example among all views of a batch."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive as above_zero
from losskit.facts import Facts
from losskit.families.pairs import PairsLoss
from losskit.losses._contrastive import of_one_positive


class NTXentLoss(PairsLoss):
    """Two views of each example: each view should find the other among all views of the batch.

    Choose it for self-supervised learning from two augmentations of each example, as SimCLR does.
    Prefer InfoNCELoss where queries and keys are different things, SupConLoss where labels are known.
    """

    temperature: float | Tensor = param(
        default=0.5, domain=above_zero, doc="By which similarities are divided: a number, or a tensor that may learn."
    )

    name = "nt_xent_loss"
    arguments = "temperature normalize reduction"
    pairing = "views"
    operands = {
        "input1": Operand("Embeddings of the first view, of shape (N, D)."),
        "input2": Operand("Embeddings of the second view of the same examples, of shape (N, D)."),
        "negatives": Operand("More columns, (K, D), which belong to no row: what other ranks have.", optional=True),
    }

    @staticmethod
    def value(positive_sum, negative_log_sum_exp):
        return of_one_positive(positive_sum, negative_log_sum_exp)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input1=[[1.0, 0.0], [0.6, 0.8]], input2=[[0.8, 0.6], [0.0, 1.0]], value=3.482856,
             grad=[[0.0, -0.00912884], [2.236956, -1.677716]], source="mpmath"),
        Case(input1=[[1.0, 0.0]], input2=[[0.0, 1.0]], value=0.0, grad=[[0.0, 0.0]], source="one example has no rival"),
    ]  # fmt: skip
    peers = [
        Peer("lightly", "lightly.loss.NTXentLoss(temperature=0.5)(input1, input2)", "nt_xent_loss(input1, input2)"),
        Peer(
            "pytorch-metric-learning",
            (
                "pytorch_metric_learning.losses.NTXentLoss(temperature=0.5)(torch.cat([input1, input2]), "
                "torch.arange(len(input1)).repeat(2))"
            ),
            "nt_xent_loss(input1, input2)",
        ),
        Peer(
            "monai",
            "monai.losses.ContrastiveLoss(temperature=0.5)(input1, input2)",
            "nt_xent_loss(input1, input2)",
        ),
    ]
    aliases = "simclr normalized_temperature_scaled_cross_entropy"
    task = "metric learning"
    best_for = "Self-supervised learning from two views."
    not_for = "Labels; pairs of different things."
    reference = (
        "Chen, T. et al. (2020). A simple framework for contrastive learning of visual representations. ICML. "
        "arXiv:2002.05709."
    )
