"""LogitAdjustedCrossEntropyLoss: cross entropy that expects rare classes to be rare."""

import torch
from torch import Tensor

from losskit.declaration import Case, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.losses._scores import LOGITS


class LogitAdjustedCrossEntropyLoss(ClassScoresLoss):
    """Cross entropy of class scores to which tau times the logarithm of the classes' frequencies is added.

    Choose it when some classes are much rarer than others and all shall be found alike. At test time, take the scores
    as they are: the frequencies are not in them.
    Prefer CrossEntropyLoss when the test has the frequencies of the training data.

    With tau = 1 it is balanced softmax.
    """

    prior: Tensor | None = param(
        default=None, domain=positive,
        doc="Frequency of each class, counts or shares, of shape (C,). None: all alike, which is cross entropy.",
    )  # fmt: skip
    tau: float = param(default=1.0, domain=nonnegative, doc="How much of the logarithm of the frequencies is added.")

    name = "logit_adjusted_cross_entropy"
    arguments = "prior tau weight ignore_index reduction label_smoothing"
    operands = LOGITS

    @staticmethod
    def value(log_probability):
        return -log_probability

    @staticmethod
    def shift(prior, tau):
        if prior is None:
            return None
        prior = prior.to(torch.promote_types(prior.dtype, torch.float32))  # a sum of halves is none
        return tau * torch.log(prior / prior.sum())

    facts = Facts(convex=True, smooth=True, lipschitz=2.0**0.5, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=2, prior=[0.7, 0.2, 0.1], value=4.99067,
             grad=[0.956224, 0.0369745, -0.993199], source="mpmath"),
        Case(input=[0.0, 0.0, 0.0], target=0, prior=[0.7, 0.2, 0.1], value=0.356675, grad=[-0.3, 0.2, 0.1],
             source="-log 0.7"),
        Case(input=[0.0, 0.0], target=0, prior=[3.0, 1.0], tau=2.0, value=0.10536051565782628, grad=[-0.1, 0.1],
             source="-log 0.9"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torch",
            "F.cross_entropy(input + torch.log(prior), target)",
            "logit_adjusted_cross_entropy(input, target, prior)",
            given={"prior": [0.5, 0.2, 0.15, 0.1, 0.05]},
            why="At tau = 1, also called balanced softmax.",
        ),
    ]
    aliases = "balanced_softmax logit_adjustment"
    task = "multi-class"
    best_for = "Rare classes that shall be found as often as the others."
    not_for = "Frequencies that are the same at test time; several right classes at once."
    reference = (
        "Menon, A. K. et al. (2021). Long-tail learning via logit adjustment. ICLR. arXiv:2007.07314. "
        "Balanced softmax: Ren, J. et al. (2020). NeurIPS. arXiv:2007.10740."
    )
