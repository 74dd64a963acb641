"""PseudoHuberLoss: Huber's loss without its seam."""

import math

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, hypot, sign, sqrt, where


class PseudoHuberLoss(PointwiseLoss):
    """Half the squared error near zero, lines of slope `delta` far out, and smooth of every order between.

    Choose it for regression with outliers, where the optimiser uses second derivatives.
    Prefer HuberLoss where residuals below delta must count exactly as squares, CharbonnierLoss for the absolute error
    with a round tip.
    """

    delta: float | Tensor = param(
        default=1.0, domain=positive, doc="Residual around which the parabola becomes a line."
    )

    arguments = "delta reduction"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, delta):
        d = input - target
        half = 0.5 * input - 0.5 * target  # cannot overflow, so that a small delta tames any residual
        root = hypot(half, 0.5 * delta)
        line = (2.0 * delta) * (root - 0.5 * delta)
        return where(absolute(d) < 4.0 * delta, delta * d * (half / (root + 0.5 * delta)), line)  # near 0 that cancels

    @staticmethod
    def grad(input, target, delta):
        half = 0.5 * input - 0.5 * target
        slope = delta * where(absolute(half) == math.inf, sign(half), half / hypot(half, 0.5 * delta))
        return slope, -slope

    @staticmethod
    def textbook(input, target, delta):
        return delta**2 * (sqrt(1.0 + ((input - target) / delta) ** 2) - 1.0)

    facts = Facts(convex=True, smooth=True, lipschitz="delta", minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=3.0, target=1.0, value=1.2360679774997897, grad=0.89442719099991588, source="sqrt(5) - 1"),
        Case(input=3.0, target=1.0, delta=0.5, value=0.78077640640441514, grad=0.48507125007266595,
             source="(sqrt(17) - 1) / 4"),
        Case(input=-4.0, target=0.0, delta=3.0, value=6.0, grad=-2.4, source="by hand"),
    ]  # fmt: skip
    peers = [
        Peer(
            "kornia",
            "kornia.losses.charbonnier_loss(input, target, reduction='mean')",
            why="kornia calls it Charbonnier loss; delta is 1 there.",
        ),
        Peer(
            "scipy",
            "scipy.special.pseudo_huber(0.7, input - target)",
            "pseudo_huber_loss(input, target, delta=0.7, reduction='none')",
        ),
    ]
    aliases = "smooth_huber"
    task = "regression"
    best_for = "Regression with moderate outliers where second derivatives are used."
    not_for = "When pure L1 or L2 behaviour is wanted."
    reference = (
        "Hartley, R. and Zisserman, A. (2003). Multiple View Geometry in Computer Vision, appendix 6.8. Cambridge."
    )
