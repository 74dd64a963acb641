"""LogNormalNLLLoss: negative log-likelihood of positive targets whose logarithm is normal."""

import math

from losskit.declaration import Case, Operand, Peer
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, log, times, where


class LogNormalNLLLoss(PointwiseLoss):
    """Negative log-likelihood of a log-normal distribution: positive targets with an error in percent.

    Choose it for prices, durations and sizes, which vary by factors, and where the model predicts how much.
    Prefer GaussianNLLLoss for targets that may be negative, GammaNLLLoss where the mean itself is to be predicted.

    `input` is the mean of the logarithm of the target and `scale` its standard deviation: exp(input) is the median of
    the target. `target` and `scale` may have dimensions of size 1 where `input` does not; `scale` may also lack the
    last dimension (one scale per row) or be one number.
    """

    arguments = "reduction"
    operands = {
        "input": Operand("Predicted means of the logarithm, any real numbers."),
        "target": Operand("True values.", domain=positive, broadcast=True,
                          hint="A log-normal distribution gives no probability to 0 and below."),
        "scale": Operand("Predicted standard deviations of the logarithm.", domain=positive, broadcast=True,
                         per_row=True, hint="Predict log(scale) and pass its exponential."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, scale):
        q = (log(target) - input) / scale
        return (0.5 * q) * q + (log(scale) + (log(target) + 0.5 * math.log(2.0 * math.pi)))

    @staticmethod
    def grad(input, target, scale):
        d = log(target) - input
        q = d / scale
        slope = q / scale
        steep = where(absolute(q) < math.inf, q / target, (d / target) / scale) / scale
        by_target = where(absolute(slope) < math.inf, (1.0 + slope) / target, steep)
        return -slope, by_target, times(1.0 + q, (1.0 - q) / scale)

    @staticmethod
    def textbook(input, target, scale):
        return 0.5 * ((log(target) - input) / scale) ** 2 + log(scale * target) + 0.5 * math.log(2.0 * math.pi)

    facts = Facts(convex="input", smooth=True, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(input=0.0, target=1.0, scale=2.0, value=1.612085713764618, grad=0.0, source="log 2 + 0.5 * log(2 pi)"),
        Case(input=0.0, target=2.0, scale=1.0, value=1.8523122207237188, grad=-0.6931471805599453, source="mpmath"),
    ]
    peers = [
        Peer(
            "scipy",
            "-scipy.stats.lognorm.logpdf(target, scale, scale=np.exp(input))",
            "log_normal_nll_loss(input, target, scale, reduction='none')",
            why="scipy's scale is the exponential of the mean.",
        ),
        Peer(
            "torch",
            "-torch.distributions.LogNormal(input, scale).log_prob(target).mean()",
        ),
    ]
    aliases = "lognormal"
    task = "likelihood"
    best_for = "Positive targets that vary by factors: prices, durations."
    not_for = "Targets at 0 or below."
    reference = "Crow, E. L. and Shimizu, K. (1988). Lognormal distributions: theory and applications. Dekker."
