"""LDAMLoss: cross entropy in which rare classes have a margin."""

import torch
from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss


class LDAMLoss(ClassScoresLoss):
    """Label-distribution-aware margin: cross entropy of scores of which the own class's is reduced, the more the rarer.

    Choose it for long tails: a class of few samples gets a margin, max_m times the fourth root of the rarest class's
    count over its own.
    Prefer LogitAdjustedCrossEntropyLoss for a correction that vanishes at test time, CrossEntropyLoss with `weight` for
    mild imbalance.

    The scores are cosines in the paper, of normalised features and weights; that is why they are multiplied by `scale`.
    Its second stage weighs the classes: pass `weight` then, for example of losskit.class_balanced_weights.
    """

    counts: Tensor = param(domain=positive, doc="How many samples each class has, of shape (C,).")
    max_m: float = param(default=0.5, domain=nonnegative, doc="The margin of the rarest class.")
    scale: float = param(default=30.0, domain=positive, doc="By which the scores are multiplied before the softmax.")

    name = "ldam_loss"
    arguments = "counts max_m scale weight ignore_index reduction label_smoothing"
    scaled_by = "scale"
    operands = {
        "input": Operand("Scores of shape (N, C), (N, C, d1, ...) or (C,); cosines in the paper."),
        "target": Operand("Class indices in [0, C) of any integer dtype, of the shape of input without C."),
    }

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def own(counts, max_m):
        counts = counts.to(torch.float32 if counts.device.type == "mps" else torch.float64)
        return max_m * (counts.min() / counts) ** 0.25

    @staticmethod
    def target_score(score, own):
        return score - own

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.6, 0.1, -0.2], target=0, counts=[5000.0, 100.0, 7.0], value=5.56856e-06,
             grad=[-0.000167056, 0.000167036, 2.06138e-08], source="mpmath"),
        Case(input=[0.1, 0.2, 0.5], target=2, counts=[5000.0, 100.0, 7.0], value=6.05095,
             grad=[1.41942, 28.5099, -29.9293], source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pytorch-optimizer",
            "pytorch_optimizer.loss.LDAMLoss([50, 20, 10, 5, 2])(input, target)",
            "ldam_loss(input, target, counts)",
            agrees=1e-6,
            given={"counts": [50.0, 20.0, 10.0, 5.0, 2.0]},
            why="pytorch-optimizer keeps the margins in float32.",
        ),
    ]
    aliases = "label_distribution_aware_margin"
    task = "multi-class"
    best_for = "Rare classes, with normalised features and weights."
    not_for = "Balanced classes; several right classes at once."
    reference = (
        "Cao, K. et al. (2019). Learning imbalanced datasets with label-distribution-aware margin loss. NeurIPS. "
        "arXiv:1906.07413."
    )
