"""CORNLoss: ordered classes as a row of yes-or-no questions, each asked where the answers before it were yes."""

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import softplus, where


class CORNLoss(PointwiseLoss):
    """Conditional ordinal regression: K ordered classes as K - 1 questions, is the class above k if it is above k - 1?

    Choose it for grades, ages and other classes with an order, with any last layer: the product of the answers is in
    order by itself.
    Prefer CORALLoss to compare with its results, CrossEntropyLoss where the order means nothing.

    The loss of a row is the sum of the binary cross entropies of the questions that its class is asked: those up to the
    class. The mean divides by the number of questions asked in the whole batch, not by the number of rows.
    """

    name = "corn_loss"
    rows = "sum"
    operands = {
        "input": Operand("Scores of shape (N, K - 1) for K classes: of being above class 0, 1, ...", kind="logit"),
        "target": Operand("Classes from 0 to K - 1, of shape (N,).", per_row=True, broadcast=True, differentiable=False,
                          places=1),
    }  # fmt: skip

    @staticmethod
    def value(input, target, position):
        return where(target >= position, softplus(where(target > position, -input, input)), 0.0)

    @staticmethod
    def counts(input, target, position):
        return where(target >= position, 1.0, 0.0)

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[2.0, 0.5, -1.0], [-1.0, 0.0, 1.0]], target=[2, 0], value=1.2275286,
             grad=[[-0.11920292, -0.37754067, 0.26894142], [0.26894142, 0.0, 0.0]], source="mpmath"),
        Case(input=[[0.0, 0.0]], target=[0], value=0.6931471805599453, grad=[[0.5, 0.0]], source="log 2"),
    ]  # fmt: skip
    peers = [
        Peer(
            "coral-pytorch",
            "coral_pytorch.losses.corn_loss(input, target, num_classes=6)",
        ),
    ]
    aliases = "conditional_ordinal_regression"
    task = "ordinal"
    best_for = "Ordered classes, with any last layer."
    not_for = "Classes without an order."
    reference = (
        "Shi, X., Cao, W. and Raschka, S. (2023). Deep neural networks for rank-consistent ordinal regression based on "
        "conditional probabilities. Pattern Analysis and Applications 26, 941-955. arXiv:2111.08851."
    )
