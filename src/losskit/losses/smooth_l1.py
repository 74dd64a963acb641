"""SmoothL1Loss: Huber's loss divided by beta."""

from torch import nn

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, sign, where


class SmoothL1Loss(PointwiseLoss, nn.SmoothL1Loss):
    """L1 with a rounded tip: slope 1 in the tails, quadratic within beta of the target.

    Choose it for bounding-box regression and detection; beta = 0 is L1Loss.
    Prefer HuberLoss when the curvature at the target should not depend on the threshold.
    """

    beta: float = param(default=1.0, domain=nonnegative, doc="Residual at which the parabola becomes a line.")

    arguments = "size_average reduce reduction beta"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, beta):
        d = input - target
        return where(absolute(d) < beta, 0.5 * d * (d / beta), absolute(d) - 0.5 * beta)

    @staticmethod
    def grad(input, target, beta):
        d = input - target
        slope = where(absolute(d) < beta, d / beta, sign(d))
        return slope, -slope

    @staticmethod
    def textbook(input, target, beta):
        d = input - target
        return where(absolute(d) < beta, 0.5 * d**2 / beta, absolute(d) - 0.5 * beta)

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=3.0, target=1.0, beta=1.0, value=1.5, grad=1.0, source="by hand"),
        Case(input=1.25, target=1.0, beta=0.5, value=0.0625, grad=0.5, source="by hand"),
        Case(input=1.0, target=1.0, beta=0.0, value=0.0, grad=0.0, source="L1 at a tie"),
        Case(input=-2.0, target=1.0, beta=0.0, value=3.0, grad=-1.0, source="L1"),
    ]
    peers = [
        Peer(
            "optax",
            "optax.losses.huber_loss(input, target, delta=0.5) / 0.5",
            "smooth_l1_loss(input, target, beta=0.5, reduction='none')",
            why="Huber's loss divided by its delta.",
        ),
    ]
    task = "regression"
    best_for = "Object detection and bounding boxes."
    not_for = "Pure regression with rare outliers."
    reference = "Girshick, R. (2015). Fast R-CNN. arXiv:1504.08083."
