"""GaussianNLLLoss: negative log-likelihood of a normal distribution whose variance is predicted too."""

import math

from torch import nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import log, maximum, where
from losskit.losses._exact import residual


class GaussianNLLLoss(PointwiseLoss, nn.GaussianNLLLoss):
    """Negative log-likelihood of a normal distribution: learns how uncertain each prediction is.

    Choose it when the noise level varies and the model predicts a mean and a variance.
    Prefer MSELoss for point predictions or constant variance.

    `target` may have dimensions of size 1 where `input` does not; `var` may too, may lack the last dimension (one
    variance per row), or may be one number. Where `var` is below `eps` the loss is that of `eps`, and the gradient by
    `var` is the one at `eps`.
    """

    full: bool = param(default=False, doc="Add the constant 0.5 * log(2 * pi).")
    eps: float = param(default=1e-6, domain=positive, doc="Smallest variance, for stability.")

    arguments = "full eps reduction"
    operands = {
        "input": Operand("Predicted means, any real numbers."),
        "target": Operand("True values.", broadcast=True),
        "var": Operand("Predicted variances.", domain=nonnegative, broadcast=True, per_row=True,
                       hint="Predict log(var) and pass its exponential."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, var, full, eps):
        d, k = residual(input, target)
        v = where(var < eps, eps, var)
        slope = k * (d / v)  # divided before it is squared: the square overflows where the loss does not
        loss = 0.5 * log(v) + (0.5 * k * slope) * d
        return loss + 0.5 * math.log(2.0 * math.pi) if full else loss

    @staticmethod
    def grad(input, target, var, full, eps):
        d, k = residual(input, target)
        v = where(var < eps, eps, var)
        slope = k * (d / v)
        return slope, -slope, 0.5 / v - (0.5 * slope) * slope

    @staticmethod
    def textbook(input, target, var, full, eps):
        v = maximum(var, eps)
        loss = 0.5 * (log(v) + (input - target) ** 2 / v)
        return loss + 0.5 * math.log(2.0 * math.pi) if full else loss

    refused_by_torch = ("var",)
    facts = Facts(convex="input", smooth=True, lipschitz=None, minimum=None, symmetric=True)
    cases = [
        Case(input=1.0, target=3.0, var=4.0, value=1.1931471805599454, grad=-0.5, source="0.5 * (log 4 + 1)"),
        Case(input=1.0, target=3.0, var=1.0, full=True, value=2.9189385332046727, grad=-2.0,
             source="2 + 0.5 * log(2 pi)"),
        Case(input=0.0, target=0.0, var=0.0, eps=0.01, value=-2.302585092994046, grad=0.0, source="0.5 * log 0.01"),
    ]  # fmt: skip
    deviations = [
        Deviation(
            reason="torch squares the residual before it divides by the variance.",
            arguments={"input": 2e19, "target": 0.0, "var": 3e38},
            torch=float("inf"),
            losskit=44.96508957,
        ),
        Deviation(
            reason="eps = 1e-8 rounds to 0 in float16; losskit computes halves in float32.",
            arguments={"input": 0.0, "target": 0.0, "var": 0.0, "eps": 1e-8},
            torch=float("nan"),
            losskit=-9.210340372,
            dtype="float16",
        ),
    ]
    peers = [
        Peer(
            "scipy",
            "-scipy.stats.norm.logpdf(target, input, np.sqrt(var))",
            "gaussian_nll_loss(input, target, var, full=True, reduction='none')",
            why="With full=True it is the whole log-density.",
        ),
        Peer(
            "torch",
            "-torch.distributions.Normal(input, var.sqrt()).log_prob(target).mean()",
            "gaussian_nll_loss(input, target, var, full=True)",
        ),
    ]
    aliases = "gaussian normal_nll"
    task = "likelihood"
    best_for = "Uncertainty estimates and heteroscedastic noise."
    not_for = "Point predictions; constant variance."
    reference = (
        "Nix, D. A. and Weigend, A. S. (1994). Estimating the mean and variance of the target distribution. ICNN."
    )
