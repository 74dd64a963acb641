"""GemanMcClureLoss: a bounded ratio of squares."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, sign, where


class GemanMcClureLoss(PointwiseLoss):
    """Half the squared error near zero, at most 2 far out, without an exponential.

    Choose it for registration and reconstruction with gross outliers, after a start near the solution.
    Prefer HuberLoss for a first fit: it is convex. Prefer CauchyLoss where far residuals must keep more pull,
    WelschLoss where they must keep less. The classical u^2 / (1 + u^2) is half of this loss at half the scale.
    """

    name = "geman_mcclure_loss"
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
        # With the smaller of |u| / 2 and its reciprocal nothing overflows.
        d, half = absolute(input - target), absolute(0.5 * input - 0.5 * target)
        near = d < 2.0 * scale
        small = where(near, d, scale) / where(near, 2.0 * scale, half)
        square = small * small
        return where(near, 2.0 * square, 2.0) / (1.0 + square)

    @staticmethod
    def grad(input, target, scale):
        d, half = absolute(input - target), absolute(0.5 * input - 0.5 * target)
        near = d < 2.0 * scale
        small = where(near, d, scale) / where(near, 2.0 * scale, half)
        square = small * small
        whole = 1.0 + square
        slope = (2.0 * sign(input - target)) * ((small / scale) * where(near, 1.0, square) / (whole * whole))
        return slope, -slope

    @staticmethod
    def textbook(input, target, scale):
        square = ((input - target) / scale) ** 2
        return 2.0 * square / (square + 4.0)

    facts = Facts(
        convex=False, smooth=True, lipschitz="9 / (8 * sqrt(3)) / scale", minimum=0.0, symmetric=True, robust=True
    )
    cases = [
        Case(input=2.0, target=0.0, value=1.0, grad=0.5, source="by hand"),
        Case(input=2.0, target=0.0, scale=0.5, value=1.6, grad=0.32, source="by hand"),
        Case(input=1.0, target=3.0, scale=2.0, value=0.4, grad=-0.32, source="by hand"),
    ]
    peers = [
        Peer(
            "kornia",
            "kornia.losses.geman_mcclure_loss(input, target, reduction='mean')",
            why="kornia's reduction is 'none' by default.",
        ),
        Peer(
            "kornia",
            "kornia.losses.geman_mcclure_loss(input / 2, target / 2)",
            "geman_mcclure_loss(input, target, scale=2.0, reduction='none')",
            why="kornia has no scale: divide both by it.",
        ),
    ]
    task = "regression"
    best_for = "Registration and reconstruction with gross outliers."
    not_for = "A first fit from a bad start."
    reference = (
        "Geman, S. and McClure, D. E. (1985). Bayesian image analysis: an application to single photon emission "
        "tomography. Proc. ASA, Statistical Computing Section, 12-18."
    )
