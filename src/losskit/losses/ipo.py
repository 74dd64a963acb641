"""IPOLoss: identity preference optimisation, pairs of answers with a target for the gap."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss


class IPOLoss(PointwiseLoss):
    """Identity preference optimisation: the gap to the reference shall be 1 / (2 beta), neither less nor more.

    Choose it to train a language model on pairs of answers where DPOLoss overfits. Its gap grows without end when a
    choice is always the same; this one has a target.
    Prefer DPOLoss when people's choices contradict each other, SimPOLoss without a reference model.

    It takes means over the tokens of an answer, as TRL does; the paper's equation can be read as sums. `ref_chosen` and
    `ref_rejected` come from the reference model, without gradients.
    """

    beta: float | Tensor = param(
        default=0.1, domain=positive, doc="How closely the reference is kept (tau in the paper)."
    )

    name = "ipo_loss"
    arguments = "beta reduction"
    operands = {
        "chosen": Operand("Log-probabilities of the chosen answers, means over their tokens."),
        "rejected": Operand("Those of the rejected answers."),
        "ref_chosen": Operand("Those of the chosen answers, by the reference model."),
        "ref_rejected": Operand("Those of the rejected answers, by the reference model."),
    }

    @staticmethod
    def value(chosen, rejected, ref_chosen, ref_rejected, beta):
        quarter = (0.25 * chosen - 0.25 * ref_chosen) - (
            0.25 * rejected - 0.25 * ref_rejected
        )  # the whole may overflow
        off = 4.0 * quarter - 0.5 / beta
        return off * off

    @staticmethod
    def grad(chosen, rejected, ref_chosen, ref_rejected, beta):
        quarter = (0.25 * chosen - 0.25 * ref_chosen) - (0.25 * rejected - 0.25 * ref_rejected)
        slope = 8.0 * quarter - 1.0 / beta
        return slope, -slope, -slope, slope

    @staticmethod
    def textbook(chosen, rejected, ref_chosen, ref_rejected, beta):
        return ((chosen - ref_chosen) - (rejected - ref_rejected) - 1.0 / (2.0 * beta)) ** 2

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(chosen=-1.0, rejected=-1.5, ref_chosen=-1.25, ref_rejected=-1.5, value=22.5625, grad=-9.5,
             source="(0.25 - 5) ** 2"),
        Case(chosen=-1.0, rejected=-2.0, ref_chosen=-1.0, ref_rejected=-1.0, beta=1.0, value=0.25, grad=1.0,
             source="(1 - 0.5) ** 2"),
        Case(chosen=-1.0, rejected=-1.5, ref_chosen=-1.5, ref_rejected=-1.5, beta=1.0, value=0.0, grad=0.0,
             source="a gap of 1 / 2"),
    ]  # fmt: skip
    peers = [
        Peer(
            "trl",
            (
                "trl.experimental.cpo.CPOTrainer.cpo_loss(trainer(beta=0.1, loss_type='ipo', alpha=0.0), chosen - "
                "ref_chosen, rejected - ref_rejected)[0]"
            ),
            "ipo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.1, reduction='none')",
        ),
    ]
    aliases = "identity_preference_optimization"
    task = "preference"
    best_for = "Language models trained on pairs of answers of which each was judged once."
    not_for = "Sums of log-probabilities; answers without a counterpart."
    reference = (
        "Azar, M. G. et al. (2024). A general theoretical paradigm to understand learning from human preferences. "
        "AISTATS. arXiv:2310.12036."
    )
