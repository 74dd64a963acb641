"""TotalVariationDistanceLoss: half the sum of the differences between two rows of probabilities."""

from losskit.declaration import Case, Peer
from losskit.facts import Facts
from losskit.families.two_rows import SCORES, TwoRowsLoss
from losskit.formula import absolute, sign
from losskit.losses._divergences import difference


class TotalVariationDistanceLoss(TwoRowsLoss):
    """The share of probability that a student puts elsewhere than its teacher: between 0 and 1.

    Choose it where single classes that are far off must not dominate: no class pulls by more than its probability.
    Prefer KnowledgeDistillationLoss to learn what the teacher finds unlikely, too; its gradient does not vanish where
    the two have nothing in common.

    It is no total variation of an image. Where both have the same probability there is no pull.
    """

    arguments = "reduction"
    operands = SCORES

    @staticmethod
    def value(teacher, student, log_ratio):
        return 0.5 * absolute(difference(teacher, student, log_ratio))

    @staticmethod
    def grad(teacher, student, log_ratio):
        return 0.5 * sign(log_ratio) * student

    @staticmethod
    def textbook(teacher, student, log_ratio):
        return 0.5 * absolute(student - teacher)

    facts = Facts(convex=False, smooth=False, lipschitz=0.3535533905932738, minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=[1.0, 1.0, 0.0], value=0.421476, grad=[0.131805, -0.0963573, -0.0354479],
             source="mpmath"),
        Case(input=[0.0, float("-inf")], target=[float("-inf"), 0.0], value=1.0, grad=[0.0, 0.0],
             source="nothing in common"),
        Case(input=[3.0, -1.0], target=[5.0, 1.0], value=0.0, grad=[0.0, 0.0], source="the same probabilities"),
    ]  # fmt: skip
    peers = [
        Peer(
            "scipy",
            "np.array([0.5 * scipy.spatial.distance.cityblock(p, q) for p, q in "
            "zip(scipy.special.softmax(input, -1), scipy.special.softmax(target, -1))])",
            "total_variation_distance_loss(input, target, reduction='none')",
        ),
    ]
    aliases = "tvd tv_distance total_variation"
    task = "divergence"
    best_for = "Distillation in which no single class may dominate."
    not_for = "Students that start far from their teacher: the gradient vanishes there."
    reference = (
        "Wen, Y. et al. (2023). f-Divergence minimization for sequence-level knowledge distillation. ACL. "
        "arXiv:2307.15190."
    )
