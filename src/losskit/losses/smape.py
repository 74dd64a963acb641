"""SMAPELoss: the absolute error as a fraction of prediction and target."""

import math

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, sign, where


class SMAPELoss(PointwiseLoss):
    """The absolute error as a fraction of the mean magnitude of prediction and target, between 0 and 2.

    Choose it where a forecast is scored by sMAPE, as in the M3 and M4 competitions.
    Prefer MASELoss where prediction and target may differ in sign: there this loss is 2 and has no slope. Two zeros
    cost nothing.
    """

    name = "smape_loss"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target):
        plain = absolute(input) + absolute(target)
        shrink = where(plain == math.inf, 0.5, 1.0)  # the sum may overflow where the fraction does not
        a, b = shrink * input, shrink * target
        difference, total = absolute(a - b), absolute(a) + absolute(b)
        return where(difference == total, where(total == 0.0, 0.0, 2.0), 2.0 * (difference / total))

    @staticmethod
    def grad(input, target):
        # The quotient rule subtracts what is nearly equal; of that remains the other's share of the sum.
        plain = absolute(input) + absolute(target)
        shrink = where(plain == math.inf, 0.5, 1.0)
        a, b = absolute(shrink * input), absolute(shrink * target)
        total = where(plain == 0.0, 1.0, a + b)
        way = sign(input - target) * shrink
        alike = sign(input) * sign(target) > 0.0
        by_input = where(alike, 4.0 * (b / total), where(input == 0.0, 2.0, 0.0))
        by_target = where(alike, 4.0 * (a / total), where(target == 0.0, 2.0, 0.0))
        return by_input * way / total, -(by_target * way / total)

    @staticmethod
    def textbook(input, target):
        return 2.0 * absolute(input - target) / (absolute(input) + absolute(target))

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=90.0, target=100.0, value=0.10526315789473684, grad=-0.011080332409972299, source="2 / 19"),
        Case(input=110.0, target=100.0, value=0.095238095238095238, grad=0.0090702947845804989, source="2 / 21"),
        Case(input=-1.0, target=2.0, value=2.0, grad=0.0, source="by hand"),
        Case(input=0.0, target=0.0, value=0.0, grad=0.0, source="two zeros agree"),
    ]
    peers = [
        Peer(
            "torchmetrics",
            "torchmetrics.functional.symmetric_mean_absolute_percentage_error(input, target)",
        ),
        Peer(
            "pytorch-forecasting",
            "pytorch_forecasting.metrics.SMAPE().loss(input, target)",
            "smape_loss(input, target, reduction='none')",
            agrees=1e-6,
            why="1e-8 is added to the denominator there.",
        ),
    ]
    aliases = "symmetric_mean_absolute_percentage_error"
    task = "regression"
    best_for = "Forecasts that are scored by sMAPE."
    not_for = "Predictions whose sign may be wrong; values near 0."
    reference = (
        "Makridakis, S. (1993). Accuracy measures: theoretical and practical concerns. Int. J. Forecasting 9, 527-529."
    )
