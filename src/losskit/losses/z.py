"""ZLoss: how far the scores of a row are from being log-probabilities already."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss


class ZLoss(ClassScoresLoss):
    """The squared log-sum-exp of class scores, times a small number: it keeps scores from drifting.

    Choose it beside CrossEntropyLoss when a large model is trained in half precision, or for the router of a mixture of
    experts: add the two losses, with the same mask.
    Prefer CrossEntropyLoss alone where scores do not drift, losskit.soft_cap for a bound on scores instead of a pull.

    It is no loss by itself: it has no target.
    """

    coefficient: float = param(default=1e-4, domain=nonnegative, doc="What the square is multiplied by.")

    name = "z_loss"
    arguments = "coefficient reduction"
    targets = False
    operands = {"input": Operand("Scores (logits) of shape (N, C), (N, C, d1, ...) or (C,).")}

    @staticmethod
    def value(log_sum_exp, coefficient):
        return coefficient * log_sum_exp * log_sum_exp

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], value=0.000470823, grad=[0.000366181, 4.95572e-05, 1.82311e-05], source="mpmath"),
        Case(input=[0.0, 0.0, 0.0, 0.0], coefficient=1.0, value=1.9218120556728056,
             grad=[0.693147, 0.693147, 0.693147, 0.693147], source="(log 4)²"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torch",
            "1e-4 * torch.logsumexp(input, -1).square().mean()",
        ),
    ]
    aliases = "router_z lse_square logsumexp_regularizer"
    task = "multi-class"
    best_for = "Scores that drift while a large model is trained."
    not_for = "Training by itself: it knows no target."
    reference = (
        "Chowdhery, A. et al. (2022). PaLM: scaling language modeling with pathways. arXiv:2204.02311. Zoph, B. et al. "
        "(2022), arXiv:2202.08906."
    )
