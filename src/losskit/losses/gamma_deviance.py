"""GammaDevianceLoss: likelihood of positive targets, 0 at a perfect fit."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import exp, log, maximum, minimum, minus_log1p, where
from losskit.losses._divergences import excess, is_near
from losskit.losses._exact import multiplied


class GammaDevianceLoss(PointwiseLoss):
    """Deviance of a gamma distribution: an error in percent of the mean, 0 at a perfect fit.

    Choose it for positive amounts whose spread grows with their mean, where the value is to be read: for small
    relative errors e it is e^2.
    Prefer GammaNLLLoss where likelihoods are compared or targets may be 0, TweedieDevianceLoss where many are 0.

    `input` is the logarithm of the mean if `log_input`, else the mean itself. The deviance is twice what GammaNLLLoss
    is above its smallest value for the target.
    """

    log_input: bool = param(default=True, doc="Whether input is the logarithm of the mean.")

    arguments = "log_input reduction"
    operands = {
        "input": Operand("Predicted log-means, or means without log_input.", domain=positive, unless="log_input",
                         hint="Pass log_input=True for log-means."),
        "target": Operand("True values.", domain=positive, broadcast=True,
                          hint="GammaNLLLoss and TweedieDevianceLoss take targets of 0."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, log_input):
        if log_input:
            d = log(target) - input
            near = is_near(d)  # else the rounding of the logarithm would grow with its exponential
            far = (multiplied(target, -input) - 1.0) - minimum(d, 1e5)
            return 2.0 * where(near, excess(where(near, d, 0.0)), far)
        low = target < 0.5 * input
        logs = (target / input - 1.0) - (log(target) - log(input))
        return 2.0 * where(low, logs, minus_log1p(where(low, 0.0, (target - input) / input)))

    @staticmethod
    def grad(input, target, log_input):
        if not log_input:
            low = target < 0.5 * input
            d, part = target - input, target / input - 1.0
            by_input = where(low, part, d / input) / input
            by_target = where(low, part, d / maximum(input, target)) / minimum(input, target)
            return -2.0 * by_input, 2.0 * by_target
        d = log(target) - input
        near = is_near(d)
        more = where(near & is_near(input), d + excess(where(near, d, 0.0)), multiplied(target, -input) - 1.0)
        many = more > 1.0  # the mean may be so small that the ratio overflows
        inverse = exp(-input)
        return -2.0 * more, 2.0 * where(many, inverse * (1.0 - 1.0 / (more + 1.0)), more / target)

    @staticmethod
    def textbook(input, target, log_input):
        if log_input:
            return 2.0 * (target * exp(-input) - 1.0 - log(target) + input)
        return 2.0 * (target / input - 1.0 - log(target / input))

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.0, target=2.0, value=0.6137056388801094, grad=-2.0, source="2 * (1 - log 2)"),
        Case(input=0.0, target=1.0, value=0.0, grad=0.0, source="a perfect fit"),
        Case(input=3.0, target=2.0, log_input=False, value=0.14426354954966219, grad=0.2222222222222222,
             source="2 * (log 1.5 - 1 / 3)"),
    ]  # fmt: skip
    peers = [
        Peer(
            "scikit-learn",
            "sklearn.metrics.mean_gamma_deviance(target.flatten(), np.exp(input.flatten()))",
            why="scikit-learn takes the mean; here it is its logarithm, unless log_input=False.",
        ),
    ]
    aliases = "mean_gamma_deviance"
    task = "likelihood"
    best_for = "Relative errors of positive amounts."
    not_for = "Targets of 0; counts."
    reference = "McCullagh, P. and Nelder, J. A. (1989). Generalized linear models. Chapman and Hall, chapter 8."
