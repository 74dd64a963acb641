"""LaplaceNLLLoss: absolute error with a scale that is predicted too."""

import math

from losskit.declaration import Case, Operand, Peer
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, log, sign, where
from losskit.losses._exact import residual


class LaplaceNLLLoss(PointwiseLoss):
    """Negative log-likelihood of a Laplace distribution: absolute error whose scale is learned as well.

    Choose it when the noise level varies and some targets are far off: a median with its uncertainty.
    Prefer L1Loss when the scale does not matter, GaussianNLLLoss when the noise is normal.

    `target` and `scale` may have dimensions of size 1 where `input` does not; `scale` may also lack the last dimension
    (one scale per row) or be one number.
    """

    arguments = "reduction"
    operands = {
        "input": Operand("Predicted medians, any real numbers."),
        "target": Operand("True values.", broadcast=True),
        "scale": Operand("Predicted scales, the expected absolute errors.", domain=positive, broadcast=True,
                         per_row=True, hint="Predict log(scale) and pass its exponential."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, scale):
        d, k = residual(input, target)
        wide = scale > 1.0  # twice the scale may overflow
        constant = where(wide, math.log(2.0), 0.0)
        return k * (absolute(d) / scale) + (log(where(wide, scale, 2.0 * scale)) + constant)

    @staticmethod
    def grad(input, target, scale):
        d, k = residual(input, target)
        slope = sign(d) / scale
        return slope, -slope, (1.0 - k * (absolute(d) / scale)) / scale  # 1 / scale alone may overflow

    @staticmethod
    def textbook(input, target, scale):
        return absolute(input - target) / scale + log(2.0 * scale)

    facts = Facts(convex="input", smooth=False, lipschitz=None, minimum=None, symmetric=True)
    cases = [
        Case(input=1.0, target=3.0, scale=0.5, value=4.0, grad=-2.0, source="by hand"),
        Case(input=0.0, target=0.25, scale=1.0, value=0.9431471805599453, grad=-1.0, source="0.25 + log 2"),
    ]
    peers = [
        Peer(
            "scipy",
            "-scipy.stats.laplace.logpdf(target, input, scale)",
            "laplace_nll_loss(input, target, scale, reduction='none')",
        ),
        Peer(
            "torch",
            "-torch.distributions.Laplace(input, scale).log_prob(target).mean()",
        ),
    ]
    aliases = "laplacian double_exponential"
    task = "likelihood"
    best_for = "Uncertainty estimates with outliers."
    not_for = "Constant scales; normal noise."
    reference = (
        "Laplace, P. S. (1774). Memoire sur la probabilite des causes par les evenements. Savants etrangers 6, 621-656."
    )
