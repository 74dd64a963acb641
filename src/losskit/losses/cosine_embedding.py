"""CosineEmbeddingLoss: the same direction for similar pairs, another one for dissimilar pairs."""

from torch import nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import signs
from losskit.facts import Facts
from losskit.families.embeddings import EmbeddingsLoss
from losskit.formula import maximum, where


class CosineEmbeddingLoss(EmbeddingsLoss, nn.CosineEmbeddingLoss):
    """Angles: 1 - cosine for similar pairs (target 1), what the cosine exceeds `margin` by for dissimilar ones (-1).

    Choose it for pairs of embeddings whose length means nothing.
    Prefer TripletMarginLoss when triplets are at hand, HingeEmbeddingLoss for distances.
    """

    margin: float = param(default=0.0, doc="Cosine up to which a dissimilar pair costs nothing; -1 to 1.")

    arguments = "margin size_average reduce reduction"
    operands = {
        "input1": Operand("Embeddings of shape (..., D)."),
        "input2": Operand("Embeddings to compare them with, of the same shape; leading dimensions of size 1 stretch."),
        "target": Operand("A label for each row: 1 similar, -1 dissimilar.", domain=signs,
                          hint="For labels 0 and 1 pass 2 * target - 1."),
    }  # fmt: skip

    @staticmethod
    def value(cosine, cosine_distance, target, margin):
        apart = where(target == -1.0, maximum(cosine - margin, 0.0), 0.0)
        loss = where(target == 1.0, cosine_distance, apart)
        return where(target == target, loss, target)

    @staticmethod
    def grad(cosine, cosine_distance, target, margin):
        idle = (target != -1.0) | (cosine - margin < 0.0)  # exactly at the margin it still pushes
        return where(idle, 0.0, 1.0), where(target == 1.0, 1.0, 0.0), 0.0

    @staticmethod
    def textbook(cosine, cosine_distance, target, margin):
        return where(target == 1.0, 1.0 - cosine, maximum(0.0, cosine - margin))

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input1=[[3.0, 4.0]], input2=[[4.0, 3.0]], target=[1.0], value=0.04, grad=[[-0.0448, 0.0336]],
             source="by hand"),
        Case(input1=[[3.0, 4.0]], input2=[[4.0, 3.0]], target=[-1.0], margin=0.5, value=0.46, grad=[[0.0448, -0.0336]],
             source="by hand"),
        Case(input1=[[3.0, 4.0]], input2=[[-4.0, 3.0]], target=[-1.0], value=0.0, grad=[[-0.16, 0.12]],
             source="torch's subgradient at the margin"),
        Case(input1=[[0.0, 0.0]], input2=[[4.0, 3.0]], target=[1.0], value=1.0, grad=[[0.0, 0.0]],
             source="a zero vector has cosine 0"),
    ]  # fmt: skip
    deviations = [
        Deviation("torch adds an epsilon to the squared norms, which swallows short vectors.",
                  {"input1": [[3e-10, 4e-10]], "input2": [[4e-10, 3e-10]], "target": [1.0]}, torch=1.0, losskit=0.04),
        Deviation("Squares of long vectors overflow in torch.",
                  {"input1": [[3e20, 4e20]], "input2": [[4e20, 3e20]], "target": [1.0]}, torch=float("nan"),
                  losskit=0.04),
    ]  # fmt: skip
    peers = [
        Peer(
            "keras",
            "keras.losses.CosineSimilarity()(input1, input2)",
            "cosine_embedding_loss(input1, input2, torch.ones(6)) - 1",
            agrees=1e-6,
            why="Keras gives minus the cosine, 1 less.",
        ),
        Peer(
            "optax",
            "optax.losses.cosine_distance(input1, input2)",
            "cosine_embedding_loss(input1, input2, torch.ones(6), reduction='none')",
        ),
    ]
    aliases = "cosine"
    task = "metric learning"
    best_for = "Pairs of embeddings whose length means nothing."
    not_for = "Distances; lengths that matter."
    reference = (
        "Hadsell, R., Chopra, S. and LeCun, Y. (2006). Dimensionality reduction by learning an invariant mapping. "
        "CVPR; with the cosine as similarity."
    )
