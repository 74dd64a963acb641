"""MASELoss: the absolute error in units of a naive forecast's."""

import math

from losskit.declaration import Case, Operand, Peer
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, sign, where


class MASELoss(PointwiseLoss):
    """The absolute error divided by `scale`, the mean absolute error of a naive forecast on the history of the series.

    Choose it to train one model on series of different units, or with zeros: below 1 is better than the naive forecast.
    Prefer L1Loss for one series, MAPELoss where errors are reported in percent.

    `scale` may have dimensions of size 1 where `input` does not, may lack the last dimension (one number per series),
    or may be one number. For a history `h` and a season of m steps it is the mean of |h[m:] - h[:-m]|; take it from the
    history alone, so that nothing of the target leaks.
    """

    name = "mase_loss"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
        "scale": Operand("Mean absolute error of the naive forecast, for each series.", domain=positive,
                         broadcast=True, per_row=True,
                         hint="A history that never changes has no scale: mask the series."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, scale):
        d = input - target
        huge = absolute(d) == math.inf  # the residual may overflow where the ratio does not
        return where(huge, 2.0, 1.0) * (absolute(where(huge, 0.5 * input - 0.5 * target, d)) / scale)

    @staticmethod
    def grad(input, target, scale):
        d = input - target
        huge = absolute(d) == math.inf
        loss = where(huge, 2.0, 1.0) * (absolute(where(huge, 0.5 * input - 0.5 * target, d)) / scale)
        slope = sign(d) / scale
        return slope, -slope, -loss / scale

    @staticmethod
    def textbook(input, target, scale):
        return absolute(input - target) / scale

    facts = Facts(convex="input", smooth=False, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=4.0, target=5.0, scale=0.5, value=2.0, grad=-2.0, source="history 1, 1.5, 2, 2.5"),
        Case(input=6.0, target=5.0, scale=0.5, value=2.0, grad=2.0, source="history 1, 1.5, 2, 2.5"),
        Case(input=5.0, target=5.0, scale=0.5, value=0.0, grad=0.0, source="a tie has no slope, as in L1Loss"),
    ]
    peers = [
        Peer(
            "sktime",
            "sktime.performance_metrics.forecasting.mean_absolute_scaled_error(target, input, y_train=history, sp=1)",
            "mase_loss(input, target, (history[1:] - history[:-1]).abs().mean())",
            given={"input": [2.5, 3.5, 4.0, 6.0], "target": [3.0, 3.0, 5.0, 5.5], "history": [1.0, 2.0, 1.5, 3.0, 2.0]},
            why="sktime takes the history; here you take the mean of its steps once.",
        ),
    ]
    aliases = "mean_absolute_scaled_error"
    task = "regression"
    best_for = "Many time series of different units, in one model."
    not_for = "Series without a history."
    reference = (
        "Hyndman, R. J. and Koehler, A. B. (2006). Another look at measures of forecast accuracy. Int. J. Forecasting "
        "22, 679-688."
    )
