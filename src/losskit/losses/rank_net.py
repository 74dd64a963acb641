"""RankNetLoss: of two items, the more relevant one should have the higher score."""

from losskit.declaration import Case, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.lists import ListsLoss
from losskit.formula import exp, log, softplus


class RankNetLoss(ListsLoss):
    """RankNet: the logistic loss of every pair of items in a list of which one is more relevant.

    Choose it to learn an order from graded or clicked results, when all places of the list matter alike.
    Prefer LambdaLoss when the first places matter most, ListNetLoss for one softmax over long lists.

    A list's loss is the mean over its pairs, so that long lists do not dominate, and 'mean' is over the lists that have
    a pair. With one relevant item it is BPR.
    """

    sigma: float = param(default=1.0, domain=positive, doc="How steep the logistic function of a difference is.")
    pair_weight: str = param(
        default="none", choices=("none", "relevance"),
        doc="'relevance' weighs each pair by the difference of its items in relevance.",
    )  # fmt: skip

    name = "rank_net_loss"
    arguments = "sigma pair_weight k reduction"
    pairs = "mean"

    @staticmethod
    def value(difference, relevance_difference, sigma, pair_weight):
        loss = softplus(-sigma * difference)
        return loss if pair_weight == "none" else relevance_difference * loss

    @staticmethod
    def textbook(difference, relevance_difference, sigma, pair_weight):
        loss = log(1.0 + exp(-sigma * difference))
        return loss if pair_weight == "none" else relevance_difference * loss

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.2, 1.5, -0.3], target=[2.0, 0.0, 1.0], value=1.3226877,
             grad=[-0.38779188, 0.54799464, -0.16020276], source="mpmath"),
        Case(input=[1.0, 1.0], target=[1.0, 0.0], value=0.6931471805599453, grad=[-0.5, 0.5], source="log 2"),
        Case(input=[1.0, 1.0], target=[3.0, 0.0], pair_weight="relevance", value=2.0794415416798357, grad=[-1.5, 1.5],
             source="3 log 2"),
    ]  # fmt: skip
    aliases = "pairwise_logistic bpr bayesian_personalized_ranking pairwise_logistic_loss"
    task = "ranking"
    best_for = "Orders of items with grades or clicks, all places alike."
    not_for = "Lists of which only the first places matter; two models' scores for the same item."
    reference = "Burges, C. et al. (2005). Learning to rank using gradient descent. ICML."
