"""TukeyBiweightLoss: a loss that stops growing at c."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, maximum, minimum, where


class TukeyBiweightLoss(PointwiseLoss):
    """Half the squared error near zero, constant from a residual of `c` on: what is further away has no pull at all.

    Choose it to ignore gross outliers, after a start near the solution. The default `c` is for noise of variance 1, of
    which it keeps 95 percent of the efficiency: divide by the scale of the noise, or multiply `c` with it.
    Prefer HuberLoss or LogCoshLoss for a first fit: they are convex. Prefer WelschLoss for a bounded loss whose slope
    never is exactly 0.
    """

    c: float | Tensor = param(default=4.685, domain=positive, doc="Residual from which the loss is constant.")

    arguments = "c reduction"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, c):
        d = input - target
        u = absolute(d) / c
        v, w = u * u, maximum(0.0, (1.0 - u) * (1.0 + u))  # w: 1 - v without its cancellation
        top = c * c / 6.0
        return where(u < 0.7, d * d * (0.5 - v * (0.5 - v / 6.0)), top - top * w * w * w)

    @staticmethod
    def grad(input, target, c):
        d = input - target
        a = absolute(d)
        w = ((c - a) / c) * (1.0 + a / c)  # c - a is exact near c
        slope = where(a < c, d * w * w, where(d == d, 0.0, d))
        return slope, -slope

    @staticmethod
    def textbook(input, target, c):
        return c**2 / 6.0 * (1.0 - (1.0 - minimum(((input - target) / c) ** 2, 1.0)) ** 3)

    facts = Facts(
        convex=False,
        smooth=True,
        lipschitz="16 / (25 * sqrt(5)) * c",
        minimum=0.0,
        symmetric=True,
        robust=True,
    )
    cases = [
        Case(input=1.0, target=0.0, c=2.0, value=0.38541666666666667, grad=0.5625, source="37 / 96, 9 / 16"),
        Case(input=1.0, target=0.0, value=0.47756610005714006, grad=0.91095629550292002, source="mpmath"),
        Case(input=4.0, target=0.0, value=3.5853605413986628, grad=0.29386130234309395, source="mpmath"),
        Case(input=9.0, target=0.0, value=3.6582041666666667, grad=0.0, source="c^2 / 6"),
    ]
    peers = [
        Peer(
            "statsmodels",
            "statsmodels.api.robust.norms.TukeyBiweight(c=4.685).rho(input - target)",
            "tukey_biweight_loss(input, target, c=4.685, reduction='none')",
        ),
    ]
    aliases = "bisquare tukey biweight"
    task = "regression"
    best_for = "Fits that ignore gross outliers."
    not_for = "A first fit from a bad start: a residual beyond c has no slope."
    reference = (
        "Beaton, A. E. and Tukey, J. W. (1974). The fitting of power series, meaning polynomials, illustrated on "
        "band-spectroscopic data. Technometrics 16, 147-185."
    )
