"""KLDivLoss: Kullback-Leibler divergence of a predicted from a true distribution."""

import math

from torch import nn

from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.domains import log_probability, nonnegative
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import exp, log, times, where
from losskit.reduction import REDUCTIONS

FAR = 86.0  # e^-86 is a number of every dtype, to 0.02 units of its last digit


def share_of(log_probability):
    """exp(log_probability) as two factors, of which the second is e^-86 where the product may be subnormal, else 1."""
    far = log_probability < -FAR
    return exp(where(far, log_probability + FAR, log_probability)), where(far, math.exp(-FAR), 1.0)


def expected(log_probability, cost, difference):
    """exp(log_probability) * difference; where there is no probability, its product with the finite part `cost`."""
    share, small = share_of(log_probability)
    return small * times(share, where(share == 0.0, cost, difference))  # only the probability may be subnormal


class KLDivLoss(PointwiseLoss, nn.KLDivLoss):
    """Kullback-Leibler divergence: how much a predicted distribution misses of the true one.

    Choose it for distillation and for matching distributions.
    Prefer CrossEntropyLoss for class labels; it is not a distance: exchanging the arguments changes it.

    `input` is log-probabilities, `target` probabilities (log-probabilities with `log_target`). "mean" divides by the
    number of elements, as in torch; "batchmean" divides by the batch size and is the mathematical divergence.
    """

    log_target: bool = param(default=False, doc="Whether target is log-probabilities too.")

    name = "kl_div"
    arguments = "size_average reduce reduction log_target"
    reductions = (*REDUCTIONS, "batchmean")
    operands = {
        "input": Operand("Predicted log-probabilities.", domain=log_probability,
                         hint="Pass log-probabilities, such as log_softmax(scores, dim=-1)."),
        "target": Operand("True probabilities, or their logarithms with log_target.", domain=nonnegative,
                          unless="log_target", hint="Pass log_target=True for log-probabilities."),
    }  # fmt: skip

    @staticmethod
    def value(input, target, log_target):
        # What has no probability costs nothing, whatever was predicted: 0 * inf = 0.
        if log_target:
            return expected(target, -input, target - input)
        return where(target == 0.0, times(target, -input), target * (log(target) - input))

    @staticmethod
    def grad(input, target, log_target):
        if log_target:
            share, small = share_of(target)
            return -(small * share), expected(target, -input, target - input + 1.0)
        return -target, log(target) - input + 1.0

    @staticmethod
    def textbook(input, target, log_target):
        return exp(target) * (target - input) if log_target else target * (log(target) - input)

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(input=-1.0, target=0.5, value=0.15342640972002736, grad=-0.5, source="0.5 * (log 0.5 + 1)"),
        Case(input=-2.0, target=0.0, value=0.0, grad=0.0, source="limit"),
        Case(input=-1.0, target=-2.0, log_target=True, value=-0.1353352832366127, grad=-0.1353352832366127,
             source="-exp(-2)"),
    ]  # fmt: skip
    deviations = [
        Deviation(
            reason="Where the target is 0 the divergence is 0, also for an input of -inf.",
            arguments={"input": float("-inf"), "target": 0.0},
            torch=float("nan"),
            losskit=0.0,
        ),
        Deviation(
            reason="The derivative by a target of 0 is that of t log t, minus infinity, not 0/0.",
            arguments={"input": -1.0, "target": 0.0},
            torch=float("nan"),
            losskit=float("-inf"),
            of="target",
        ),
    ]
    peers = [
        Peer(
            "keras",
            "keras.losses.KLDivergence()(F.softmax(target, -1), F.softmax(input, -1))",
            "kl_div(F.log_softmax(input, -1), F.softmax(target, -1), reduction='batchmean')",
            agrees=1e-6,
            why="Keras takes probabilities of both; its mean is that of rows, here 'batchmean'.",
        ),
        Peer(
            "optax",
            "optax.losses.kl_divergence(jax.nn.log_softmax(input), jax.nn.softmax(target))",
            "kl_div(F.log_softmax(input, -1), F.softmax(target, -1), reduction='none').sum(-1)",
        ),
        Peer(
            "scipy",
            "scipy.special.rel_entr(target, np.exp(input))",
            "kl_div(input, target, reduction='none')",
            why="scipy.special.kl_div is another function: it adds the difference of the two.",
        ),
    ]
    aliases = "kl kld kl_divergence kullback_leibler"
    task = "divergence"
    best_for = "Knowledge distillation; matching distributions."
    not_for = "Direct regression; a symmetric distance."
    reference = "Kullback, S. and Leibler, R. A. (1951). On information and sufficiency. Ann. Math. Statist. 22, 79-86."
