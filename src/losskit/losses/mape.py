"""MAPELoss: the absolute error as a fraction of the target."""

import math

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, maximum, sign, where


class MAPELoss(PointwiseLoss):
    """The absolute error as a fraction of the target's magnitude: 0.1 is 10 percent.

    Choose it for forecasts of positive quantities that are judged in percent.
    Prefer MASELoss where targets may be 0, MSLELoss or SMAPELoss where too high and too low should count alike: this
    one favours predictions that are too low. Mask targets of 0, for there the fraction is only kept finite by `eps`.
    """

    name = "mape_loss"
    eps: float = param(default=2.0**-23, domain=positive, doc="Smallest magnitude of a target.")

    arguments = "eps reduction"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values; mask those that are 0."),
    }

    @staticmethod
    def value(input, target, eps):
        d = input - target
        huge = absolute(d) == math.inf  # the residual may overflow where the fraction does not
        size = absolute(where(huge, 0.5 * input - 0.5 * target, d)) / maximum(absolute(target), eps)
        return where(huge, 2.0, 1.0) * size

    @staticmethod
    def grad(input, target, eps):
        size = maximum(absolute(target), eps)
        slope = sign(input - target) / size
        # With input - target written out, all but the input's share of the slope cancels.
        by_target = (sign(target - input) * sign(target)) * (input / size) / size
        return slope, where(absolute(target) < eps, -slope, by_target)

    @staticmethod
    def textbook(input, target, eps):
        return absolute(input - target) / maximum(absolute(target), eps)

    facts = Facts(convex=True, smooth=False, lipschitz="1 / eps", minimum=0.0, symmetric=False)
    cases = [
        Case(input=90.0, target=100.0, value=0.1, grad=-0.01, source="by hand"),
        Case(input=3.0, target=-2.0, value=2.5, grad=0.5, source="by hand"),
        Case(input=1.0, target=0.0, eps=0.5, value=2.0, grad=2.0, source="by hand"),
    ]
    peers = [
        Peer(
            "scikit-learn",
            "sklearn.metrics.mean_absolute_percentage_error(target, input)",
        ),
        Peer(
            "keras",
            "keras.losses.MeanAbsolutePercentageError()(target, input) / 100",
            agrees=1e-6,
            why="Keras gives percent; here it is a fraction.",
        ),
        Peer(
            "torchmetrics",
            "torchmetrics.functional.mean_absolute_percentage_error(input, target)",
        ),
        Peer(
            "pytorch-forecasting",
            "pytorch_forecasting.metrics.MAPE().loss(input, target)",
            "mape_loss(input, target, reduction='none')",
            agrees=1e-6,
            why="1e-8 is added to the target there.",
        ),
    ]
    aliases = "mean_absolute_percentage_error"
    task = "regression"
    best_for = "Forecasts of positive quantities, judged in percent."
    not_for = "Targets that are 0 or near it."
    reference = (
        "Makridakis, S. (1993). Accuracy measures: theoretical and practical concerns. Int. J. Forecasting 9, 527-529."
    )
