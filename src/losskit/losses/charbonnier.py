"""CharbonnierLoss: the absolute error with a round tip."""

import math

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, hypot, sign, sqrt, where


class CharbonnierLoss(PointwiseLoss):
    """The absolute error with a round tip of radius `eps`; a perfect prediction costs `eps`.

    Choose it for image restoration and super-resolution, where the squared error blurs.
    Prefer L1Loss where a kink does no harm, PseudoHuberLoss for a loss that is 0 at a perfect prediction.
    """

    eps: float = param(default=1e-3, domain=positive, doc="Radius of the tip, and the smallest loss.")

    arguments = "eps reduction"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, eps):
        return hypot(input - target, eps)

    @staticmethod
    def grad(input, target, eps):
        d = input - target
        slope = where(absolute(d) == math.inf, sign(d), d / hypot(d, eps))
        return slope, -slope

    @staticmethod
    def textbook(input, target, eps):
        return sqrt((input - target) ** 2 + eps**2)

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=None, symmetric=True, robust=True)
    cases = [
        Case(input=0.002, target=0.0, value=0.0022360679774997897, grad=0.89442719099991588, source="sqrt(5) / 1000"),
        Case(input=3.0, target=1.0, eps=1.0, value=2.2360679774997897, grad=0.89442719099991588, source="sqrt(5)"),
        Case(input=0.0, target=4.0, eps=3.0, value=5.0, grad=-0.8, source="by hand"),
    ]
    peers = [
        Peer(
            "kornia",
            "kornia.losses.charbonnier_loss(input, target) + 1",
            "charbonnier_loss(input, target, eps=1.0, reduction='none')",
            why="kornia's is sqrt(1 + r ** 2) - 1, which is PseudoHuberLoss; image restoration subtracts nothing.",
        ),
    ]
    aliases = "l1_charbonnier"
    task = "regression"
    best_for = "Image restoration and super-resolution."
    not_for = "Losses that are compared with 0: it never is."
    reference = (
        "Charbonnier, P. et al. (1994). Two deterministic half-quadratic regularization algorithms for computed "
        "imaging. ICIP; Lai, W.-S. et al. (2017). Deep Laplacian pyramid networks. arXiv:1704.03915."
    )
