"""KTOLoss: Kahneman-Tversky optimisation, answers that are desirable or not, without pairs."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive, probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import exp, sigmoid


class KTOLoss(PointwiseLoss):
    """Kahneman-Tversky optimisation: desirable answers shall be likelier than under the reference, others less likely.

    Choose it to train a language model on single answers with thumbs up or down.
    Prefer DPOLoss for pairs of answers to the same prompt, BradleyTerryLoss to learn what makes an answer desirable.

    It takes sums over the tokens of an answer. `kl` says how far the model is from the reference: an estimate from
    answers to other prompts, as a rule one number for all. Pass it, and `ref_log_prob`, without gradients. When
    desirable answers are rarer, let the weights times the numbers of answers be alike.
    """

    beta: float | Tensor = param(default=0.1, domain=positive, doc="How closely the reference is kept.")
    desirable_weight: float = param(default=1.0, domain=positive, doc="Weight of the desirable answers.")
    undesirable_weight: float = param(default=1.0, domain=positive, doc="Weight of the others.")

    name = "kto_loss"
    arguments = "beta desirable_weight undesirable_weight reduction"
    operands = {
        "log_prob": Operand("Log-probabilities of the answers, sums over their tokens."),
        "ref_log_prob": Operand("Those by the reference model."),
        "target": Operand("1 for a desirable answer, 0 for another, or a probability.", domain=probability,
                          hint="Desirable answers are 1, the others 0."),
        "kl": Operand("Estimate of the divergence from the reference.", domain=nonnegative, broadcast=True,
                      per_row=True, hint="Pass kl.clamp(min=0)."),
    }  # fmt: skip

    @staticmethod
    def value(log_prob, ref_log_prob, target, kl, beta, desirable_weight, undesirable_weight):
        gain = beta * ((log_prob - ref_log_prob) - kl)
        return (target * desirable_weight) * sigmoid(-gain) + ((1.0 - target) * undesirable_weight) * sigmoid(gain)

    @staticmethod
    def grad(log_prob, ref_log_prob, target, kl, beta, desirable_weight, undesirable_weight):
        gain = beta * ((log_prob - ref_log_prob) - kl)
        p, q = sigmoid(gain), sigmoid(-gain)
        slope = (beta * ((1.0 - target) * undesirable_weight - target * desirable_weight)) * (p * q)
        return slope, -slope, desirable_weight * q - undesirable_weight * p, -slope

    @staticmethod
    def textbook(log_prob, ref_log_prob, target, kl, beta, desirable_weight, undesirable_weight):
        gain = beta * (log_prob - ref_log_prob - kl)
        desirable = desirable_weight * (1.0 - 1.0 / (1.0 + exp(-gain)))
        return target * desirable + (1.0 - target) * undesirable_weight * (1.0 - 1.0 / (1.0 + exp(gain)))

    facts = Facts(
        convex=False, smooth=True, lipschitz="beta * max(desirable_weight, undesirable_weight) / 4", minimum=0.0,
        symmetric=False, robust=True,
    )  # fmt: skip
    cases = [
        Case(
            log_prob=-12.0, ref_log_prob=-12.0, target=1.0, kl=0.0,
            value=0.5, grad=-0.025, source="1/2, and -0.1 / 4",
        ),
        Case(
            log_prob=-12.0, ref_log_prob=-13.0, target=1.0, kl=0.5, beta=0.5,
            value=0.4378234991142019, grad=-0.12306704136879917, source="mpmath",
        ),
        Case(
            log_prob=-12.0, ref_log_prob=-13.0, target=0.0, kl=0.5, beta=0.5, undesirable_weight=2.0,
            value=1.1243530017715961, grad=0.24613408273759835, source="mpmath",
        ),
    ]  # fmt: skip
    peers = [
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.kto_loss.LigerFusedLinearKTOFunction.preference_loss_fn(log_prob, target "
                "> 0.5, torch.empty(6), ref_log_prob, beta=0.1, kl=kl)[0]"
            ),
            "kto_loss(log_prob, ref_log_prob, target, kl)",
            given={
                "log_prob": [-12.0, -9.0, -15.0, -7.5, -11.0, -8.0],
                "ref_log_prob": [-13.0, -9.5, -12.0, -7.0, -14.0, -8.5],
                "target": [1.0, 0.0, 0.0, 1.0, 1.0, 0.0],
                "kl": [0.7, 0.7, 0.7, 0.7, 0.7, 0.7],
            },
            why="Liger has no weights of desirable and other answers.",
        ),
    ]
    aliases = "kahneman_tversky_optimization"
    task = "preference"
    best_for = "Language models trained on single answers that are desirable or not."
    not_for = "Means of log-probabilities; pairs of answers to the same prompt."
    reference = (
        "Ethayarajh, K. et al. (2024). KTO: model alignment as prospect theoretic optimization. ICML. arXiv:2402.01306."
    )
