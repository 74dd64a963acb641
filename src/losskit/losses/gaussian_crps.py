"""GaussianCRPSLoss: the continuous ranked probability score of a predicted normal distribution."""

import math

from losskit.declaration import Case, Operand, Peer
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import erf, exp, expm1
from losskit.losses._exact import residual

PEAK, LEAST = math.sqrt(2.0 / math.pi), (math.sqrt(2.0) - 1.0) / math.sqrt(math.pi)


class GaussianCRPSLoss(PointwiseLoss):
    """Continuous ranked probability score of a normal distribution: an absolute error that knows its uncertainty.

    Choose it for forecasts with a mean and a standard deviation, scored in the units of the target; a far target pulls
    no more than with L1Loss.
    Prefer GaussianNLLLoss where likelihoods are compared, L1Loss for forecasts of one number.

    Where `scale` tends to 0 the score is the absolute error. `target` and `scale` may have dimensions of size 1 where
    `input` does not; `scale` may also lack the last dimension (one scale per row) or be one number.
    """

    name = "gaussian_crps_loss"
    arguments = "reduction"
    operands = {
        "input": Operand("Predicted means, any real numbers."),
        "target": Operand("True values.", broadcast=True),
        "scale": Operand("Predicted standard deviations.", domain=positive, broadcast=True, per_row=True,
                         hint="Predict log(scale) and pass its exponential."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, scale):
        d, k = residual(input, target)
        q = k * (d / scale)
        return k * (d * erf(math.sqrt(0.5) * q)) + scale * (PEAK * expm1(-0.5 * (q * q)) + LEAST)

    @staticmethod
    def grad(input, target, scale):
        d, k = residual(input, target)
        q = k * (d / scale)
        slope = erf(math.sqrt(0.5) * q)
        return slope, -slope, PEAK * exp(-0.5 * (q * q)) - 1.0 / math.sqrt(math.pi)

    @staticmethod
    def textbook(input, target, scale):
        q = (input - target) / scale
        return scale * (q * erf(q / math.sqrt(2.0)) + PEAK * exp(-0.5 * q**2) - 1.0 / math.sqrt(math.pi))

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=True, robust=True)
    cases = [
        Case(input=0.0, target=0.0, scale=1.0, value=0.23369497725510902, grad=0.0,
             source="(sqrt 2 - 1) / sqrt(pi)"),
        Case(input=0.0, target=1.5, scale=1.0, value=0.994424003977453, grad=-0.8663855974622838, source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "scoringrules",
            "scoringrules.crps_normal(target, input, scale)",
            "gaussian_crps_loss(input, target, scale, reduction='none')",
        ),
    ]
    aliases = "crps continuous_ranked_probability_score"
    task = "likelihood"
    best_for = "Probabilistic forecasts in the units of the target."
    not_for = "Comparing likelihoods; distributions with heavy tails."
    reference = (
        "Gneiting, T. and Raftery, A. E. (2007). Strictly proper scoring rules, prediction, and estimation. "
        "J. Am. Stat. Assoc. 102, 359-378."
    )
