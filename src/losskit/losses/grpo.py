"""GRPOLoss: group-relative policy optimisation, a clipped policy gradient for each token."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval, log_probability, nonnegative, probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, clamp, exp, expm1, expm1m, minimum, stop, times, where

ANY = Interval("any real number", typical=1.0)
HINT = "Pass log_softmax of the scores, at the tokens."


def limited(ratio, advantage, epsilon_low, epsilon_high):
    """The ratio with the sign of the advantage, and how large that may be."""
    negative = advantage < 0.0
    return where(negative, -ratio, ratio), where(negative, epsilon_low - 1.0, 1.0 + epsilon_high)


class GRPOLoss(PointwiseLoss):
    """Group-relative policy optimisation: what has more advantage than its group becomes likelier, within limits.

    Choose it to train a language model with rewards, on answers that an earlier state of it gave.
    Prefer DPOLoss for pairs of answers without rewards, KTOLoss for thumbs up or down.

    It is the loss of a token. `mask` tells the tokens of the answers from padding, and what "mean" divides by is the
    method: alone it is DAPO and BNPO, with `sample_weight` one over the answer's length GRPO, with `normalizer` answers
    times the largest length Dr. GRPO. GSPO is this loss of means over the tokens of each answer.

    The ratio is of the probabilities now and when the answer was given, held above 1 - `epsilon_low` where the
    advantage is negative, and below 1 + `epsilon_high` elsewhere. Type 'cispo' takes the ratio, held below
    1 + `epsilon_high`, as a constant weight of the log-probability. TRL's 'cispo' wants the limit itself in place of
    `epsilon_high`.

    With `beta` and the reference's log-probabilities it adds their k3 estimate of the divergence.
    """

    epsilon_low: float = param(default=0.2, domain=probability, doc="How far below 1 the ratio counts, for 'clip'.")
    epsilon_high: float = param(default=0.2, domain=nonnegative, doc="How far above 1 the ratio counts.")
    beta: float = param(default=0.0, domain=nonnegative, doc="Weight of the divergence from the reference.")
    loss_type: str = param(default="clip", choices=("clip", "cispo"), doc="What a ratio beyond the limits does.")

    name = "grpo_loss"
    arguments = "epsilon_low epsilon_high beta loss_type reduction"
    operands = {
        "log_prob": Operand("Log-probabilities of the tokens.", domain=log_probability, hint=HINT),
        "old_log_prob": Operand("Those when the answers were given.", domain=log_probability, hint=HINT,
                                differentiable=False),
        "advantage": Operand("Advantages of the answers, or of their tokens.", domain=ANY, broadcast=True,
                             per_row=True, differentiable=False),
        "ref_log_prob": Operand("Log-probabilities by the reference model.", domain=log_probability, hint=HINT,
                                optional=True, differentiable=False),
    }  # fmt: skip

    @staticmethod
    def value(log_prob, old_log_prob, advantage, ref_log_prob, epsilon_low, epsilon_high, beta, loss_type):
        ratio = exp(log_prob - old_log_prob)
        if loss_type == "clip":
            signed, limit = limited(ratio, advantage, epsilon_low, epsilon_high)
            gain = times(absolute(advantage), minimum(signed, limit))
        else:
            gain = times(advantage, stop(minimum(ratio, 1.0 + epsilon_high)) * log_prob)
        return -gain if ref_log_prob is None else times(beta, expm1m(ref_log_prob - log_prob)) - gain

    @staticmethod
    def grad(log_prob, old_log_prob, advantage, ref_log_prob, epsilon_low, epsilon_high, beta, loss_type):
        ratio = exp(log_prob - old_log_prob)
        if loss_type == "clip":
            signed, limit = limited(ratio, advantage, epsilon_low, epsilon_high)
            slope = -times(absolute(advantage), where(signed > limit, 0.0, signed))
        else:
            slope = -times(advantage, minimum(ratio, 1.0 + epsilon_high))
        return slope if ref_log_prob is None else slope - times(beta, expm1(ref_log_prob - log_prob))

    @staticmethod
    def textbook(log_prob, old_log_prob, advantage, ref_log_prob, epsilon_low, epsilon_high, beta, loss_type):
        ratio = exp(log_prob - old_log_prob)
        if loss_type == "clip":
            held = clamp(ratio, 1.0 - epsilon_low, 1.0 + epsilon_high)
            gain = minimum(ratio * advantage, held * advantage)
        else:
            gain = stop(minimum(ratio, 1.0 + epsilon_high)) * advantage * log_prob
        if ref_log_prob is None:
            return -gain
        ahead = ref_log_prob - log_prob
        return beta * (exp(ahead) - ahead - 1.0) - gain

    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=None, symmetric=False)
    cases = [
        Case(log_prob=-1.0, old_log_prob=-1.0, advantage=1.0, value=-1.0, grad=-1.0, source="a ratio of 1"),
        Case(
            log_prob=-1.0, old_log_prob=-1.5, advantage=1.0, value=-1.2, grad=0.0,
            source="a ratio of 1.65, held at 1.2",
        ),
        Case(
            log_prob=-1.5, old_log_prob=-1.0, advantage=-1.0, value=0.8, grad=0.0,
            source="a ratio of 0.61, held at 0.8",
        ),
        Case(
            log_prob=-1.0, old_log_prob=-1.1, advantage=1.0, ref_log_prob=-1.2, beta=0.04,
            value=-1.1044216879525284, grad=-1.097920148198767, source="mpmath",
        ),
        Case(
            log_prob=-1.0, old_log_prob=-1.5, advantage=2.0, loss_type="cispo", value=2.4, grad=-2.4,
            source="a ratio of 1.65, held at 1.2, times 2, times -1",
        ),
    ]  # fmt: skip
    peers = [
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.grpo_loss.LigerFusedLinearGRPOFunction.ppo_loss_fn(log_prob, mask, "
                "advantage, mask, ref_log_prob, old_log_prob, epsilon_high=0.28, loss_type='bnpo')[0]"
            ),
            "grpo_loss(log_prob, old_log_prob, advantage, ref_log_prob, epsilon_high=0.28, beta=0.04, mask=mask > 0)",
            given={
                "mask": [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]],
                "advantage": [0.7, -1.2],
                "log_prob": [[-1.2, -0.3, -2.0, -0.7], [-0.5, -1.5, -0.9, -1.1]],
                "old_log_prob": [[-1.0, -0.8, -2.1, -0.6], [-0.6, -1.1, -0.7, -1.0]],
                "ref_log_prob": [[-1.1, -0.5, -1.9, -0.9], [-0.4, -1.6, -0.8, -1.2]],
            },
            why="beta is 0.04 by default in Liger, 0 here.",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.grpo_loss.LigerFusedLinearGRPOFunction.ppo_loss_fn(log_prob, mask, "
                "advantage, mask, ref_log_prob, old_log_prob, epsilon_high=0.28, loss_type='dr_grpo', "
                "max_completion_length=8)[0]"
            ),
            (
                "grpo_loss(log_prob, old_log_prob, advantage, ref_log_prob, epsilon_high=0.28, beta=0.04, "
                "reduction='sum', mask=mask > 0) / (2 * 8)"
            ),
            given={
                "mask": [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]],
                "advantage": [0.7, -1.2],
                "log_prob": [[-1.2, -0.3, -2.0, -0.7], [-0.5, -1.5, -0.9, -1.1]],
                "old_log_prob": [[-1.0, -0.8, -2.1, -0.6], [-0.6, -1.1, -0.7, -1.0]],
                "ref_log_prob": [[-1.1, -0.5, -1.9, -0.9], [-0.4, -1.6, -0.8, -1.2]],
            },
            why="Dr. GRPO divides by the longest completion times the number of answers: normalizer=16 does the same.",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.grpo_loss.LigerFusedLinearGRPOFunction.ppo_loss_fn(log_prob, mask, "
                "advantage, mask, ref_log_prob, old_log_prob, epsilon_high=0.28, loss_type='grpo')[0]"
            ),
            (
                "grpo_loss(log_prob, old_log_prob, advantage, ref_log_prob, epsilon_high=0.28, beta=0.04, "
                "reduction='none', mask=mask > 0).sum(1).div(mask.sum(1)).mean()"
            ),
            given={
                "mask": [[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]],
                "advantage": [0.7, -1.2],
                "log_prob": [[-1.2, -0.3, -2.0, -0.7], [-0.5, -1.5, -0.9, -1.1]],
                "old_log_prob": [[-1.0, -0.8, -2.1, -0.6], [-0.6, -1.1, -0.7, -1.0]],
                "ref_log_prob": [[-1.1, -0.5, -1.9, -0.9], [-0.4, -1.6, -0.8, -1.2]],
            },
            why="GRPO takes the mean of each answer first.",
        ),
    ]
    aliases = "group_relative_policy_optimization ppo_clip_loss dapo_loss cispo_loss"
    task = "preference"
    best_for = "Language models trained with rewards of whole answers, in groups of answers to the same prompt."
    not_for = "Answers of another model; pairs without rewards."
    reference = (
        "Shao, Z. et al. (2024). DeepSeekMath: pushing the limits of mathematical reasoning in open language models. "
        "arXiv:2402.03300. Dr. GRPO: 2503.20783. DAPO: 2503.14476. GSPO: 2507.18071. CISPO: 2506.13585. "
        "The clipped ratio: Schulman, J. et al. (2017), arXiv:1707.06347."
    )
