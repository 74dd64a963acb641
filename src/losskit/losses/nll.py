"""NLLLoss: minus the log-probability of the right class, as the model gives it."""

from torch import nn

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss


class NLLLoss(ClassScoresLoss, nn.NLLLoss):
    """Negative log-likelihood of log-probabilities.

    Choose it when the model ends in a log-softmax, or gives log-probabilities of its own kind.
    Prefer CrossEntropyLoss for raw scores: it is more accurate and does both steps in one pass.
    """

    name = "nll_loss"
    arguments = "weight size_average ignore_index reduce reduction"
    log_probabilities = True
    operands = {
        "input": Operand("Log-probabilities of shape (N, C), (N, C, d1, ...) or (C,)."),
        "target": Operand("Class indices in [0, C) of any integer dtype, of the shape of input without C."),
    }

    @staticmethod
    def value(log_probability):
        return -log_probability

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[-0.5, -1.0, -3.0], target=1, value=1.0, grad=[0.0, -1.0, 0.0], source="by hand"),
        Case(input=[-0.5, -1.0, -3.0], target=0, value=0.5, grad=[-1.0, 0.0, 0.0], source="by hand"),
    ]
    peers = [
        Peer(
            "scikit-learn",
            "sklearn.metrics.log_loss(target, scipy.special.softmax(input, -1), labels=range(5))",
            "nll_loss(F.log_softmax(input, -1), target)",
            why="scikit-learn takes probabilities.",
        ),
    ]
    aliases = "negative_log_likelihood"
    task = "multi-class"
    best_for = "Models that give log-probabilities."
    not_for = "Raw scores; probabilities."
    reference = (
        "Fisher, R. A. (1922). On the mathematical foundations of theoretical statistics. "
        "Phil. Trans. R. Soc. A 222, 309-368."
    )
