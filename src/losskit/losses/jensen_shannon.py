"""JensenShannonLoss: how far a student's and a teacher's class probabilities are from their mixture."""

from losskit.declaration import Case, Peer, param
from losskit.domains import probability
from losskit.facts import Facts
from losskit.families.two_rows import SCORES, TwoRowsLoss
from losskit.formula import absolute, exp, log, times, where
from losskit.losses._divergences import excess, is_near


def of_mixture(teacher, student, log_ratio, beta):
    """The larger and the smaller of q and p, and log(m / it) of both, of their mixture m = beta q + (1 - beta) p.

    The smaller one is the larger times e^-|d|, which neither overflows nor cancels.
    """
    below = log_ratio < 0.0  # the teacher's is the larger one
    own, other = where(below, beta, 1.0 - beta), where(below, 1.0 - beta, beta)
    apart, near = absolute(log_ratio), is_near(log_ratio)
    quotient = exp(-apart)
    missing = other * where(near, excess(-apart) - apart, quotient - 1.0)
    mostly = near | (own >= 0.5)  # the mixture is the larger one but for what is missing
    ratio = where(mostly, 1.0 + missing, own + other * quotient)
    lost = where(mostly, (missing - (ratio - 1.0)) / ratio, 0.0)
    to_larger = where(own == 0.0, -apart, log(ratio) + lost)
    return where(below, teacher, student), where(below, student, teacher), to_larger, to_larger + apart


class JensenShannonLoss(TwoRowsLoss):
    """Generalised Jensen-Shannon divergence: how far the student and the teacher are from their mixture.

    Choose it where student and teacher may be far apart, as on texts that the student wrote: it is bounded.
    Prefer KnowledgeDistillationLoss or ReverseKLDivLoss for one side alone.

    `beta` is the teacher's share of the mixture; 0.5 is the symmetric divergence, at most log 2. At 0 it is the
    forward and at 1 the reverse KL divergence, as in TRL and Liger, although the limit of the formula is 0 there: near
    0 and 1 it goes to 0, and jumps.
    """

    beta: float = param(
        default=0.5, domain=probability, doc="The teacher's share of the mixture; 0 and 1: one side's KL."
    )

    arguments = "beta temperature reduction"
    operands = SCORES

    @staticmethod
    def value(teacher, student, log_ratio, beta):
        of_teacher, of_student = where(beta == 0.0, 1.0, beta), where(beta == 1.0, 1.0, 1.0 - beta)
        larger, smaller, a, b = of_mixture(teacher, student, log_ratio, beta)
        below = log_ratio < 0.0
        of_larger, of_smaller = where(below, of_teacher, of_student), where(below, of_student, of_teacher)
        far = -of_larger * times(larger, a) - of_smaller * times(smaller, b)
        one_sided = where(beta == 0.0, 1.0, where(beta == 1.0, -1.0, 0.0))
        near = of_larger * larger * excess(a) + of_smaller * smaller * excess(b)
        return where(is_near(log_ratio), near, far + one_sided * (student - teacher))

    @staticmethod
    def grad(teacher, student, log_ratio, beta):
        _, _, a, b = of_mixture(teacher, student, log_ratio, beta)
        below = log_ratio < 0.0
        pull = -where(beta == 1.0, 1.0, 1.0 - beta) * times(student, where(below, b, a))
        # The difference of probabilities; where it counts, the one of a and b that is of the teacher is log_ratio.
        moved = teacher * (log_ratio + where(below, excess(a), excess(b)))
        return where(beta == 0.0, where(is_near(log_ratio), moved, student - teacher), pull)

    @staticmethod
    def textbook(teacher, student, log_ratio, beta):
        mixture = beta * teacher + (1.0 - beta) * student
        return beta * teacher * log(teacher / mixture) + (1.0 - beta) * student * log(student / mixture)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=[1.0, 1.0, 0.0], value=0.100132, grad=[0.0752203, -0.0549904, -0.0202298],
             source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=[1.0, 1.0, 0.0], beta=0.1, value=0.0400165,
             grad=[0.0344151, -0.0251594, -0.00925564], source="mpmath"),
        Case(input=[0.0, float("-inf")], target=[float("-inf"), 0.0], value=0.6931471805599453, grad=[0.0, 0.0],
             source="log 2: nothing in common"),
        Case(input=[2.0, 0.0, -1.0], target=[1.0, 1.0, 0.0], beta=0.0, value=0.463214,
             grad=[0.421476, -0.308124, -0.113352], source="KnowledgeDistillationLoss"),
        Case(input=[2.0, 0.0, -1.0], target=[1.0, 1.0, 0.0], beta=1.0, value=0.379738,
             grad=[0.263610, -0.192715, -0.0708957], source="ReverseKLDivLoss"),
    ]  # fmt: skip
    peers = [
        Peer(
            "trl",
            "trl.experimental.gkd.GKDTrainer.generalized_jsd_loss(input, target, beta=0.3, reduction='none').sum(-1)",
            "jensen_shannon_loss(input, target, beta=0.3, reduction='none')",
        ),
        Peer(
            "liger-kernel",
            "liger_kernel.chunked_loss.jsd_loss.LigerFusedLinearJSDFunction.distillation_loss_fn(input, target, "
            "beta=0.3)",
            "jensen_shannon_loss(input, target, beta=0.3, reduction='sum')",
        ),
        Peer(
            "scipy",
            "scipy.spatial.distance.jensenshannon(scipy.special.softmax(target, -1), scipy.special.softmax(input, -1), "
            "axis=-1) ** 2",
            "jensen_shannon_loss(input, target, reduction='none')",
            why="SciPy's is a distance, the root of the divergence.",
        ),
    ]
    aliases = "jsd js_divergence generalized_jsd gkd on_policy_distillation"
    task = "divergence"
    best_for = "Distillation on what the student itself writes."
    not_for = "Shares of exactly 0 or 1 as limits: there it jumps to the KL divergences."
    reference = (
        "Lin, J. (1991). Divergence measures based on the Shannon entropy. IEEE Trans. Inf. Theory 37, 145-151. "
        "Agarwal, R. et al. (2023). On-policy distillation of language models. arXiv:2306.13649."
    )
