"""MarginRankingLoss: which of two should be larger."""

from torch import nn

from losskit.declaration import Case, Operand, param
from losskit.domains import signs
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import maximum, where


class MarginRankingLoss(PointwiseLoss, nn.MarginRankingLoss):
    """Order of two scores: target 1 wants input1 the larger by `margin`, target -1 wants input2.

    Choose it for ranking, preferences and recommenders.
    Prefer a regression loss such as MSELoss when absolute values matter, TripletMarginLoss to order distances.
    """

    margin: float = param(default=0.0, doc="Difference from which a right order costs nothing.")

    arguments = "margin size_average reduce reduction"
    operands = {
        "input1": Operand("First scores."),
        "input2": Operand("Second scores."),
        "target": Operand("1: input1 should be larger; -1: input2.", domain=signs,
                          hint="For labels 0 and 1 pass 2 * target - 1."),
    }  # fmt: skip

    @staticmethod
    def value(input1, input2, target, margin):
        return maximum(-target * (input1 - input2) + margin, 0.0)

    @staticmethod
    def grad(input1, input2, target, margin):
        d = input1 - input2
        short = -target * d + margin
        idle = short < 0.0  # exactly at the margin the loss is active
        slope = where(short == short, where(idle, 0.0, target), short)  # NaN stays NaN
        return -slope, slope, where(short == short, where(idle, 0.0, -d), short)

    facts = Facts(convex=True, smooth=False, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input1=1.0, input2=3.0, target=1.0, value=2.0, grad=-1.0, source="by hand"),
        Case(input1=1.0, input2=3.0, target=-1.0, value=0.0, grad=0.0, source="by hand"),
        Case(input1=1.0, input2=3.0, target=-1.0, margin=2.5, value=0.5, grad=1.0, source="by hand"),
        Case(input1=1.0, input2=1.0, target=1.0, value=0.0, grad=-1.0, source="torch's subgradient at the margin"),
    ]
    aliases = "ranking pairwise_ranking"
    task = "ranking"
    best_for = "Ranking, preferences, recommenders."
    not_for = "Absolute values."
    reference = (
        "Herbrich, R., Graepel, T. and Obermayer, K. (1999). Support vector learning for ordinal regression. ICANN."
    )
