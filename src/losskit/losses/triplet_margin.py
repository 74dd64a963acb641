"""TripletMarginLoss: an anchor nearer to its positive than to its negative, by a margin."""

from torch import nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import positive as above_zero
from losskit.facts import Facts
from losskit.families.embeddings import EmbeddingsLoss
from losskit.formula import maximum, where


class TripletMarginLoss(EmbeddingsLoss, nn.TripletMarginLoss):
    """Triplets: the anchor should be nearer to the positive than to the negative, by at least `margin`.

    Choose it for metric learning: faces, retrieval, few-shot classes.
    Prefer CosineEmbeddingLoss for pairs with labels, CrossEntropyLoss when the classes are known and few.
    """

    margin: float = param(
        default=1.0, domain=above_zero, doc="By how much nearer the positive must be to cost nothing."
    )

    arguments = "margin p eps swap size_average reduce reduction"
    operands = {
        "anchor": Operand("Embeddings of shape (..., D)."),
        "positive": Operand("Embeddings like the anchor's, of the same shape; leading dimensions of size 1 stretch."),
        "negative": Operand("Embeddings unlike it, of the same shape; leading dimensions of size 1 stretch."),
    }

    @staticmethod
    def value(positive_distance, negative_distance, margin):
        return maximum(positive_distance - negative_distance + margin, 0.0)

    @staticmethod
    def grad(positive_distance, negative_distance, margin):
        idle = positive_distance - negative_distance + margin < 0.0  # exactly at the margin it still pushes
        return where(idle, 0.0, 1.0), where(idle, 0.0, -1.0)

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(anchor=[[0.0, 0.0]], positive=[[3.0, 4.0]], negative=[[0.0, 2.0]], eps=0.0, value=4.0,
             grad=[[-0.6, 0.2]], source="by hand"),
        Case(anchor=[[0.0, 0.0]], positive=[[0.0, 2.0]], negative=[[3.0, 4.0]], eps=0.0, value=0.0, grad=[[0.0, 0.0]],
             source="by hand"),
        Case(anchor=[[0.0, 0.0]], positive=[[0.0, 4.0]], negative=[[5.0, 0.0]], eps=0.0, value=0.0, grad=[[1.0, -1.0]],
             source="torch's subgradient at the margin"),
        Case(anchor=[[0.0, 0.0]], positive=[[3.0, 4.0]], negative=[[3.0, 3.0]], eps=0.0, p=1.0, swap=True, value=7.0,
             grad=[[-1.0, -1.0]], source="by hand"),
    ]  # fmt: skip
    deviations = [
        Deviation("Squares of large differences overflow in torch.",
                  {"anchor": [[0.0, 0.0]], "positive": [[3e20, 4e20]], "negative": [[0.0, 4e20]]},
                  torch=float("nan"), losskit=1e20),
        Deviation("Where both distances are beyond the largest number, only the question which is larger is left.",
                  {"anchor": [[0.0, 0.0]], "positive": [[3.0, 4.0]], "negative": [[5.0, 6.0]], "p": 1e-6},
                  torch=float("nan"), losskit=0.0),
    ]  # fmt: skip
    peers = [
        Peer(
            "optax",
            "optax.losses.triplet_margin_loss(anchor, positive, negative)",
            "triplet_margin_loss(anchor, positive, negative, reduction='none')",
            agrees=1e-5,
            why="1e-6 is added inside the root there, to each difference here, as in torch.",
        ),
    ]
    aliases = "triplet"
    task = "metric learning"
    best_for = "Metric learning with triplets."
    not_for = "Pairs; classes that are known and few."
    reference = (
        "Schroff, F., Kalenichenko, D. and Philbin, J. (2015). FaceNet: a unified embedding for face recognition and "
        "clustering. CVPR; swap: Balntas, V. et al. (2016). Learning local feature descriptors with triplets. BMVC."
    )
