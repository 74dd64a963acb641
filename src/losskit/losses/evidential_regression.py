"""EvidentialRegressionLoss: a regression that predicts how much evidence it has."""

import math

from losskit.declaration import Case, Operand, param
from losskit.domains import Interval, nonnegative, positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, lgamma, log, log1p, sign, sqrt, times, where
from losskit.losses._exact import residual
from losskit.losses.student_t_nll import ratio_of_gammas, slope_of_ratio

HINT = "Use softplus of a score."


def parts(gamma, target, nu, beta):
    """1 / sqrt(1 + 1 / nu), q = that times residual over sqrt(beta), w = q^2 / 2, whether it is huge, log(1 + w)."""
    d, k = residual(gamma, target)
    rate, width = sqrt(nu / (1.0 + nu)), sqrt(beta)
    q = k * (d / width * rate)
    size = absolute(q)
    far, over = size > 1e15, size == math.inf
    w = where(far, 0.0, 0.5 * q * q)
    half = log(where(over, absolute(d), where(far, size, 1.0))) + where(over, log(rate) + log(k / width), 0.0)
    return rate, q, w, far, where(far, 2.0 * half - math.log(2.0), log1p(w))


class EvidentialRegressionLoss(PointwiseLoss):
    """Negative log-likelihood of a normal distribution whose mean and variance are unknown, with a price on evidence.

    Choose it when one pass of one model shall tell its own ignorance from the noise of the data: beta / (alpha - 1) is
    the noise, and that over nu the ignorance.
    Prefer GaussianNLLLoss for the noise alone, StudentTNLLLoss for heavy tails, an ensemble where ignorance decides.

    The four predictions are the outputs of one model, as a rule its last dimension. The price is
    `reg_weight` |gamma - target| (2 nu + alpha): evidence where the prediction is wrong.
    """

    reg_weight: float = param(default=0.01, domain=nonnegative, doc="Price of evidence where the prediction is wrong.")

    name = "evidential_regression_loss"
    arguments = "reg_weight reduction"
    operands = {
        "gamma": Operand("Predicted values, any real numbers."),
        "target": Operand("True values."),
        "nu": Operand("Evidence for the value, as a number of observations.", domain=positive, hint=HINT),
        "alpha": Operand(
            "Evidence for the noise.",
            domain=Interval("above 1", low=1.0, low_open=True, typical=2.0),
            hint="Use 1 + softplus of a score.",
        ),
        "beta": Operand("Sum of squares of the noise.", domain=positive, hint=HINT),
    }

    @staticmethod
    def value(gamma, target, nu, alpha, beta, reg_weight):
        d, k = residual(gamma, target)
        _, _, _, _, logarithm = parts(gamma, target, nu, beta)
        error = times(reg_weight, absolute(d)) * k
        width = (log(beta) - log(alpha)) + (log1p(nu) - log(nu)) + math.log(2.0 * math.pi)
        evidence = 2.0 * times(error, nu) + times(error, alpha)
        return ratio_of_gammas(alpha) + 0.5 * width + (alpha + 0.5) * logarithm + evidence

    @staticmethod
    def grad(gamma, target, nu, alpha, beta, reg_weight):
        d, k = residual(gamma, target)
        rate, q, w, far, logarithm = parts(gamma, target, nu, beta)
        pull = where(far, 1.0 / where(far, d, 1.0) / k, 0.5 * q / (1.0 + w) * rate / sqrt(beta))
        by_gamma = (alpha + 0.5) * (2.0 * pull) + times(sign(d), (2.0 * reg_weight) * nu + reg_weight * alpha)
        half = (alpha + 0.5) * where(far, 1.0, w / (1.0 + w)) - 0.5
        error = times(reg_weight, absolute(d)) * k
        by_alpha = slope_of_ratio(alpha) - 0.5 / alpha + logarithm + error
        by_nu = where(nu < 1.0, (half / (1.0 + nu) + 2.0 * (error * nu)) / nu, half / (1.0 + nu) / nu + 2.0 * error)
        return by_gamma, -by_gamma, by_nu, by_alpha, -half / beta

    @staticmethod
    def textbook(gamma, target, nu, alpha, beta, reg_weight):
        omega = 2.0 * beta * (1.0 + nu)
        likelihood = (alpha + 0.5) * log(nu * (gamma - target) ** 2 + omega) - alpha * log(omega)
        constant = 0.5 * log(math.pi / nu) + lgamma(alpha) - lgamma(alpha + 0.5)
        return constant + likelihood + reg_weight * absolute(gamma - target) * (2.0 * nu + alpha)

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=None, symmetric=True)
    cases = [
        Case(gamma=0.0, target=1.0, nu=1.0, alpha=2.0, beta=1.0, reg_weight=0.0,
             value=1.5386881312972502, grad=-1.0, source="mpmath"),
        Case(gamma=0.0, target=1.0, nu=1.0, alpha=2.0, beta=1.0, reg_weight=0.1,
             value=1.9386881312972504, grad=-1.4, source="mpmath"),
    ]  # fmt: skip
    aliases = "deep_evidential_regression der normal_inverse_gamma nig"
    task = "likelihood"
    best_for = "One model that tells its ignorance from the noise."
    not_for = "Ignorance that decisions rest on: it is learned from the training data alone."
    reference = "Amini, A. et al. (2020). Deep evidential regression. NeurIPS. arXiv:1910.02600."
