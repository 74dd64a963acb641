"""ListMLELoss: how likely the right order of a list is, drawn without replacement."""

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.ordered import OrderedLoss


class ListMLELoss(OrderedLoss):
    """Minus the log-probability of the right order of a list, in the model of Plackett and Luce.

    Choose it to rank whole lists of items with graded relevance: the best item is drawn by a softmax over the list,
    then the next one by a softmax over the rest.
    Prefer CrossEntropyLoss when only one item is right, BradleyTerryLoss for pairs.

    Items of the same relevance keep the order of the input. The loss of a list is the sum over its items; a list of
    fewer than two items does not count.
    """

    name = "list_mle_loss"
    arguments = "reduction"
    operands = {
        "input": Operand("Scores of the items, (..., K): lists along the last dimension.", kind="logit"),
        "target": Operand("Relevance of the items, of the same shape; any numbers.", differentiable=False),
        "element_mask": Operand("Boolean, True = counts, of the shape of input; padding may be NaN.", optional=True,
                                differentiable=False),
    }  # fmt: skip

    @staticmethod
    def value(log_share):
        return -log_share

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.2, 1.5, -0.3], target=[2, 0, 1], value=3.61611, grad=[-0.810456, 1.55364, -0.743185],
             source="mpmath"),
        Case(input=[0.0, 0.0, 0.0], target=[1, 3, 2], value=1.791759469228055, grad=[5 / 6, -2 / 3, -1 / 6],
             source="log 3! orders are alike"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torch",
            "(torch.logcumsumexp(input.flip(-1), -1).flip(-1) - input).sum(-1)",
            "list_mle_loss(input, target, reduction='none')",
            given={
                "input": [[0.2, 1.5, -0.3, 0.9], [1.1, -0.4, 0.3, 0.0]],
                "target": [[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0, 0.0]],
            },
            why="The formula of allRank and TF-Ranking, of sorted lists. They shuffle items of the same relevance.",
        ),
    ]
    aliases = "plackett_luce listmle"
    task = "ranking"
    best_for = "Ranking whole lists with graded relevance."
    not_for = "Lists of which most items are alike in relevance."
    reference = (
        "Xia, F., Liu, T.-Y., Wang, J., Zhang, W. and Li, H. (2008). Listwise approach to learning to rank: theory and "
        "algorithm. ICML, 1192-1199. The model: Plackett, R. L. (1975), J. R. Stat. Soc. C 24, 193-202."
    )
