"""BradleyTerryLoss: the reward of the answer that people chose, against that of the one they rejected."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import log, sigmoid, softplus, times


class BradleyTerryLoss(PointwiseLoss):
    """Minus the log-probability that the chosen answer wins: log(1 + exp(-(chosen - rejected))).

    Choose it to train a reward model on pairs of answers, or any score on comparisons of two.
    Prefer MarginRankingLoss when only the order counts and not by how much, DPOLoss to train a language model on the
    pairs without a reward model.

    Only differences of rewards count, so their level may drift: a small `center_coefficient`, say 0.01, holds it at 0.
    """

    margin: float | Tensor = param(
        default=0.0, doc="How far the chosen reward should be above the rejected one; a tensor: one for each pair."
    )
    center_coefficient: float = param(
        default=0.0, domain=nonnegative, doc="Weight of the squared sum of both rewards, which holds their level at 0."
    )

    arguments = "margin center_coefficient reduction"
    operands = {
        "chosen": Operand("Rewards of the chosen answers, any real numbers.", kind="logit"),
        "rejected": Operand("Rewards of the rejected answers.", kind="logit"),
    }

    @staticmethod
    def value(chosen, rejected, margin, center_coefficient):
        level = 0.5 * chosen + 0.5 * rejected  # the sum and its square may overflow
        return softplus(margin - (chosen - rejected)) + times(times(4.0 * center_coefficient, level), level)

    @staticmethod
    def grad(chosen, rejected, margin, center_coefficient):
        loses = sigmoid(margin - (chosen - rejected))
        pull = times(4.0 * center_coefficient, 0.5 * chosen + 0.5 * rejected)
        return pull - loses, pull + loses

    @staticmethod
    def textbook(chosen, rejected, margin, center_coefficient):
        return -log(sigmoid(chosen - rejected - margin)) + center_coefficient * (chosen + rejected) ** 2

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(chosen=1.0, rejected=1.0, value=0.6931471805599453, grad=-0.5, source="log 2"),
        Case(chosen=1.5, rejected=0.25, value=0.2519290813453729, grad=-0.22270013882530884, source="mpmath"),
        Case(
            chosen=1.5,
            rejected=0.25,
            margin=1.0,
            center_coefficient=0.25,
            value=1.3415644198788437,
            grad=0.4371765008857981,
            source="mpmath",
        ),
    ]
    peers = [
        Peer(
            "torch",
            "-F.logsigmoid(chosen - rejected).mean()",
        ),
        Peer(
            "torch",
            "-F.logsigmoid(chosen - rejected - 0.5).mean() + 0.01 * ((chosen + rejected) ** 2).mean()",
            "bradley_terry_loss(chosen, rejected, margin=0.5, center_coefficient=0.01)",
            why="The formula of TRL's RewardTrainer, with a margin and center_rewards_coefficient.",
        ),
    ]
    aliases = "reward_modeling reward_model pairwise_reward"
    task = "preference"
    best_for = "Reward models, and other scores that are learned from comparisons of two."
    not_for = "More than two answers in an order."
    reference = (
        "Bradley, R. A. and Terry, M. E. (1952). Rank analysis of incomplete block designs: I. The method of paired "
        "comparisons. Biometrika 39, 324-345. Reward models: Ouyang, L. et al. (2022), arXiv:2203.02155."
    )
