"""WelschLoss: one less a bell curve of the residual."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import clamp, exp, expm1


class WelschLoss(PointwiseLoss):
    """Half the squared error near zero, at most 1 far out: the pull of an outlier vanishes.

    Choose it to ignore gross outliers, after a start within a few scales of the solution.
    Prefer HuberLoss or LogCoshLoss for a first fit: they are convex. Prefer CauchyLoss where far residuals must keep
    some pull.
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
        half = expm1(-0.25 * u * u)  # shares its exponential with the slope's
        return -half * (half + 2.0)

    @staticmethod
    def grad(input, target, scale):
        u = (input - target) / scale
        root = exp(-0.25 * u * u)  # its square may be subnormal, and would lose digits
        slope = root * (root * (clamp(u, -1e3, 1e3) / scale))  # beyond, 0 in every dtype
        return slope, -slope

    @staticmethod
    def textbook(input, target, scale):
        return 1.0 - exp(-0.5 * ((input - target) / scale) ** 2)

    facts = Facts(convex=False, smooth=True, lipschitz="exp(-0.5) / scale", minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=2.0, target=0.0, value=0.86466471676338731, grad=0.27067056647322538, source="1 - exp(-2)"),
        Case(input=2.0, target=0.0, scale=4.0, value=0.1175030974154046, grad=0.11031211282307443,
             source="1 - exp(-1 / 8)"),
        Case(input=0.0, target=1e6, value=1.0, grad=0.0, source="by hand"),
    ]  # fmt: skip
    peers = [
        Peer(
            "kornia",
            "kornia.losses.welsch_loss(input, target, reduction='mean')",
            why="kornia's reduction is 'none' by default.",
        ),
        Peer(
            "kornia",
            "kornia.losses.welsch_loss(input / 2, target / 2)",
            "welsch_loss(input, target, scale=2.0, reduction='none')",
            why="kornia has no scale: divide both by it.",
        ),
    ]
    aliases = "leclerc correntropy"
    task = "regression"
    best_for = "Fits that ignore gross outliers."
    not_for = "A first fit from a bad start: residuals of many scales have no slope."
    reference = (
        "Dennis, J. E. and Welsch, R. E. (1978). Techniques for nonlinear least squares and robust regression. Commun. "
        "Stat. Simul. Comput. 7, 345-359."
    )
