"""PinballLoss: the absolute error tilted, so that its minimiser is a quantile."""

import math

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, maximum, where

LEVELS = Interval("between 0 and 1", low=0.0, high=1.0, low_open=True, high_open=True)


class PinballLoss(PointwiseLoss):
    """The absolute error, times `quantile` where the prediction is too low, times 1 - quantile where it is too high.

    Choose it to predict a quantile: the mean of the loss is smallest at the quantile of the targets.
    Prefer L1Loss for the median alone, of which it is half at 0.5; ExpectileLoss where a smooth loss matters more
    than a quantile.
    """

    quantile: float | Tensor = param(default=0.5, domain=LEVELS, doc="The quantile that is estimated.")

    arguments = "quantile reduction"
    operands = {
        "input": Operand("Predicted quantiles, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, quantile):
        d = input - target
        slope = where(d >= 0.0, 1.0 - quantile, -quantile)
        far = (2.0 * slope) * (0.5 * input - 0.5 * target)  # the residual may overflow where the loss does not
        return where(absolute(d) == math.inf, far, slope * d)

    @staticmethod
    def grad(input, target, quantile):
        d = input - target
        slope = where(d > 0.0, 1.0 - quantile, where(d < 0.0, -quantile, 0.0 * d))
        return slope, -slope

    @staticmethod
    def textbook(input, target, quantile):
        return maximum(quantile * (target - input), (quantile - 1.0) * (target - input))

    facts = Facts(
        convex=True,
        smooth=False,
        lipschitz="max(quantile, 1 - quantile)",
        minimum=0.0,
        symmetric=True,  # at 0.5
        robust=True,
    )
    cases = [
        Case(input=1.0, target=3.0, quantile=0.75, value=1.5, grad=-0.75, source="by hand"),
        Case(input=3.0, target=1.0, quantile=0.75, value=0.5, grad=0.25, source="by hand"),
        Case(input=2.0, target=2.5, value=0.25, grad=-0.5, source="half the absolute error"),
        Case(input=2.0, target=2.0, quantile=0.75, value=0.0, grad=0.0, source="a tie has no slope, as in L1Loss"),
    ]
    peers = [
        Peer(
            "scikit-learn",
            "sklearn.metrics.mean_pinball_loss(target, input, alpha=0.9)",
            "pinball_loss(input, target, quantile=0.9)",
        ),
        Peer(
            "pytorch-forecasting",
            "pytorch_forecasting.metrics.QuantileLoss([0.9]).loss(input[..., None], target)[..., 0] / 2",
            "pinball_loss(input, target, quantile=0.9, reduction='none')",
            why="QuantileLoss there is twice the pinball loss.",
        ),
        Peer(
            "torch-uncertainty",
            "torch_uncertainty.losses.PinballLoss(quantile=0.9)(input, target)",
            "pinball_loss(input, target, quantile=0.9)",
        ),
    ]
    aliases = "quantile quantile_regression check tilted_absolute"
    task = "regression"
    best_for = "Prediction intervals and other quantiles."
    not_for = "Means; one number where the spread does not matter."
    reference = "Koenker, R. and Bassett, G. (1978). Regression quantiles. Econometrica 46, 33-50."
