"""MultiLabelMarginLoss: the hinge between every right and every wrong class."""

from torch import nn

from losskit.declaration import Case, Deviation, Operand
from losskit.facts import Facts
from losskit.families.margins import MarginsLoss
from losskit.formula import maximum, where


class MultiLabelMarginLoss(MarginsLoss, nn.MultiLabelMarginLoss):
    """Hinge over labels: every class of a row's list should lead every class outside it by 1.

    Choose it to rank the labels of an example above all others.
    Prefer MultiLabelSoftMarginLoss for 0/1 labels, for probabilities, and for many labels in a row: the cost is the
    number of labels times that of classes.
    """

    name = "multilabel_margin_loss"
    many = True
    arguments = "size_average reduce reduction"
    operands = {
        "input": Operand("Scores, (N, C) or (C,)."),
        "target": Operand("The classes of each row, then -1; what follows it does not matter. Any integer dtype."),
    }

    @staticmethod
    def value(difference):
        return maximum(1.0 - difference, 0.0)

    @staticmethod
    def grad(difference):
        short = maximum(1.0 - difference, 0.0)
        return where(short > 0.0, -1.0, short)  # 0 at the margin exactly, and NaN stays NaN

    facts = Facts(convex=True, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.1, 0.2, 0.4, 0.8], target=[3, 0, -1, 1], value=0.85, grad=[-0.5, 0.5, 0.5, -0.5],
             source="torch's documentation"),
        Case(input=[0.0, 0.5, -0.5], target=[1, 1, -1], value=1 / 3, grad=[2 / 3, -2 / 3, 0.0],
             source="by hand: a class listed twice counts twice, at 1 exactly nothing pushes"),
        Case(input=[0.0, 1.0, -0.5], target=[-1, 0, 0], value=0.0, grad=[0.0, 0.0, 0.0], source="no target"),
    ]  # fmt: skip
    deviations = [
        Deviation(
            reason="NaN in gives NaN out: torch's comparison lets it pass for a margin kept.",
            arguments={"input": [[float("nan"), 1.0, 2.0]], "target": [[0, -1, 0]]},
            torch=0.0,
            losskit=float("nan"),
        ),
    ]
    aliases = "multilabel_hinge"
    task = "multi-label"
    best_for = "Ranking the labels of an example above all others."
    not_for = "0/1 label vectors; probabilities."
    reference = (
        "Elisseeff, A. and Weston, J. (2001). A kernel method for multi-labelled classification. NIPS 14, 681-687."
    )
