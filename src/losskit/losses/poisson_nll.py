"""PoissonNLLLoss: negative log-likelihood of counts."""

import math

from torch import nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import digamma, exp, lgamma, log, times, where


class PoissonNLLLoss(PointwiseLoss, nn.PoissonNLLLoss):
    """Negative log-likelihood of a Poisson distribution: for predictions of how many.

    Choose it for counts, rates and rare events.
    Prefer MSELoss or HuberLoss for targets that are not counts, or may be negative.

    `input` is the logarithm of the expected count if `log_input`, else the expected count itself. `full` adds the
    logarithm of the factorial of the target, which does not change the gradient by `input`: by Stirling's formula
    for targets above 1, as torch has it (off by 0.055 at target 1.5), or with `stirling=False` as lgamma(target + 1).
    """

    log_input: bool = param(default=True, doc="Whether input is the logarithm of the rate.")
    full: bool = param(default=False, doc="Add log(target!).")
    eps: float = param(default=1e-8, domain=nonnegative, doc="Keeps log(input + eps) finite, without log_input.")
    stirling: bool = param(default=True, doc="With full: Stirling's formula (torch); False: the exact lgamma.")

    arguments = "log_input full size_average eps reduce reduction stirling"
    operands = {
        "input": Operand("Predicted log-rates, or rates without log_input.", domain=nonnegative, unless="log_input",
                         hint="Pass log_input=True for log-rates."),
        "target": Operand("Counts.", domain=nonnegative, only_with="full",
                          hint="A Poisson distribution gives no probability to what is below 0."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, log_input, full, eps, stirling):
        # Stirling's target * (log(target) - 1) is subtracted from the log-rate: each alone may overflow. From 1e9
        # on it is exact in every dtype, and lgamma(target + 1) overflows before the loss does.
        most = 1.0 if stirling else 1e9
        many = target > most
        # The logarithm is taken of `most` where the target's is not used: a single target of 0 would make the kernel
        # take the slower logarithm, which knows infinite results, for its whole block.
        log_target = log(where(many, target, most))
        log_rate = input if log_input else log(input + eps)
        if full:
            log_rate = log_rate - where(many, log_target - 1.0, 0.0)
        # Beyond 1e4 the rate is infinite, and infinity minus infinity is not a number.
        log_rate = where(log_rate > 1e4, 1e4, log_rate)
        # Both terms may overflow and their difference not: times 2^-64 they do not.
        far = input > 80.0 if log_input else target > 1e30
        less, more = where(far, 2.0**-64, 1.0), where(far, 2.0**64, 1.0)
        rate = less * input
        if log_input:
            root = exp(0.5 * input)
            rate = (less * root) * root
        loss = more * (rate - times(less * target, log_rate))
        if full:
            few = 0.0 if stirling else lgamma(target + 1.0)
            loss = loss + where(many, 0.5 * (math.log(2.0 * math.pi) + log_target), few)
        return loss

    @staticmethod
    def grad(input, target, log_input, full, eps, stirling):
        factorial = 0.0
        if full:
            many = target > 1.0
            log_target = log(where(many, target, 1.0))
            factorial = where(many, log_target + 0.5 / target, 0.0) if stirling else digamma(target + 1.0)
        if log_input:
            root = exp(0.5 * input)
            return root * root - target, factorial - input
        rate = input + eps
        return 1.0 - where(target == 0.0, 0.0, target / rate), factorial - log(rate)

    @staticmethod
    def textbook(input, target, log_input, full, eps, stirling):
        loss = exp(input) - target * input if log_input else input - target * log(input + eps)
        if not full:
            return loss
        factorial = target * log(target) - target + 0.5 * log((2.0 * math.pi) * target)
        return loss + (where(target > 1.0, factorial, 0.0) if stirling else lgamma(target + 1.0))

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(input=0.0, target=2.0, value=1.0, grad=-1.0, source="by hand"),
        Case(input=1.0, target=2.0, value=0.7182818284590452, grad=0.7182818284590452, source="e - 2"),
        Case(input=3.0, target=2.0, log_input=False, eps=0.0, value=0.8027754226637804, grad=0.3333333333333333,
             source="3 - 2 log 3"),
        Case(input=0.0, target=3.0, full=True, stirling=False, value=2.791759469228055, grad=-2.0,
             source="1 + log 6"),
        Case(input=0.0, target=3.0, full=True, value=2.764081543543057, grad=-2.0,
             source="1 + 3 log 3 - 3 + 0.5 log(6 pi)"),
    ]  # fmt: skip
    deviations = [
        Deviation(
            reason="The rate and the product with the target both overflow in torch: inf - inf.",
            arguments={"input": 100.0, "target": 1e38},
            torch=float("nan"),
            losskit=float("inf"),
        ),
        Deviation(
            reason="A rate of 0 explains a count of 0: torch computes 0 * -inf when eps is 0.",
            arguments={"input": 0.0, "target": 0.0, "log_input": False, "eps": 0.0},
            torch=float("nan"),
            losskit=0.0,
        ),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.Poisson()(target, input.exp())",
            "poisson_nll_loss(input, target, log_input=True)",
            agrees=1e-6,
            why="Keras takes the rate and adds 1e-7 to it; here is its logarithm, unless log_input=False.",
        ),
        Peer(
            "scipy",
            "-scipy.stats.poisson.logpmf(target, np.exp(input))",
            "poisson_nll_loss(input, target, full=True, stirling=False, reduction='none')",
            given={"target": [0.0, 1.0, 2.0, 3.0, 7.0], "input": [0.3, -1.0, 0.5, 1.5, 2.0]},
        ),
    ]
    aliases = "poisson"
    task = "likelihood"
    best_for = "Counts, rates and rare events."
    not_for = "Continuous targets without a lower bound; negative data."
    reference = (
        "Nelder, J. A. and Wedderburn, R. W. M. (1972). Generalized linear models. J. R. Stat. Soc. A 135, 370-384."
    )
