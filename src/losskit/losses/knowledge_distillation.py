"""KnowledgeDistillationLoss: the divergence of a student's class probabilities from a teacher's, at a temperature."""

from losskit.declaration import Case, Peer
from losskit.facts import Facts
from losskit.families.two_rows import SCORES, TwoRowsLoss
from losskit.formula import times
from losskit.losses._divergences import difference, forward_kl


class KnowledgeDistillationLoss(TwoRowsLoss):
    """How much a student's probabilities miss of its teacher's: KL(teacher || student) of softened scores.

    Choose it to train a small model on the scores of a large one; mix it with CrossEntropyLoss of the labels.
    Prefer ReverseKLDivLoss for a student too small to cover all that the teacher does, JensenShannonLoss where scores
    are far apart: it is bounded.

    The mean is that of rows (torch's KLDivLoss calls it "batchmean"). For the teacher's k best classes alone, set its
    other scores to -inf, as `losskit.top_k_scores` does: they have no probability then and cost nothing.
    """

    arguments = "temperature reduction"
    operands = SCORES

    @staticmethod
    def value(teacher, student, log_ratio):
        return forward_kl(teacher, student, log_ratio)

    @staticmethod
    def grad(teacher, student, log_ratio):
        return difference(teacher, student, log_ratio)

    @staticmethod
    def textbook(teacher, student, log_ratio):
        return -times(teacher, log_ratio)

    facts = Facts(convex=True, smooth=True, lipschitz="temperature * sqrt(2)", minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=[1.0, 1.0, 0.0], value=0.463214, grad=[0.421476, -0.308124, -0.113352],
             source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=[1.0, 1.0, 0.0], temperature=4.0, value=0.478150,
             grad=[0.484627, -0.272446, -0.212181], source="mpmath"),
        Case(input=[1.0, 1.0], target=[float("-inf"), 0.0], value=0.6931471805599453, grad=[0.5, -0.5],
             source="log 2: a teacher who is certain"),
        Case(input=[3.0, -1.0], target=[5.0, 1.0], value=0.0, grad=[0.0, 0.0], source="the same probabilities"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torch",
            "F.kl_div(F.log_softmax(input / 4, -1), F.softmax(target / 4, -1), reduction='batchmean') * 16",
            "knowledge_distillation_loss(input, target, temperature=4.0)",
        ),
        Peer(
            "torch",
            "F.kl_div(F.log_softmax(input, -1), F.softmax(target, -1), reduction='mean')",
            differs=0.8,
            gradient_differs=0.8,
            why="torch's 'mean' divides by rows and classes, N C: it is 1 / C of this one.",
        ),
        Peer(
            "trl",
            "trl.experimental.gkd.GKDTrainer.generalized_jsd_loss(input, target, beta=0, temperature=4.0, "
            "reduction='none').sum(-1) * 16",
            "knowledge_distillation_loss(input, target, temperature=4.0, reduction='none')",
            why="TRL does not multiply by the squared temperature.",
        ),
    ]
    aliases = "kd kd_loss distillation hinton soft_target forward_kl"
    task = "divergence"
    best_for = "A small model that learns from a large one."
    not_for = "Labels; a teacher whose scores are not those of the same classes."
    reference = (
        "Hinton, G., Vinyals, O. and Dean, J. (2015). Distilling the knowledge in a neural network. arXiv:1503.02531."
    )
