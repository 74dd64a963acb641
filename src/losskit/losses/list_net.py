"""ListNetLoss: the softmax of the scores should be that of the relevance."""

from losskit.declaration import Case
from losskit.facts import Facts
from losskit.families.top_one import TopOneLoss


class ListNetLoss(TopOneLoss):
    """ListNet: cross entropy of two softmaxes over the items of a list, that of the scores and that of the relevance.

    Choose it for long lists, of which it takes one softmax and no pairs, and where relevance is graded or a click.
    Prefer LambdaLoss for NDCG, RankNetLoss where the order of all items matters alike.

    Pass the relevance as it is: it is made probabilities here. Its softmax is that of the paper; target_transform
    'normalize' divides by the sum, which suits clicks, and leaves out lists without a relevant item. The least possible
    loss is the entropy of these probabilities, not 0.
    """

    name = "list_net_loss"
    arguments = "target_transform reduction"

    @staticmethod
    def value(log_probability):
        return -log_probability

    facts = Facts(convex=True, smooth=True, lipschitz=2.0**0.5, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.2, 1.5, -0.3], target=[2.0, 0.0, 1.0], value=1.66846,
             grad=[-0.47569722, 0.60546161, -0.12976439], source="mpmath"),
        Case(input=[0.2, 1.5, -0.3], target=[2.0, 0.0, 1.0], target_transform="normalize", value=1.8298022,
             grad=[-0.47712293, 0.69549218, -0.21836925], source="mpmath"),
        Case(input=[0.0, 0.0], target=[3.0, 3.0], value=0.6931471805599453, grad=[0.0, 0.0], source="log 2"),
    ]  # fmt: skip
    aliases = "listwise_cross_entropy ranking_softmax_loss softmax_ranking"
    task = "ranking"
    best_for = "Long lists, one relevant item or a few."
    not_for = "Lists of which the order below the first places matters."
    reference = "Cao, Z. et al. (2007). Learning to rank: from pairwise approach to listwise approach. ICML."
