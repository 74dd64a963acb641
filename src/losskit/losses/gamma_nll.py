"""GammaNLLLoss: likelihood of positive targets whose spread grows with their mean."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, exp, expm1, log, where
from losskit.losses._exact import grown, half


class GammaNLLLoss(PointwiseLoss):
    """Negative log-likelihood of a gamma distribution: positive targets whose spread is in proportion to their mean.

    Choose it for amounts and durations: claims, waiting times, rainfall on wet days.
    Prefer GammaDevianceLoss for a value that is 0 at a perfect fit, TweedieDevianceLoss for amounts of which many are
    0, LogNormalNLLLoss when the spread is to be predicted too.

    `input` is the logarithm of the mean if `log_input`, else the mean itself. The shape of the distribution is 1, and
    terms of the target alone are left out: any other shape multiplies the gradient by a constant. With shape 1 it is
    the likelihood of an exponential distribution.
    """

    log_input: bool = param(default=True, doc="Whether input is the logarithm of the mean.")

    arguments = "log_input reduction"
    operands = {
        "input": Operand("Predicted log-means, or means without log_input.", domain=positive, unless="log_input",
                         hint="Pass log_input=True for log-means."),
        "target": Operand("True values.", domain=nonnegative, broadcast=True,
                          hint="A gamma distribution gives no probability to what is below 0."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, log_input):
        return input + grown(target, -input) if log_input else log(input) + target / input

    @staticmethod
    def grad(input, target, log_input):
        if log_input:
            less = expm1(half(-input))  # shares its exponential with the loss
            near = (target - 1.0) + target * (less * (less + 2.0))
            slope = where(absolute(input) < 1.0, near, grown(target, -input) - 1.0)
            return -slope, exp(-input) + 0.0 * target
        return (1.0 - target / input) / input, 1.0 / input + 0.0 * target

    @staticmethod
    def textbook(input, target, log_input):
        return input + target * exp(-input) if log_input else log(input) + target / input

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(input=0.0, target=2.0, value=2.0, grad=-1.0, source="by hand"),
        Case(input=1.0, target=0.0, value=1.0, grad=1.0, source="by hand"),
        Case(input=3.0, target=2.0, log_input=False, value=1.7652789553347764, grad=0.1111111111111111,
             source="log 3 + 2 / 3"),
    ]  # fmt: skip
    peers = [
        Peer(
            "torch",
            "-torch.distributions.Exponential((-input).exp()).log_prob(target).mean()",
            why="A gamma distribution of shape 1 is an exponential one.",
        ),
        Peer(
            "scikit-learn",
            "sklearn._loss.HalfGammaLoss().loss(target.flatten(), input.flatten())",
            "gamma_nll_loss(input, target, reduction='none').flatten()",
            why=(
                "The loss of GammaRegressor and of HistGradientBoostingRegressor(loss='gamma'), which "
                "scikit-learn keeps private."
            ),
        ),
    ]
    aliases = "gamma exponential_nll"
    task = "likelihood"
    best_for = "Positive amounts whose spread grows with their mean."
    not_for = "Counts; amounts of which many are 0."
    reference = "McCullagh, P. and Nelder, J. A. (1989). Generalized linear models. Chapman and Hall, chapter 8."
