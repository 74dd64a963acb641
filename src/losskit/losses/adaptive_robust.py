"""AdaptiveRobustLoss: a robust loss that learns how robust to be."""

import math

from torch import Tensor

from losskit.declaration import Case, Operand, param
from losskit.domains import Interval, positive
from losskit.facts import Facts
from losskit.families.composed import ComposedLoss
from losskit.losses._partition import log_partition
from losskit.losses.general_robust import GeneralRobustLoss


class AdaptiveRobustLoss(ComposedLoss):
    """The negative log-likelihood of GeneralRobustLoss as a distribution, so that `alpha` and `scale` can be learned.

    Choose it where nobody knows how heavy the tails of the errors are: with parameters for `alpha` and `scale`, one for
    all or one for each output, the data say it. At alpha 2 it is a Gaussian's likelihood, at 0 a Cauchy's.
    Prefer GeneralRobustLoss for an alpha that you choose, StudentTNLLLoss for a likelihood without a table.

    The partition function has no closed form: it is interpolated, in float64, with an error of some 1e-15. Keep alpha
    away from the ends while you learn it: the author's 0.001 + 1.998 sigmoid(x) does. At alpha = 2 there is no gradient
    by it: it is infinite, and 0 here.
    """

    alpha: float | Tensor = param(default=1.0, domain=Interval("in [0, 2]", low=0.0, high=2.0, typical=1.0),
                                  doc="Shape: 2 is a Gaussian, 0 a Cauchy distribution.")  # fmt: skip
    scale: float | Tensor = param(default=1.0, domain=positive, doc="Size of a usual residual.")

    arguments = "alpha scale reduction"
    operands = {
        "input": Operand("Predictions, any real numbers.", shape="(...)"),
        "target": Operand("True values.", shape="(...)"),
    }
    unit = "(...)"

    @staticmethod
    def value(input, target, alpha, scale):
        loss = GeneralRobustLoss.functional(input, target, alpha=alpha, scale=scale, reduction="none")
        more = log_partition(alpha) + (scale.log() if isinstance(scale, Tensor) else math.log(scale))
        return loss + more if isinstance(more, Tensor) else loss.add_(more)  # new memory costs more than the sum

    equations = {
        "loss": (
            r"\ell = \rho\Big(\frac{x - t}{s}; \alpha\Big) + \log s + \log Z(\alpha)",
            "ℓ = ρ((x − t)/s; α) + log s + log Z(α)",
        ),
        "where": (
            r"\rho(u; \alpha) = \frac{2 - \alpha}{\alpha} "
            r"\Big(\Big(\frac{u^2}{2 - \alpha} + 1\Big)^{\alpha / 2} - 1\Big), "
            r"\quad Z(\alpha) = \int_{-\infty}^{\infty} e^{-\rho(u; \alpha)} \, du",
            "ρ(u; α) = (2 − α)/α · ((u²/(2 − α) + 1)^(α/2) − 1), Z(α) = ∫ exp(−ρ(u; α)) du",
        ),
        "gradient by input": (
            r"\frac{\partial \ell}{\partial x} = \frac{u}{s} \Big(\frac{u^2}{2 - \alpha} + 1\Big)^{\alpha / 2 - 1}"
            r", \quad u = \frac{x - t}{s}",
            "∂ℓ/∂x = u/s · (u²/(2 − α) + 1)^(α/2 − 1), u = (x − t)/s",
        ),
        "gradient by scale": (
            r"\frac{\partial \ell}{\partial s} = \frac{1}{s} - \frac{u^2}{s} "
            r"\Big(\frac{u^2}{2 - \alpha} + 1\Big)^{\alpha / 2 - 1}",
            "∂ℓ/∂s = 1/s − u²/s · (u²/(2 − α) + 1)^(α/2 − 1)",
        ),
    }

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=None, symmetric=True)
    cases = [
        Case(input=[2.0], target=[0.0], alpha=2.0, value=2.91894, grad=[2.0], source="a Gaussian's likelihood"),
        Case(input=[2.0], target=[0.0], alpha=1.0, scale=0.5, value=3.61545, grad=[1.94029], source="mpmath"),
    ]
    aliases = "adaptive_loss_function"
    task = "likelihood"
    best_for = "Regression with errors of unknown tails, learned with the model."
    not_for = "Errors heavier than a Cauchy's: below alpha = 0 there is no likelihood."
    reference = "Barron, J. T. (2019). A general and adaptive robust loss function. CVPR. arXiv:1701.03077."
