"""NegativeBinomialNLLLoss: negative log-likelihood of counts that vary more than Poisson's."""

import math
from typing import final

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import (
    absolute,
    exp,
    lgamma,
    log,
    log1p,
    minimum,
    minus_log1p,
    softplus,
    sqrt,
    where,
)
from losskit.losses._exact import multiplied, polynomial

# In 1/z^2 from z = 3 on, good to 2^-54: z * s(z) of Stirling's formula, lgamma(z) = (z - 1/2) log(z) - z + log(2 pi)/2
# + s(z), and z^2 * r(z) of its derivative, log(z) - 1/(2 z) - r(z).
STIRLING = (
    0.08333333333333333, -0.002777777777767353, 0.0007936507891020488, -0.0005952373063227016, 0.000841678862598761,
    -0.0019135564194573535, 0.006266355072207451, -0.02591763548428459, 0.11229667461420963, -0.41302940091672014,
    1.0364376287210755, -1.2591741378706647,
)  # fmt: skip
SLOPE = (
    0.08333333333333333, -0.008333333333325033, 0.003968253963318731, -0.004166665495022904, 0.0075756100694986265,
    -0.021081441106059102, 0.08275092617561204, -0.42213739276734025, 2.4853225179572207, -14.509465068315617,
    72.40846099395732, -269.9594777475153, 643.1483984648313, -720.4954060785403,
)  # fmt: skip


def divided(x, y, coefficients):
    """The polynomial p at x, and (p(x) - p(y)) / (x - y)."""
    at, slope = coefficients[-1], 0.0
    for c in reversed(coefficients[:-1]):
        slope = at + y * slope
        at = c + x * at
    return at, slope


