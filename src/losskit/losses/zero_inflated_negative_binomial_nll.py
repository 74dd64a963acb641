"""ZeroInflatedNegativeBinomialNLLLoss: negative log-likelihood of counts whose zeros have two causes."""

import math

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, exp, expm1, lgamma, log, log1p, logaddexp, sigmoid, softplus, times, where
from losskit.losses.negative_binomial_nll import parts


def causes(gate, none):
    """Of a count of 0, the probability of a cause of its own, and of the other: sigmoid of gate + none and of minus it.

    What is rounded away in the sum counts as soon as it is large.
    """
    none = where(gate == -math.inf, 0.0, none)
    score = gate + none
    back = score - gate
    lost = where(absolute(score) < math.inf, (gate - (score - back)) + (none - back), 0.0)
    own, other = sigmoid(score), sigmoid(-score)
    slope = own * other * lost
    return own + slope, other - slope


class ZeroInflatedNegativeBinomialNLLLoss(PointwiseLoss):
    """Negative log-likelihood of a negative binomial distribution with more zeros: some have a cause of their own.

    Choose it for counts of what may not be there at all: claims of who has no car, genes that are
    switched off.
    Prefer NegativeBinomialNLLLoss when a small mean explains the zeros.

    A count is 0 with the probability sigmoid(gate), whatever the mean is; otherwise it has the distribution of
    NegativeBinomialNLLLoss. `input` is the logarithm of the mean of that distribution if `log_input`, else the mean
    itself. `gate` and `dispersion` may be predicted or constant: each may have dimensions of size 1 where `input` does
    not, may lack the last dimension, or may be one number.
    """

    log_input: bool = param(default=True, doc="Whether input is the logarithm of the mean.")

    arguments = "log_input reduction"
    operands = {
        "input": Operand("Predicted log-means, or means without log_input.", domain=positive, unless="log_input",
                         hint="Pass log_input=True for log-means."),
        "target": Operand("Counts.", domain=nonnegative, broadcast=True, differentiable=False,
                          hint="A negative binomial distribution gives no probability to what is below 0."),
        "gate": Operand("Predicted scores of a zero with a cause of its own.", broadcast=True, per_row=True,
                        kind="logit"),
        "dispersion": Operand("Predicted dispersions.", domain=positive, broadcast=True, per_row=True,
                              hint="Predict log(dispersion) and pass its exponential."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, gate, dispersion, log_input):
        own = parts(input, target, dispersion, log_input)
        none = own.none()
        some = sigmoid(-gate) * -expm1(-none)  # the probability of a count above 0
        likely = some < 0.5
        zero = where(likely, -log1p(-where(likely, some, 0.0)), softplus(gate) - logaddexp(gate, -none))
        return where(target == 0.0, zero, softplus(gate) + own.value())

    @staticmethod
    def grad(input, target, gate, dispersion, log_input):
        own = parts(input, target, dispersion, log_input)
        none, empty = own.none(), target == 0.0
        gated, open_ = causes(gate, none)
        share = where(empty, open_, 1.0)
        by_input = times(share, own.slope if log_input else own.by_mean())
        by_gate = where(empty, gated * sigmoid(-gate) * expm1(-none), sigmoid(gate))
        return by_input, None, by_gate, times(share, own.by_dispersion())

    @staticmethod
    def textbook(input, target, gate, dispersion, log_input):
        n, x = 1.0 / dispersion, (input if log_input else log(input)) + log(dispersion)
        choose = lgamma(target + n) - lgamma(n) - lgamma(target + 1.0)
        zero = -log(sigmoid(gate) + sigmoid(-gate) * exp(-n * softplus(x)))
        return where(target == 0.0, zero, softplus(gate) + (n + target) * softplus(x) - target * x - choose)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(input=0.0, target=0.0, gate=0.0, dispersion=1.0, value=0.2876820724517809, grad=0.16666666666666666,
             source="log 4/3"),
        Case(input=0.0, target=2.0, gate=0.0, dispersion=1.0, value=2.772588722239781, grad=-0.5, source="4 log 2"),
    ]  # fmt: skip
    peers = [
        Peer(
            "scipy",
            (
                "-np.log(scipy.special.expit(gate) * (target == 0) + scipy.special.expit(-gate) * "
                "scipy.stats.nbinom.pmf(target, 1 / dispersion, 1 / (1 + dispersion * np.exp(input))))"
            ),
            "zero_inflated_negative_binomial_nll_loss(input, target, gate, dispersion, reduction='none')",
            given={
                "input": [0.5, 1.0, -0.5, 2.0],
                "target": [0.0, 3.0, 1.0, 12.0],
                "gate": [-1.0, 0.5, 0.0, -2.0],
                "dispersion": [0.5, 1.5, 0.1, 0.8],
            },
        ),
    ]
    aliases = "zinb"
    task = "likelihood"
    best_for = "Counts with more zeros than their spread explains."
    not_for = "Counts without zeros; targets that are not counts."
    reference = (
        "Greene, W. H. (1994). Accounting for excess zeros and sample selection in Poisson and negative binomial "
        "regression models. NYU Stern, working paper EC-94-10."
    )
