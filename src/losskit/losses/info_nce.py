"""InfoNCELoss: the own key of a query among all keys."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive as above_zero
from losskit.facts import Facts
from losskit.families.pairs import PairsLoss
from losskit.losses._contrastive import of_one_positive


class InfoNCELoss(PairsLoss):
    """Queries among keys: each query should be more similar to its own key than to all others.

    Choose it to train encoders of pairs (question and answer, text and image, a state and its future) whose negatives
    are the other pairs of the batch, a queue, or what other ranks have.
    Prefer NTXentLoss for two views of one example, SupConLoss where labels say what belongs together, SigLIPLoss for
    batches so large that no row should wait for all columns.

    Key i belongs to query i; keys beyond the number of queries belong to none, and are negatives of all queries.
    """

    temperature: float | Tensor = param(
        default=0.1, domain=above_zero, doc="By which similarities are divided: a number, or a tensor that may learn."
    )

    name = "info_nce_loss"
    arguments = "temperature symmetric normalize reduction"
    operands = {
        "query": Operand("Embeddings of shape (N, D)."),
        "key": Operand("Embeddings of shape (M, D), M at least N: row i belongs to query i, further rows to none."),
    }

    @staticmethod
    def value(positive_sum, negative_log_sum_exp):
        return of_one_positive(positive_sum, negative_log_sum_exp)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(query=[[1.0, 0.0], [0.6, 0.8]], key=[[0.8, 0.6], [0.0, 1.0]], value=1.784235,
             grad=[[0.0, 0.00134140], [5.85740, -4.39306]], source="mpmath"),
        Case(query=[[1.0, 0.0]], key=[[3.0, 4.0], [4.0, 3.0]], temperature=0.2, value=1.3132617,
             grad=[[0.0, -0.7310586]], source="log(1 + e)"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torch",
            "F.cross_entropy(F.normalize(query) @ F.normalize(key).T / 0.1, torch.arange(len(query)))",
            "info_nce_loss(query, key)",
            why="The composition stores the matrix of similarities.",
        ),
    ]
    aliases = "multiple_negatives_ranking mnr in_batch_negatives contrastive_predictive_coding cpc"
    task = "metric learning"
    best_for = "Encoders of pairs, negatives from the batch or a queue."
    not_for = "Classes that are known and few."
    reference = (
        "van den Oord, A., Li, Y. and Vinyals, O. (2018). Representation learning with contrastive predictive coding. "
        "arXiv:1807.03748."
    )
