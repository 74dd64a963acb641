"""HuberLoss: quadratic near zero, linear in the tails."""

from torch import nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, clamp, where


class HuberLoss(PointwiseLoss, nn.HuberLoss):
    """Quadratic near zero, linear in the tails: a mean that forgives outliers.

    Choose it for regression with occasional wild targets.
    Prefer L1Loss when outliers are common, MSELoss when there are none.
    """

    delta: float = param(default=1.0, domain=positive, doc="Residual at which the parabola becomes a line.")

    arguments = "reduction delta weight"
    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target, delta):
        d = input - target
        half = 0.5 * input - 0.5 * target  # cannot overflow, so that a small delta tames any residual
        line = (2.0 * delta) * (absolute(half) - 0.25 * delta)
        return where(absolute(d) < delta, 0.5 * d * d, line)

    @staticmethod
    def grad(input, target, delta):
        slope = clamp(input - target, -delta, delta)
        return slope, -slope

    @staticmethod
    def textbook(input, target, delta):
        d = input - target
        return where(absolute(d) < delta, 0.5 * d**2, delta * (absolute(d) - 0.5 * delta))

    facts = Facts(convex=True, smooth=True, lipschitz="delta", minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=3.0, target=1.0, delta=1.0, value=1.5, grad=1.0, source="by hand"),
        Case(input=1.25, target=1.0, delta=1.0, value=0.03125, grad=0.25, source="by hand"),
        Case(input=-3.0, target=1.0, delta=2.0, value=6.0, grad=-2.0, source="by hand"),
    ]
    deviations = [
        Deviation(
            reason="The residual overflows in torch although the loss does not.",
            arguments={"input": 3e38, "target": -3e38, "delta": 1e-3, "reduction": "sum"},
            torch=float("inf"),
            losskit=6e35,
        ),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.Huber(delta=2.0)(target, input)",
            "huber_loss(input, target, delta=2.0)",
            agrees=1e-6,
        ),
        Peer(
            "optax",
            "optax.losses.huber_loss(input, target, delta=2.0)",
            "huber_loss(input, target, delta=2.0, reduction='none')",
        ),
        Peer(
            "scipy",
            "scipy.special.huber(2.0, input - target)",
            "huber_loss(input, target, delta=2.0, reduction='none')",
        ),
        Peer(
            "statsmodels",
            "statsmodels.api.robust.norms.HuberT(t=1.345).rho(input - target)",
            "huber_loss(input, target, delta=1.345, reduction='none')",
        ),
    ]
    task = "regression"
    best_for = "Regression with moderate outliers."
    not_for = "When pure L1 or L2 behaviour is wanted."
    reference = "Huber, P. J. (1964). Robust estimation of a location parameter. Ann. Math. Statist. 35, 73-101."
