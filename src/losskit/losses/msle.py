"""MSLELoss: the squared difference of logarithms."""

from losskit.declaration import Case, Operand, Peer
from losskit.domains import Interval
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import log1p, maximum, minimum, sign, where

ABOVE = Interval("above -1", low=-1.0, low_open=True, typical=0.0)


class MSLELoss(PointwiseLoss):
    """The squared difference of log(1 + input) and log(1 + target): an error counts as a ratio.

    Choose it for counts and prices of many magnitudes, where twice as much is as wrong as half.
    Prefer PoissonNLLLoss for small counts, MAPELoss where the error is reported in percent. It is not convex: far above
    the target its slope falls.
    """

    name = "msle_loss"
    operands = {
        "input": Operand("Predictions, above -1.", domain=ABOVE,
                         hint="Predict with softplus or exp, whose results are positive."),
        "target": Operand("True values, above -1.", domain=ABOVE),
    }  # fmt: skip

    @staticmethod
    def value(input, target):
        low, high = minimum(input, target), maximum(input, target)
        # log of the ratio as log1p of the relative excess: the difference of logarithms cancels. The ratio of a huge
        # number and one next to -1 overflows: there log(ratio) is log(2^-60 ratio) + 60 log(2).
        huge = (low < 0.0) & (high > 1e20)
        ratio = where(huge, 2.0**-60 * high, high - low) / (1.0 + low)
        d = log1p(ratio - where(huge, 1.0, 0.0)) + where(huge, 41.58883083359672, 0.0)
        return d * d

    @staticmethod
    def grad(input, target):
        low, high = minimum(input, target), maximum(input, target)
        huge = (low < 0.0) & (high > 1e20)
        ratio = where(huge, 2.0**-60 * high, high - low) / (1.0 + low)
        d = log1p(ratio - where(huge, 1.0, 0.0)) + where(huge, 41.58883083359672, 0.0)
        signed = (2.0 * sign(input - target)) * d
        return signed / (1.0 + input), -signed / (1.0 + target)

    @staticmethod
    def textbook(input, target):
        return (log1p(input) - log1p(target)) ** 2

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(input=2.0, target=5.0, value=0.48045301391820142, grad=-0.46209812037329687, source="log(2)^2"),
        Case(input=0.0, target=1.0, value=0.48045301391820142, grad=-1.3862943611198906, source="log(2)^2"),
        Case(input=3.0, target=3.0, value=0.0, grad=0.0, source="by hand"),
    ]
    peers = [
        Peer(
            "scikit-learn",
            "sklearn.metrics.mean_squared_log_error(target, input)",
        ),
        Peer(
            "keras",
            "keras.losses.MeanSquaredLogarithmicError()(target, input)",
            agrees=1e-6,
            given={"input": [0.5, 2.0, 10.0], "target": [1.0, 1.5, 30.0]},
            why="Keras takes numbers below 1e-7 for 1e-7.",
        ),
        Peer(
            "torchmetrics",
            "torchmetrics.functional.mean_squared_log_error(input, target)",
        ),
    ]
    aliases = "mean_squared_logarithmic_error squared_log_error"
    task = "regression"
    best_for = "Counts and prices of many magnitudes."
    not_for = "Values at or below -1; errors that count in the unit of the target."
    reference = "scikit-learn, user guide, section on the mean squared logarithmic error."
