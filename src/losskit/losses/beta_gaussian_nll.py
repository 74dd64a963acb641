"""BetaGaussianNLLLoss: the likelihood of a normal distribution, weighted by a power of the predicted variance."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive, probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import log, power, sqrt, stop, where
from losskit.losses._exact import residual


def parts(weight, var):
    """Two factors of weight / var, which alone may overflow or be subnormal."""
    plain = weight / var
    unit = where(plain > 2.0**120, 2.0**54, where(plain < 2.0**-120, 2.0**-54, 1.0))
    return weight / (var * unit), unit


class BetaGaussianNLLLoss(PointwiseLoss):
    """Gaussian likelihood times var^beta: points that the model calls noisy keep their pull on the mean.

    Choose it when GaussianNLLLoss trains the variance but leaves the mean behind: there the pull of a point is divided
    by its predicted variance, and a bad fit explains itself as noise.
    Prefer GaussianNLLLoss where the value must be a likelihood, MSELoss when the variance does not matter.

    The weight var^beta counts as a constant when the loss is differentiated. With beta = 0 the loss is
    GaussianNLLLoss; with beta = 1 the mean learns as by half of MSELoss. It has nothing to do with the Beta
    distribution. `target` and `var` may have dimensions of size 1 where `input` does not; `var` may also lack the last
    dimension (one variance per row) or be one number.
    """

    beta: float = param(default=0.5, domain=probability, doc="Power of the variance that weights the likelihood.")

    arguments = "beta reduction"
    operands = {
        "input": Operand("Predicted means, any real numbers."),
        "target": Operand("True values.", broadcast=True),
        "var": Operand("Predicted variances.", domain=positive, broadcast=True, per_row=True,
                       hint="Predict log(var) and pass its exponential."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, var, beta):
        d, k = residual(input, target)
        weight = power(var, beta)
        ratio, unit = parts(weight, var)
        return (0.5 * log(var)) * weight + (k * (d * ratio)) * ((0.5 * k * d) * unit)

    @staticmethod
    def grad(input, target, var, beta):
        d, k = residual(input, target)
        ratio, unit = parts(power(var, beta), var)
        slope = k * ((d * ratio) * unit)
        z = k * (d / sqrt(var))
        return slope, -slope, ((1.0 - z) * ratio) * ((0.5 * (1.0 + z)) * unit)

    @staticmethod
    def textbook(input, target, var, beta):
        return stop(var**beta) * 0.5 * (log(var) + (input - target) ** 2 / var)

    facts = Facts(convex="input", smooth=True, lipschitz=None, minimum=None, symmetric=True)
    cases = [
        Case(input=1.0, target=3.0, var=4.0, value=2.386294361119891, grad=-1.0, source="log 4 + 1"),
        Case(input=1.0, target=3.0, var=4.0, beta=0.0, value=1.1931471805599454, grad=-0.5, source="0.5 * (log 4 + 1)"),
        Case(input=1.0, target=3.0, var=4.0, beta=1.0, value=4.772588722239782, grad=-2.0, source="2 * (log 4 + 1)"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torch-uncertainty",
            "torch_uncertainty.losses.BetaNLL(beta=0.5)(input, target, var)",
        ),
    ]
    aliases = "beta_nll"
    task = "likelihood"
    best_for = "A mean and a variance learned together."
    not_for = "Values that must be likelihoods."
    reference = (
        "Seitzer, M., Tavakoli, A., Antic, D. and Martius, G. (2022). On the pitfalls of heteroscedastic uncertainty "
        "estimation with probabilistic neural networks. ICLR. arXiv:2203.09168."
    )
