"""ORPOLoss: odds-ratio preference optimisation, the chosen answers learned and the rejected ones pushed away."""

import math

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval, nonnegative
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, exp, expm1, log, log1p, sigmoid, times, where

MEANS = Interval("a mean log-probability (at most 0)", high=0.0, typical=-1.0)


def parts(chosen, rejected):
    """What either probability misses to 1, their quotient, and either probability over the larger one."""
    c, r = 0.0 - expm1(chosen), 0.0 - expm1(rejected)  # of 0 not -0, by which a quotient would be -inf
    apart = exp(-absolute(chosen - rejected))
    return c, r, c / r, where(chosen < rejected, apart, 1.0), where(chosen < rejected, 1.0, apart)


class ORPOLoss(PointwiseLoss):
    """Odds-ratio preference optimisation: learns the chosen answers and lowers the odds of the rejected ones.

    Choose it to fine-tune a language model and to train it on pairs of answers in one stage, without a reference model.
    Prefer DPOLoss after a stage of fine-tuning, SimPOLoss when the chosen answers shall not be learned word by word.

    It takes means over the tokens of an answer; the odds are p / (1 - p), with p the exponential of the mean.
    """

    lam: float = param(default=0.1, domain=nonnegative, doc="Weight of the odds ratio (beta in TRL).")

    name = "orpo_loss"
    arguments = "lam reduction"
    operands = {
        "chosen": Operand("Log-probabilities of the chosen answers, means over their tokens.", domain=MEANS),
        "rejected": Operand("Those of the rejected answers.", domain=MEANS),
    }

    @staticmethod
    def value(chosen, rejected, lam):
        # log(1 + ratio), of the odds of rejected over those of chosen: a small ratio keeps its digits, a large one may
        # overflow.
        c, r, missed, of_chosen, of_rejected = parts(chosen, rejected)
        ratio = missed * of_rejected / of_chosen
        large = where(missed < math.inf, log(missed), log(c) - log(r)) + (rejected - chosen)
        return times(lam, where(ratio < 1.0, log1p(ratio), log1p(1.0 / ratio) + large)) - chosen

    @staticmethod
    def grad(chosen, rejected, lam):
        c, r, missed, of_chosen, of_rejected = parts(chosen, rejected)
        both = of_chosen * r + of_rejected * c
        return -1.0 - times(lam, of_rejected / both), times(lam, missed * of_rejected / both)

    @staticmethod
    def textbook(chosen, rejected, lam):
        ratio = log(exp(chosen) / (1.0 - exp(chosen))) - log(exp(rejected) / (1.0 - exp(rejected)))
        return -chosen - lam * log(sigmoid(ratio))

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(chosen=-1.0, rejected=-1.0, value=1.0693147180559945, grad=-1.0790988353434663, source="1 + 0.1 log 2"),
        Case(chosen=-0.5, rejected=-1.25, value=0.5231504304082901, grad=-1.0525226994691188, source="mpmath"),
        Case(chosen=-1.25, rejected=-0.5, lam=0.5, value=2.0383384342813398, grad=-1.5559527782433362, source="mpmath"),
    ]
    peers = [
        Peer(
            "trl",
            "trl.experimental.orpo.ORPOTrainer.odds_ratio_loss(trainer(beta=0.1), chosen, rejected)[0]",
            "-chosen - orpo_loss(chosen, rejected, lam=0.1, reduction='none')",
            agrees=1e-6,
            why=(
                "The part of the odds, which TRL subtracts from the likelihood of the chosen answer; it computes "
                "in float32."
            ),
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.orpo_loss.LigerFusedLinearORPOFunction.preference_loss_fn(chosen.flatten("
                "), rejected.flatten(), torch.empty(60), beta=0.1)[0]"
            ),
            "orpo_loss(chosen, rejected, lam=0.1) + chosen.mean()",
            why="Without the likelihood of the chosen answer.",
        ),
    ]
    aliases = "odds_ratio_preference_optimization"
    task = "preference"
    best_for = "Fine-tuning and training on pairs of answers in one stage."
    not_for = "Sums of log-probabilities; answers without a counterpart."
    reference = (
        "Hong, J. et al. (2024). ORPO: monolithic preference optimization without reference model. EMNLP. "
        "arXiv:2403.07691."
    )
