"""LogCoshLoss: the logarithm of the hyperbolic cosine of the residual."""

import math

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, exp, expm1, log, log1p, minimum, sign, where


class LogCoshLoss(PointwiseLoss):
    """Half the squared error near zero, the absolute error less log 2 far out, and smooth of every order between.

    Choose it for regression with occasional wild targets, where the optimiser uses second derivatives.
    Prefer HuberLoss or PseudoHuberLoss where the change to the line must depend on the unit: this one has no scale.
    """

    operands = {
        "input": Operand("Predictions, any real numbers."),
        "target": Operand("True values."),
    }

    @staticmethod
    def value(input, target):
        # With u = e^a - 1: cosh(a) - 1 = u^2 / (2 (1 + u)), and e^-2a = 1 / (1 + u)^2. Beyond 40 that is below 1e-34.
        a = absolute(input - target)
        u = expm1(minimum(a, 40.0))
        near, power = a < 1.0, 1.0 + u
        rest = where(near, 0.5 * u * u, 1.0) / where(near, power, power * power)
        return where(near, 0.0, a - math.log(2.0)) + log1p(rest)

    @staticmethod
    def grad(input, target):
        d = input - target
        u = expm1(minimum(absolute(d), 40.0))
        double = u * (u + 2.0)  # e^2a - 1
        slope = sign(d) * (double / (double + 2.0))
        return slope, -slope

    @staticmethod
    def textbook(input, target):
        d = input - target
        return log(0.5 * exp(d) + 0.5 * exp(-d))

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=1.0, target=0.0, value=0.43378083048302719, grad=0.76159415595576489, source="mpmath"),
        Case(input=0.001, target=0.0, value=4.9999991666668891e-7, grad=0.00099999966666680002, source="mpmath"),
        Case(input=-100.0, target=0.0, value=99.306852819440055, grad=-1.0, source="100 - log 2"),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.LogCosh()(target, input)",
            agrees=1e-6,
            why="Keras's form loses small residuals: in float32, 0.0001 gives 0.",
        ),
        Peer(
            "optax",
            "optax.losses.log_cosh(input, target)",
            "log_cosh_loss(input, target, reduction='none')",
        ),
        Peer(
            "torchmetrics",
            "torchmetrics.functional.log_cosh_error(input.flatten(), target.flatten())",
        ),
    ]
    aliases = "logcosh log_hyperbolic_cosine"
    task = "regression"
    best_for = "Robust regression that stays smooth, as second-order methods and boosted trees need."
    not_for = "Data whose noise is far from 1: divide by its scale first."
    reference = (
        "Green, P. J. (1990). Bayesian reconstructions from emission tomography data using a modified EM algorithm. "
        "IEEE Trans. Med. Imaging 9, 84-93."
    )
