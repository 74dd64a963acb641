"""PolyCrossEntropyLoss: cross entropy whose first term, by powers of the missing probability, is weighted."""

from losskit.declaration import Case, Peer, param
from losskit.domains import Interval
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.formula import exp, expm1, expm1m, where
from losskit.losses._scores import LOGITS


class PolyCrossEntropyLoss(ClassScoresLoss):
    """Cross entropy of class scores plus epsilon times the missing probability (poly-1).

    Choose it when CrossEntropyLoss is the right loss and one number may be tuned: a positive epsilon raises the
    gradient of rows that are almost right, a negative one lowers it.
    Prefer CrossEntropyLoss without the time to tune, SoftmaxFocalLoss to count easy rows less by orders of magnitude.

    Cross entropy is the sum of (1 - p) ** k / k for k from 1 on; epsilon is added to the factor of the first power.
    Probabilities as target count this loss of every class by its share.
    """

    epsilon: float = param(
        default=1.0, domain=Interval("at least -1", low=-1.0, typical=1.0),
        doc="Weight of the missing probability; below -1 a right row would be pushed away.",
    )  # fmt: skip

    name = "poly_cross_entropy"
    arguments = "epsilon weight ignore_index reduction label_smoothing"
    operands = LOGITS

    @staticmethod
    def value(log_probability, epsilon):
        # Below 0 the two terms cancel for an almost certain row; neither of the other two is negative then.
        less = -(1.0 + epsilon) * log_probability - epsilon * expm1m(log_probability)
        return where(epsilon < 0.0, less, -log_probability - epsilon * expm1(log_probability))

    @staticmethod
    def grad(log_probability, epsilon):
        less = (1.0 + epsilon) + epsilon * expm1(log_probability)
        return -where(epsilon < 0.0, less, 1.0 + epsilon * exp(log_probability))

    @staticmethod
    def textbook(log_probability, epsilon):
        return -log_probability + epsilon * (1.0 - exp(log_probability))

    facts = Facts(convex=True, smooth=True, lipschitz=2.0**0.5, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[2.0, 0.0, -1.0], target=0, value=0.326051, grad=[-0.288010, 0.210553, 0.0774579], source="mpmath"),
        Case(input=[2.0, 0.0, -1.0], target=1, value=3.05565, grad=[0.940152, -0.986959, 0.0468074], source="mpmath"),
        Case(input=[0.0, 0.0], target=1, epsilon=2.0, value=1.6931471805599454, grad=[1.0, -1.0], source="log(2) + 1"),
    ]  # fmt: skip
    peers = [
        Peer(
            "optax",
            "optax.losses.poly_loss_cross_entropy(input, jax.nn.one_hot(target, 5), epsilon=2.0)",
            "poly_cross_entropy(input, target, epsilon=2.0, reduction='none')",
            why="epsilon is 2 by default in optax.",
        ),
        Peer(
            "timm",
            "timm.loss.PolyCrossEntropy()(input, target)",
            "poly_cross_entropy(input, target, epsilon=2.0)",
            agrees=1e-6,
            why="epsilon is 2 by default in timm, which computes in float32.",
        ),
    ]
    aliases = "poly1 polyloss poly1_cross_entropy"
    task = "multi-class"
    best_for = "Classes that exclude each other, with one number to tune."
    not_for = "Several right classes at once; rare classes."
    reference = (
        "Leng, Z. et al. (2022). PolyLoss: a polynomial expansion perspective of classification loss functions. ICLR. "
        "arXiv:2204.12511."
    )
