"""GeneralizedCrossEntropyLoss: between cross entropy and the missing probability, robust against wrong labels."""

from losskit.declaration import Case, Peer, param
from losskit.domains import Interval
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.formula import exp, expm1, power
from losskit.losses._scores import LOGITS


class GeneralizedCrossEntropyLoss(ClassScoresLoss):
    """Generalised cross entropy of class scores, (1 - p ** q) / q: no row costs more than 1 / q.

    Choose it when some labels are wrong: a row that contradicts its label by far pulls less and less.
    Prefer CrossEntropyLoss for clean labels, for it learns faster; SymmetricCrossEntropyLoss to keep a share of it.

    The limit for q to 0 is CrossEntropyLoss; with q = 1 it is the missing probability. Probabilities as target count
    this loss of every class by its share.
    """

    q: float = param(
        default=0.7, domain=Interval("in (0, 1]", low=0.0, high=1.0, low_open=True, typical=0.7),
        doc="The exponent of the probability: the larger, the more wrong labels it bears, and the slower it learns.",
    )  # fmt: skip

    name = "generalized_cross_entropy"
    arguments = "q weight ignore_index reduction label_smoothing"
    operands = LOGITS

    @staticmethod
    def value(log_probability, q):
        return -expm1(q * log_probability) / q

    @staticmethod
    def grad(log_probability, q):
        return -exp(q * log_probability)

    @staticmethod
    def textbook(log_probability, q):
        return (1.0 - power(exp(log_probability), q)) / q

    facts = Facts(
        convex=False, smooth=True, lipschitz="sqrt(2) * (q / (1 + q)) ** q / (1 + q)", minimum=0.0, symmetric=False,
        robust=True,
    )  # fmt: skip
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=0, value=0.160138, grad=[-0.138695, 0.101394, 0.0373009], source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=1, value=1.11578, grad=[0.184752, -0.193951, 0.00919828], source="mpmath"),
        Case(input=[0.0, 0.0], target=0, q=1.0, value=0.5, grad=[-0.25, 0.25], source="1 - 1/2"),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.CategoricalGeneralizedCrossEntropy(q=0.7)(target, input.softmax(-1))",
            "generalized_cross_entropy(input, target)",
            agrees=1e-6,
            why="Keras takes probabilities, and q is 0.5 by default.",
        ),
    ]
    aliases = "gce lq"
    task = "multi-class"
    best_for = "Classes that exclude each other, with some wrong labels."
    not_for = "Clean labels; several right classes at once."
    reference = (
        "Zhang, Z. and Sabuncu, M. R. (2018). Generalized cross entropy loss for training deep neural networks with "
        "noisy labels. NeurIPS. arXiv:1805.07836."
    )
