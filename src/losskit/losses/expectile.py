"""ExpectileLoss: asymmetric least squares."""

import math

from torch import Tensor

from losskit.declaration import Case, Operand, param
from losskit.domains import Interval
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, where

LEVELS = Interval("between 0 and 1", low=0.0, high=1.0, low_open=True, high_open=True)


class ExpectileLoss(PointwiseLoss):
    """The squared error, times `expectile` where the prediction is too low, times 1 - expectile where it is too high.

    Choose it for a cautious or a hopeful mean: the value function of offline reinforcement learning, a risk measure.
    Prefer PinballLoss where the answer must be a quantile or targets are wild, MSELoss for the mean itself, which is
    twice this loss at 0.5.
    """

    expectile: float | Tensor = param(default=0.5, domain=LEVELS, doc="The expectile that is estimated.")

    arguments = "expectile reduction"
    operands = {
        "input": Operand("Predicted expectiles, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, expectile):
        d = input - target
        return (where(d > 0.0, 1.0 - expectile, expectile) * d) * d  # the square alone overflows earlier

    @staticmethod
    def grad(input, target, expectile):
        d = input - target
        weight = where(d > 0.0, 1.0 - expectile, expectile)
        far = (4.0 * weight) * (0.5 * input - 0.5 * target)
        slope = where(absolute(d) == math.inf, far, (2.0 * weight) * d)
        return slope, -slope

    @staticmethod
    def textbook(input, target, expectile):
        d = input - target
        return where(d > 0.0, 1.0 - expectile, expectile) * d**2

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)  # symmetric at 0.5
    cases = [
        Case(input=1.0, target=3.0, expectile=0.75, value=3.0, grad=-3.0, source="by hand"),
        Case(input=3.0, target=1.0, expectile=0.75, value=1.0, grad=1.0, source="by hand"),
        Case(input=3.0, target=1.0, value=2.0, grad=2.0, source="half the square"),
    ]
    aliases = "asymmetric_least_squares asymmetric_squared_error"
    task = "regression"
    best_for = "Cautious or hopeful means; values in offline reinforcement learning."
    not_for = "Quantiles; targets with wild outliers."
    reference = (
        "Newey, W. K. and Powell, J. L. (1987). Asymmetric least squares estimation and testing. Econometrica 55, "
        "819-847."
    )
