"""TweedieDevianceLoss: amounts of which many are 0."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval, nonnegative, positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, exp, expm1, expm1m, log, maximum, minimum, power, where
from losskit.losses._exact import close, grown


class TweedieDevianceLoss(PointwiseLoss):
    """Deviance of a Tweedie distribution: amounts of which many are exactly 0 and the others positive.

    Choose it for claims per policy, rainfall per day, sales per item: sums of a random number of random amounts.
    Prefer PoissonNLLLoss for counts, GammaDevianceLoss for amounts that are never 0; they are the limits of this loss
    where `p` tends to 1 and to 2, up to terms of the target.

    The variance grows as mean^p. `input` is the logarithm of the mean if `log_input`, else the mean itself. The
    value is 0 at a perfect fit; libraries that call half of it without the terms of the target by this name have half
    the gradient.
    """

    p: float = param(default=1.5, doc="The variance is in proportion to the mean to this power.",
                         domain=Interval("between 1 and 2", low=1.0, high=2.0, low_open=True, high_open=True,
                                         typical=1.5))  # fmt: skip
    log_input: bool = param(default=True, doc="Whether input is the logarithm of the mean.")

    arguments = "p log_input reduction"
    operands = {
        "input": Operand("Predicted log-means, or means without log_input.", domain=positive, unless="log_input",
                         hint="Pass log_input=True for log-means."),
        "target": Operand("True values.", domain=nonnegative, broadcast=True,
                          hint="A Tweedie distribution gives no probability to what is below 0."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, p, log_input):
        # With the target to the power k as a factor all that is left is two terms that are never negative: neither a
        # good fit cancels, nor a power near 1 or 2. Only far from the target are the terms taken as they are.
        k, j = 2.0 - p, p - 1.0
        log_mean = input if log_input else log(input)
        none = target == 0.0
        log_target = log(where(none, 1.0, target))
        up, down = k * (log_mean - log_target), j * (log_target - log_mean)
        over, under = up > 2.0, down > 2.0
        top = minimum(maximum(up, down), 1e4)
        share = 1.0 - (1.0 + top) * exp(-top)
        close_by, all_of_it = exp(k * log_target), exp(k * log_mean)
        left = where(over, all_of_it * share, close_by * expm1m(where(over, 0.0, up)))
        right = where(under, grown(target, -j * log_mean) * share, close_by * expm1m(where(under, 0.0, down)))
        return where(none, all_of_it * (2.0 / k), left * (2.0 / k) + right * (2.0 / j))

    @staticmethod
    def grad(input, target, p, log_input):
        k, j = 2.0 - p, p - 1.0
        log_mean = input if log_input else log(input)
        if log_input:
            near = absolute(input) < 1.0
            less = where(near, -exp(k * input) * close(target, where(near, input, 0.0)),
                         exp(k * input) - grown(target, -j * input))  # fmt: skip
            by_input = 2.0 * less
        else:
            by_input = 2.0 * ((input - target) / input) * exp(-j * log_mean)
        down = j * (log(target) - log_mean)
        under = down > 1.0
        base = exp(-j * where(under, log_mean, log(target)))
        slope = where(under, -base, base) * expm1(where(under, -down, down))
        return by_input, slope * (2.0 / j)

    @staticmethod
    def textbook(input, target, p, log_input):
        k, j = 2.0 - p, p - 1.0
        mean = exp(input) if log_input else input
        terms = power(mean, k) / k + target * power(mean, -j) / j - power(target, k) / (k * j)
        return 2.0 * terms

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=0.0, target=0.0, value=4.0, grad=2.0, source="by hand"),
        Case(input=0.0, target=4.0, value=4.0, grad=-6.0, source="4 + 16 - 16"),
        Case(input=1.0, target=4.0, p=1.25, log_input=False, value=4.496777336040639, grad=-6.0,
             source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "scikit-learn",
            "sklearn.metrics.mean_tweedie_deviance(target.flatten(), np.exp(input.flatten()), power=1.5)",
            why="scikit-learn takes the mean; here it is its logarithm, unless log_input=False.",
        ),
        Peer(
            "pytorch-forecasting",
            "pytorch_forecasting.metrics.TweedieLoss(p=1.5).loss(input, target)",
            "0.5 * tweedie_deviance_loss(input, target, reduction='none') + 4 * target**0.5",
            why=(
                "Half the deviance without the term of the target, so that a perfect fit is not 0: the gradient "
                "is half."
            ),
        ),
    ]
    aliases = "tweedie compound_poisson_gamma"
    task = "likelihood"
    best_for = "Amounts of which many are 0: claims, rainfall, sales."
    not_for = "Counts; targets below 0."
    reference = "Jorgensen, B. (1987). Exponential dispersion models. J. R. Stat. Soc. B 49, 127-162."
