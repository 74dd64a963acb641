"""CPOLoss: contrastive preference optimisation, pairs of answers without a reference model."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import log, sigmoid, softplus, times


class CPOLoss(PointwiseLoss):
    """Contrastive preference optimisation: the chosen answer shall be likelier than the rejected one, and be learned.

    Choose it to train a language model on pairs without a reference model in memory; it was made for translations.
    Prefer DPOLoss when the model must stay near a reference, SimPOLoss when answers differ in length.

    It takes sums over the tokens of an answer. The negative log-likelihood is one number for each pair, as a rule the
    mean over the tokens of the chosen answer.
    """

    beta: float | Tensor = param(default=0.1, domain=positive, doc="Factor of the difference between the sums.")
    alpha: float = param(default=1.0, domain=nonnegative, doc="Weight of the negative log-likelihood.")

    name = "cpo_loss"
    arguments = "beta alpha reduction"
    operands = {
        "chosen": Operand("Log-probabilities of the chosen answers, sums over their tokens."),
        "rejected": Operand("Those of the rejected answers."),
        "nll": Operand("Negative log-likelihoods of the chosen answers.", domain=nonnegative,
                       hint="It is minus a log-probability: pass -log_prob."),
    }  # fmt: skip

    @staticmethod
    def value(chosen, rejected, nll, beta, alpha):
        half = 0.5 * chosen - 0.5 * rejected  # the whole may overflow
        return softplus((-2.0 * beta) * half) + times(alpha, nll)

    @staticmethod
    def grad(chosen, rejected, nll, beta, alpha):
        half = 0.5 * chosen - 0.5 * rejected
        pull = beta * sigmoid((-2.0 * beta) * half)
        return -pull, pull, alpha

    @staticmethod
    def textbook(chosen, rejected, nll, beta, alpha):
        return -log(sigmoid(beta * (chosen - rejected))) + alpha * nll

    facts = Facts(convex=True, smooth=True, lipschitz="beta", minimum=0.0, symmetric=False)
    cases = [
        Case(chosen=-12.0, rejected=-12.0, nll=0.0, value=0.6931471805599453, grad=-0.05, source="log 2"),
        Case(
            chosen=-12.0,
            rejected=-16.0,
            nll=0.5,
            beta=0.25,
            value=0.8132616875182228,
            grad=-0.06723535534249878,
            source="mpmath",
        ),
        Case(
            chosen=-12.0,
            rejected=-16.0,
            nll=0.5,
            beta=0.25,
            alpha=0.5,
            value=0.5632616875182228,
            grad=-0.06723535534249878,
            source="mpmath",
        ),
    ]
    peers = [
        Peer(
            "trl",
            (
                "trl.experimental.cpo.CPOTrainer.cpo_loss(trainer(beta=0.1, loss_type='sigmoid', alpha=0.0, "
                "label_smoothing=0.0), chosen, rejected)[0]"
            ),
            "cpo_loss(chosen, rejected, nll, alpha=0.0, reduction='none')",
            why="TRL adds cpo_alpha times the log-likelihood of the chosen tokens elsewhere; here alpha does.",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.cpo_loss.LigerFusedLinearCPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60))[0]"
            ),
            "cpo_loss(chosen, rejected, nll, alpha=0.0)",
        ),
    ]
    aliases = "contrastive_preference_optimization"
    task = "preference"
    best_for = "Translation models, and other language models, trained on pairs of answers without a reference model."
    not_for = "Means of log-probabilities; answers without a counterpart."
    reference = (
        "Xu, H. et al. (2024). Contrastive preference optimization: pushing the boundaries of LLM performance in "
        "machine translation. ICML. arXiv:2401.08417."
    )
