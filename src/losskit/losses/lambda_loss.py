"""LambdaLoss: RankNet's pairs, each weighed by what it means for NDCG."""

from losskit.declaration import Case, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.lists import ListsLoss
from losskit.formula import exp, log, softplus


def weight(gain_difference, discount_difference, distance_discount, mu, scheme):
    """What a pair means for NDCG."""
    if scheme == "lambdarank":
        return gain_difference * discount_difference
    if scheme == "ndcg2":
        return gain_difference * distance_discount
    return gain_difference * (mu * distance_discount + discount_difference)


class LambdaLoss(ListsLoss):
    """LambdaRank and LambdaLoss: the logistic loss of every pair, weighed by what it means for NDCG.

    Choose it for search and recommendation, where the first places matter most and relevance has grades.
    Prefer RankNetLoss when all places matter alike, ListNetLoss for one softmax over long lists.

    Scheme 'lambdarank' weighs a pair by what exchanging its two items would change in NDCG; 'ndcg2' by a bound of NDCG
    that is tighter, for which only the distance of the ranks counts; 'ndcg2++' adds both, 'ndcg2' times `mu`. The
    weights are constants for the gradient. The logarithm is natural, so that the gradient is the published lambda.
    """

    scheme: str = param(
        default="lambdarank", choices=("lambdarank", "ndcg2", "ndcg2++"), doc="How a pair is weighed.",
    )  # fmt: skip
    sigma: float = param(default=1.0, domain=positive, doc="How steep the logistic function of a difference is.")
    mu: float = param(default=10.0, domain=nonnegative, doc="Weight of 'ndcg2' in 'ndcg2++'.")

    name = "lambda_loss"
    arguments = "scheme sigma k mu reduction"
    pairs = "sum"

    @staticmethod
    def value(difference, gain_difference, discount_difference, distance_discount, sigma, mu, scheme):
        return weight(gain_difference, discount_difference, distance_discount, mu, scheme) * softplus(
            -sigma * difference
        )

    @staticmethod
    def textbook(difference, gain_difference, discount_difference, distance_discount, sigma, mu, scheme):
        return weight(gain_difference, discount_difference, distance_discount, mu, scheme) * log(
            1.0 + exp(-sigma * difference)
        )

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.2, 1.5, -0.3], target=[2.0, 0.0, 1.0], value=0.77303932,
             grad=[-0.26685935, 0.35780351, -0.09094416], source="mpmath"),
        Case(input=[0.2, 1.5, -0.3], target=[2.0, 0.0, 1.0], scheme="ndcg2", value=0.63671279,
             grad=[-0.3163826, 0.27057592, 0.04580668], source="mpmath"),
        Case(input=[1.0, 0.0], target=[1.0, 1.0], value=0.0, grad=[0.0, 0.0], source="no pair"),
    ]  # fmt: skip
    aliases = "lambdarank lambda_rank lambdamart lambda_mart ndcg_loss2 rank_ndcg"
    task = "ranking"
    best_for = "Search and recommendation: NDCG of graded relevance."
    not_for = "Relevance without grades where all places matter alike."
    reference = (
        "Burges, C. (2010). From RankNet to LambdaRank to LambdaMART: an overview. MSR-TR-2010-82. "
        "Wang, X. et al. (2018). The LambdaLoss framework for ranking metric optimization. CIKM."
    )