@final
class Parts:
    """What value and gradients share. The size n of the distribution is 1 / dispersion, its mean m.

    With the deviance D = t log(t/m) - (n + t) log((n + t)/(n + m)) of the count t from its mean the loss is

        D + e(t) + K,   e(t) = lgamma(1 + t) - t log(t) + t,
                        K = lgamma(n) - lgamma(n + t) + (n + t) log(n + t) - n log(n) - t

    where none of the terms that cancel for large counts, or for a large n, is left.
    """

    def __init__(self, log_mean, mean, target, dispersion):
        self.t, self.alpha = target, dispersion
        self.n = 1.0 / dispersion
        self.odds = multiplied(dispersion, log_mean) if mean is None else dispersion * mean  # m / n
        endless = self.odds == math.inf
        sum_ = where(endless, dispersion, 1.0 + self.odds)
        logarithm = log(sum_)
        rest = (sum_ - 1.0) - where(endless, 0.0, self.odds)  # what rounding of the sum has added
        self.log_size = where(endless, log_mean + logarithm, logarithm - rest / sum_)
        self.log_share = where(endless, logarithm, self.log_size - log_mean)  # log(1/n + 1/m)
        excess = dispersion * target  # t / n
        many = excess == math.inf
        part = log1p(where(many, sqrt(dispersion) * sqrt(target), excess))
        self.log_excess = where(many, 2.0 * part, part)
        # The gradient by the log-mean, (m - t) / (1 + m / n), of which either may overflow.
        if mean is None:
            self.mean, root = exp(log_mean), exp(0.5 * log_mean)
            over = self.mean == math.inf
            share = where(over, target / root, target) / where(over, root, self.mean)
        else:
            self.mean, over, share = mean, mean == math.inf, target / mean
        wide = endless | over
        part = where(endless, 1.0, self.odds)
        excess = where(wide, part * (1.0 - share), self.mean - target) / (1.0 + where(endless, 0.0, self.odds))
        self.slope = where(wide, self.n * excess, excess)
        self.v = where(wide, -excess, -dispersion * excess)  # (t - m) / (n + m)
        self.low = dispersion > 1.0 / 3.0  # n below 3: three steps lead to where the series hold
        self.few = where(self.low, self.n, 1.0)
        self.base = where(self.low, self.few + 3.0, self.n)
        self.u, self.w = 1.0 / self.base, 1.0 / (self.base + target)
        self.gap = (target * self.u) * self.w  # u - w
        # Of the steps: 1 / (n + i) and 1 / (n + t + i).
        self.inverses = [where(self.low, dispersion, 1.0), 1.0 / (self.few + 1.0), 1.0 / (self.few + 2.0)]
        sums = self.few + target
        self.later = [1.0 / sums, 1.0 / (sums + 1.0), 1.0 / (sums + 2.0), self.w]

    def none(self):
        """The loss of a count of 0."""
        rare = self.odds < 1e-20
        return where(rare, self.mean, self.log_size / where(rare, 1.0, self.alpha))

    def rest(self):
        """v - log(1 + v)."""
        low = self.v < -0.55
        usual = low & (self.odds < 1e30)
        kept = (1.0 + where(usual, self.alpha * self.t, 0.0)) / (1.0 + where(usual, self.odds, 0.0))  # 1 + v
        near_zero = where(usual, (kept - 1.0) - log(kept), self.v + (self.log_size - self.log_excess))
        return where(low, near_zero, minus_log1p(where(low, 0.0, self.v)))

    def value(self):
        t, few = self.t, self.t < 3.0
        q = where(few, t + 3.0, t)
        u, log_q = 1.0 / q, log(q)
        # D, and for few counts t log(1 + 3/t) of e.
        gap = self.slope / where(few, 1.0, t)
        near = (t >= 3.0) & (absolute(gap) < 0.5) & (absolute(self.v) < 0.5)
        close = t * minus_log1p(where(near, gap, 0.0)) + self.rest() / self.alpha
        rare = self.alpha * t < 1e-20
        excess = where(rare, t, self.log_excess / where(rare, 1.0, self.alpha))
        none = self.none()
        apart = t * (log_q + (self.log_share - self.log_excess)) + (none - excess)
        deviance = where(near, close, where(none == math.inf, none, apart))
        # The rest of e, and K: three steps of each, where they are needed, have one logarithm.
        count = (0.5 * log_q + (0.5 * math.log(2.0 * math.pi) - where(few, 3.0, 0.0))) + u * polynomial(u * u, STIRLING)
        at, slope = divided(self.u * self.u, self.w * self.w, STIRLING)
        series = self.gap * (at + (self.w * (self.u + self.w)) * slope)
        n, sums = self.few, self.few + t
        steps = where(few, ((t + 1.0) * u) * ((t + 2.0) * u), 1.0)
        later = sqrt(self.base * self.w)
        for i in range(1, 3):
            later = later * ((sums + float(i)) * self.w) * (self.base * self.inverses[i])
        before = n * log1p(3.0 * minimum(self.inverses[0], 1e37))
        after = sums * log1p(3.0 * minimum(self.later[0], 1e37))
        size = where(self.low, (before - after) + self.log_excess, 0.5 * self.log_excess) + series
        return where(t == 0.0, none, deviance + ((count + size) + log(where(self.low, later, 1.0) / steps)))

    def by_dispersion(self):
        """-n^2 (psi(n) - psi(n + t) + log(1 + t/n)), less n^2 (v - log(1 + v))."""
        small, large = absolute(self.v) < 1e-9, self.v > 1e4
        inverse = 1.0 / where(small | large, 1.0, self.v)
        ratio = where(small, 0.5 - self.v * (1.0 / 3.0), (self.rest() * inverse) * inverse)
        fit = (self.slope * ratio) * self.slope
        poor = self.n * (-self.slope - self.n * (self.log_excess - self.log_size))
        at, slope = divided(self.u * self.u, self.w * self.w, SLOPE)
        series = 0.5 + (self.u + self.w) * (at + (self.w * self.w) * slope)
        n, steps = self.few, self.few * (self.gap * series)
        for i, inverse in enumerate(self.inverses):
            after = self.t * self.later[i + 1]
            # Times n, for 1/n of the first step may be the largest number.
            share = (n * inverse) * (self.t * self.later[i]) if i else self.t / (n + self.t)
            steps = steps + n * minus_log1p(after * inverse) + share * self.later[i + 1]
        many = self.t * series / (1.0 + self.alpha * where(self.low, 0.0, self.t))
        return where(self.low, n * steps, many) - where(large, poor, fit)

    def by_mean(self):
        """The gradient by the mean itself."""
        above = (self.mean > self.t) & (self.odds < math.inf)
        share = where(above, self.t, 0.0) / self.mean
        endless = self.mean == math.inf
        below = where(endless, 0.0, self.slope) / self.mean
        return where(above, (1.0 - share) / (1.0 + self.odds), below)


