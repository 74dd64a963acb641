"""SymmetricCrossEntropyLoss: a share of cross entropy and its reverse, which wrong labels cannot dominate."""

from losskit.declaration import Case, param
from losskit.domains import Interval, nonnegative
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.formula import exp, expm1
from losskit.losses._scores import LOGITS


class SymmetricCrossEntropyLoss(ClassScoresLoss):
    """A share of cross entropy of class scores, and of the reverse, whose log 0 is a number.

    Choose it when some labels are wrong: the reverse is bounded, and the share of cross entropy keeps it learning.
    Prefer CrossEntropyLoss for clean labels, GeneralizedCrossEntropyLoss for a loss that is bounded as a whole.

    The reverse exchanges prediction and label: for a class as label it is -log_zero times the missing probability.
    Probabilities as target count this loss of every class by its share.
    """

    alpha: float = param(default=0.1, domain=nonnegative, doc="Weight of cross entropy.")
    beta: float = param(default=1.0, domain=nonnegative, doc="Weight of the reverse.")
    log_zero: float = param(
        default=-4.0, domain=Interval("negative", high=0.0, high_open=True, typical=-4.0),
        doc="The logarithm that a class without probability is given.",
    )  # fmt: skip

    name = "symmetric_cross_entropy"
    arguments = "alpha beta log_zero weight ignore_index reduction label_smoothing"
    operands = LOGITS

    @staticmethod
    def value(log_probability, alpha, beta, log_zero):
        return -alpha * log_probability + (beta * log_zero) * expm1(log_probability)

    @staticmethod
    def grad(log_probability, alpha, beta, log_zero):
        return (beta * log_zero) * exp(log_probability) - alpha

    @staticmethod
    def textbook(log_probability, alpha, beta, log_zero):
        return -alpha * log_probability - beta * log_zero * (1.0 - exp(log_probability))

    facts = Facts(convex=False, smooth=True, lipschitz=1.050625 * 2.0**0.5, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=0, value=0.641806, grad=[-0.542841, 0.396849, 0.145992], source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=1, value=3.76020, grad=[0.469809, -0.493199, 0.0233904], source="mpmath"),
        Case(input=[0.0, 0.0], target=1, alpha=1.0, beta=0.5, value=1.6931471805599454, grad=[1.0, -1.0],
             source="log(2) + 1"),
    ]  # fmt: skip
    aliases = "sce symmetric_learning reverse_cross_entropy"
    task = "multi-class"
    best_for = "Classes that exclude each other, with some wrong labels."
    not_for = "Clean labels; several right classes at once."
    reference = (
        "Wang, Y. et al. (2019). Symmetric cross entropy for robust learning with noisy labels. ICCV. arXiv:1908.06112."
    )
