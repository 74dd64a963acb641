"""CauchyLoss: the logarithm of one plus half the squared residual."""

import math

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, log, log1p, where


class CauchyLoss(PointwiseLoss):
    """Half the squared error near zero, a logarithm far out: the further an outlier, the smaller its pull.

    Choose it when outliers are common and far, after a start near the solution.
    Prefer HuberLoss or LogCoshLoss for a first fit: they are convex, and this one is not beyond 1.4 times the scale.
    Prefer WelschLoss or TukeyBiweightLoss where far outliers should not count at all.
    """

    scale: float | Tensor = param(
        default=1.0, domain=positive, doc="Size of a usual residual; beyond it the pull falls."
    )

    arguments = "scale reduction"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, scale):
        u = (input - target) / scale
        near = absolute(u) < 1e15  # beyond, where the square and u itself overflow, log(u^2 / 2) from 2^-49 u
        small = absolute(0.5 * input - 0.5 * target) * (2.0**-48 / scale)
        loss = log1p(where(near, 0.5 * u * u, small - 1.0))
        return where(near, loss, 2.0 * loss + 97.0 * math.log(2.0))

    @staticmethod
    def grad(input, target, scale):
        u, half = (input - target) / scale, 0.5 * input - 0.5 * target
        near = absolute(u) < 1e15  # beyond, 2 / residual to the last digit
        slope = where(near, u, 1.0) / where(near, 1.0 + 0.5 * u * u, half) * where(near, 1.0 / scale, 1.0)
        return slope, -slope

    @staticmethod
    def textbook(input, target, scale):
        return log(1.0 + 0.5 * ((input - target) / scale) ** 2)

    facts = Facts(convex=False, smooth=True, lipschitz="sqrt(0.5) / scale", minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=2.0, target=0.0, value=1.0986122886681097, grad=0.66666666666666667, source="log 3"),
        Case(input=2.0, target=0.0, scale=0.5, value=2.1972245773362194, grad=0.88888888888888889, source="log 9"),
        Case(input=-1.0, target=-1.0, value=0.0, grad=0.0, source="by hand"),
    ]
    peers = [
        Peer(
            "kornia",
            "kornia.losses.cauchy_loss(input, target, reduction='mean')",
            why="kornia's reduction is 'none' by default.",
        ),
        Peer(
            "kornia",
            "kornia.losses.cauchy_loss(input / 0.5, target / 0.5)",
            "cauchy_loss(input, target, scale=0.5, reduction='none')",
            why="kornia has no scale: divide both by it.",
        ),
    ]
    aliases = "lorentzian"
    task = "regression"
    best_for = "Data with many far outliers."
    not_for = "A first fit from a bad start; likelihoods, for which the scale would have to be learned."
    reference = (
        "Black, M. J. and Anandan, P. (1996). The robust estimation of multiple motions. Comput. Vis. Image Underst. "
        "63, 75-104."
    )