def parts(input, target, dispersion, log_input):
    """The parts of the loss, from the logarithm of the mean or from the mean."""
    return Parts(input if log_input else log(input), None if log_input else input, target, dispersion)


class NegativeBinomialNLLLoss(PointwiseLoss):
    """Negative log-likelihood of a negative binomial distribution: counts that vary more than Poisson's.

    Choose it for counts whose variance is above their mean: sales, visits, reads of genes.
    Prefer PoissonNLLLoss when the variance is the mean, ZeroInflatedNegativeBinomialNLLLoss when zeros have a cause of
    their own.

    `input` is the logarithm of the mean if `log_input`, else the mean itself. The variance is
    mean + dispersion * mean^2; where the dispersion tends to 0 the loss tends to that of a Poisson distribution. The
    dispersion may be predicted or constant: it may have dimensions of size 1 where `input` does not, may lack the last
    dimension, or may be one number. To torch's distribution it is 1 / total_count.
    """

    log_input: bool = param(default=True, doc="Whether input is the logarithm of the mean.")

    arguments = "log_input reduction"
    operands = {
        "input": Operand("Predicted log-means, or means without log_input.", domain=positive, unless="log_input",
                         hint="Pass log_input=True for log-means."),
        "target": Operand("Counts.", domain=nonnegative, broadcast=True, differentiable=False,
                          hint="A negative binomial distribution gives no probability to what is below 0."),
        "dispersion": Operand("Predicted dispersions.", domain=positive, broadcast=True, per_row=True,
                              hint="Predict log(dispersion) and pass its exponential."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, dispersion, log_input):
        return parts(input, target, dispersion, log_input).value()

    @staticmethod
    def grad(input, target, dispersion, log_input):
        own = parts(input, target, dispersion, log_input)
        return own.slope if log_input else own.by_mean(), None, own.by_dispersion()

    @staticmethod
    def textbook(input, target, dispersion, log_input):
        n, x = 1.0 / dispersion, (input if log_input else log(input)) + log(dispersion)
        choose = lgamma(target + n) - lgamma(n) - lgamma(target + 1.0)
        return (n + target) * softplus(x) - target * x - choose

    facts = Facts(convex="input", smooth=True, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(input=0.0, target=0.0, dispersion=1.0, value=0.6931471805599453, grad=0.5, source="log 2"),
        Case(input=0.0, target=2.0, dispersion=1.0, value=2.0794415416798357, grad=-0.5, source="3 log 2"),
        Case(input=4.0, target=3.0, dispersion=0.5, log_input=False, value=2.027325540540822,
             grad=0.08333333333333333, source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "scipy",
            "-scipy.stats.nbinom.logpmf(target, 1 / dispersion, 1 / (1 + dispersion * np.exp(input)))",
            "negative_binomial_nll_loss(input, target, dispersion, reduction='none')",
            given={"input": [0.5, 1.0, -0.5, 2.0], "target": [0.0, 3.0, 1.0, 12.0], "dispersion": [0.5, 1.5, 0.1, 0.8]},
            why="scipy counts failures before n successes: n = 1 / dispersion, p = 1 / (1 + dispersion * mean).",
        ),
        Peer(
            "torch",
            (
                "-torch.distributions.NegativeBinomial(1 / dispersion, logits=input + "
                "dispersion.log()).log_prob(target).mean()"
            ),
            given={"input": [0.5, 1.0, -0.5, 2.0], "target": [0.0, 3.0, 1.0, 12.0], "dispersion": [0.5, 1.5, 0.1, 0.8]},
        ),
    ]
    aliases = "nb2 negbin"
    task = "likelihood"
    best_for = "Counts that vary more than Poisson's."
    not_for = "Targets that are not counts."
    reference = (
        "Cameron, A. C. and Trivedi, P. K. (1986). Econometric models based on count data. J. Appl. Econometrics 1, "
        "29-53."
    )
