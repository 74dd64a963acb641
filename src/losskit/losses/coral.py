"""CORALLoss: ordered classes as a row of yes-or-no questions, with one weight for all of them."""

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import softplus, where


class CORALLoss(PointwiseLoss):
    """Consistent rank logits: K ordered classes as K - 1 questions, is the class above k?

    Choose it for grades, ages and other classes with an order, when the model's last layer has one weight for all
    questions and a bias for each, which keeps the answers in order.
    Prefer CORNLoss for a last layer without this restriction, CrossEntropyLoss where the order means nothing.

    The loss of a row is the sum of the binary cross entropies of its questions. The predicted class is the number of
    questions whose score is above 0. It is not the "deep CORAL" of domain adaptation.
    """

    name = "coral_loss"
    rows = "sum"
    operands = {
        "input": Operand("Scores of shape (N, K - 1) for K classes: of being above class 0, 1, ...", kind="logit"),
        "target": Operand("Classes from 0 to K - 1, of shape (N,).", per_row=True, broadcast=True, differentiable=False,
                          places=1),
    }  # fmt: skip

    @staticmethod
    def value(input, target, position):
        return softplus(where(target > position, -input, input))

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[2.0, 0.5, -1.0]], target=[2], value=0.91426688,
             grad=[[-0.11920292, -0.37754067, 0.26894142]], source="mpmath"),
        Case(input=[[0.0, 0.0]], target=[0], value=1.3862943611198906, grad=[[0.5, 0.5]], source="2 log 2"),
    ]  # fmt: skip
    peers = [
        Peer(
            "coral-pytorch",
            "coral_pytorch.losses.coral_loss(input, coral_pytorch.dataset.levels_from_labelbatch(target, 6))",
            agrees=1e-6,
            why="coral-pytorch wants rows of levels; here are classes. Its levels are float32.",
        ),
    ]
    aliases = "consistent_rank_logits"
    task = "ordinal"
    best_for = "Ordered classes, with a last layer of one weight."
    not_for = "Classes without an order; a last layer with a weight for each question."
    reference = (
        "Cao, W., Mirjalili, V. and Raschka, S. (2020). Rank consistent ordinal regression for neural networks. "
        "Pattern Recognition Letters 140, 325-331. arXiv:1901.07884."
    )
