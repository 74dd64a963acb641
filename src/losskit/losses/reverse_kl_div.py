"""ReverseKLDivLoss: the divergence of a teacher's class probabilities from a student's."""

from losskit.declaration import Case, Peer
from losskit.facts import Facts
from losskit.families.two_rows import SCORES, TwoRowsLoss
from losskit.formula import times
from losskit.losses._divergences import reverse_kl


class ReverseKLDivLoss(TwoRowsLoss):
    """How much probability a student spends where its teacher has none: KL(student || teacher).

    Choose it for a student that is too small for all that its teacher knows, such as a small language model: it keeps
    to what the teacher finds likely, and leaves the rest out.
    Prefer KnowledgeDistillationLoss where the student should cover everything, JensenShannonLoss between the two.

    A class that the teacher leaves out (a score of -inf) and the student does not costs infinitely much.
    """

    name = "reverse_kl_div"
    arguments = "temperature reduction"
    operands = SCORES

    @staticmethod
    def value(teacher, student, log_ratio):
        return reverse_kl(teacher, student, log_ratio)

    @staticmethod
    def grad(teacher, student, log_ratio):
        return times(student, log_ratio)  # without the terms that cancel, where the student is almost certain

    @staticmethod
    def textbook(teacher, student, log_ratio):
        return times(student, log_ratio)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=[1.0, 1.0, 0.0], value=0.379738, grad=[0.263610, -0.192715, -0.0708957],
             source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=[1.0, 1.0, 0.0], temperature=4.0, value=0.491104,
             grad=[0.499280, -0.280683, -0.218596], source="mpmath"),
        Case(input=[float("-inf"), 0.0], target=[1.0, 1.0], value=0.6931471805599453, grad=[0.0, 0.0],
             source="log 2: a student who is certain"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torch",
            "F.kl_div(F.log_softmax(target, -1), F.softmax(input, -1), reduction='batchmean')",
        ),
        Peer(
            "trl",
            "trl.experimental.gkd.GKDTrainer.generalized_jsd_loss(input, target, beta=1, temperature=4.0, "
            "reduction='none').sum(-1) * 16",
            "reverse_kl_div(input, target, temperature=4.0, reduction='none')",
            why="TRL does not multiply by the squared temperature.",
        ),
    ]
    aliases = "reverse_kl rkl minillm mode_seeking_kl"
    task = "divergence"
    best_for = "A student much smaller than its teacher."
    not_for = "Teachers that leave classes out."
    reference = "Gu, Y. et al. (2023). MiniLLM: knowledge distillation of large language models. arXiv:2306.08543."
