"""SimPOLoss: simple preference optimisation, pairs of answers without a reference model."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import nonnegative, positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import log, sigmoid, softplus


class SimPOLoss(PointwiseLoss):
    """Simple preference optimisation: the chosen answer shall be likelier per token than the rejected one, by a margin.

    Choose it to train a language model on pairs of answers without a reference model in memory.
    Prefer DPOLoss when the model must stay near a reference, ORPOLoss to learn the chosen answers at the same time.

    It takes means over the tokens of an answer, so that long answers do not win by their length; a mean below -30 is
    nearly certainly a sum. The margin is `gamma`, of differences times `beta`: gamma / beta between the means.
    """

    beta: float | Tensor = param(default=2.0, domain=positive, doc="Factor of the difference between the means.")
    gamma: float | Tensor = param(default=0.5, domain=nonnegative, doc="Margin of the difference times beta.")

    name = "simpo_loss"
    arguments = "beta gamma reduction"
    operands = {
        "chosen": Operand("Log-probabilities of the chosen answers, means over their tokens."),
        "rejected": Operand("Those of the rejected answers."),
    }

    @staticmethod
    def value(chosen, rejected, beta, gamma):
        half = 0.5 * chosen - 0.5 * rejected  # the whole may overflow
        return softplus(gamma - (2.0 * beta) * half)

    @staticmethod
    def grad(chosen, rejected, beta, gamma):
        half = 0.5 * chosen - 0.5 * rejected
        pull = beta * sigmoid(gamma - (2.0 * beta) * half)
        return -pull, pull

    @staticmethod
    def textbook(chosen, rejected, beta, gamma):
        return -log(sigmoid(beta * (chosen - rejected) - gamma))

    facts = Facts(convex=True, smooth=True, lipschitz="beta", minimum=0.0, symmetric=False)
    cases = [
        Case(chosen=-0.5, rejected=-0.75, value=0.6931471805599453, grad=-1.0, source="log 2, for 2 * 0.25 = 0.5"),
        Case(chosen=-0.5, rejected=-1.25, value=0.3132616875182228, grad=-0.5378828427399902, source="mpmath"),
        Case(
            chosen=-2.0,
            rejected=-1.0,
            beta=10.0,
            gamma=1.0,
            value=11.000016701561318,
            grad=-9.999832985781518,
            source="mpmath",
        ),
    ]
    peers = [
        Peer(
            "trl",
            (
                "trl.experimental.cpo.CPOTrainer.cpo_loss(trainer(beta=2.0, simpo_gamma=0.5, loss_type='simpo', "
                "alpha=0.0, label_smoothing=0.0), chosen, rejected)[0]"
            ),
            "simpo_loss(chosen, rejected, beta=2.0, gamma=0.5, reduction='none')",
            why="beta is 0.1 by default in TRL, which is another loss; the authors take 2 to 2.5.",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.simpo_loss.LigerFusedLinearSimPOFunction.preference_loss_fn("
                "chosen.flatten(), rejected.flatten(), torch.empty(60), beta=2.0, gamma=0.5)[0]"
            ),
            "simpo_loss(chosen, rejected, beta=2.0, gamma=0.5)",
            why="beta is 0.1 by default in Liger.",
        ),
    ]
    aliases = "simple_preference_optimization"
    task = "preference"
    best_for = "Language models trained on pairs of answers without a reference model."
    not_for = "Sums of log-probabilities; answers without a counterpart."
    reference = (
        "Meng, Y. et al. (2024). SimPO: simple preference optimization with a reference-free reward. NeurIPS. "
        "arXiv:2405.14734."
    )
