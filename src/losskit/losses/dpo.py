"""DPOLoss: direct preference optimisation and its relatives, pairs of answers with a reference model."""

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import Interval, positive
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, exp, log, log1p, maximum, sigmoid, softplus, times, where

TYPES = (
    "sigmoid", "robust", "hinge", "exo_pair", "discopop",  # of the gap
    "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",  # of either answer's gain
)  # fmt: skip


def gains(chosen, rejected, ref_chosen, ref_rejected):
    """A quarter of how much likelier than by the reference each answer is, and of the gap: the whole may overflow."""
    u, v = 0.25 * chosen - 0.25 * ref_chosen, 0.25 * rejected - 0.25 * ref_rejected
    return u, v, u - v


def share(label_smoothing):
    """The share of wrong choices for 'exo_pair', whose loss of none is infinite."""
    return where(label_smoothing == 0.0, 0.001, label_smoothing)


def tamed(h, tau):
    """exp(-h) times sigmoid(h / tau), under one exponential."""
    return exp(times(where(h < 0.0, 1.0 / tau - 1.0, -1.0), h) - softplus(-absolute(h / tau)))


class DPOLoss(PointwiseLoss):
    """Direct preference optimisation: the chosen answer shall gain more on the reference than the rejected one.

    Choose it to train a language model on pairs of answers, after a stage of fine-tuning.
    Prefer IPOLoss where each pair was judged once and the gap must not grow without end, KTOLoss for answers without a
    counterpart, SimPOLoss or ORPOLoss without a reference model.

    It takes sums over the tokens of an answer. The references come from the reference model, without gradients; 0.0 for
    both is a loss without a reference.

    Let u and v be what the chosen and the rejected answer gained on the reference, and h = beta (u - v). Of h are
    'sigmoid', with `label_smoothing` cDPO; 'robust', without the bias of wrong choices; 'hinge', SLiC; 'exo_pair', EXO,
    which takes 0.001 for a `label_smoothing` of 0; and 'discopop'. Of u and v are 'nca_pair', 'bco_pair' (without BCO's
    running shift), 'sppo_hard', 'apo_zero' and 'apo_down'. TRL's 'sigmoid' ignores its `label_smoothing`.
    """

    beta: float = param(default=0.1, domain=positive, doc="How closely the reference is kept.")
    loss_type: str = param(default="sigmoid", choices=TYPES, doc="Which loss of the two gains.")
    label_smoothing: float = param(
        default=0.0, domain=Interval("in [0, 1/2)", low=0.0, high=0.5, high_open=True),
        doc="Share of wrong choices, for 'sigmoid', 'robust' and 'exo_pair'.",
    )  # fmt: skip
    tau: float = param(default=0.05, domain=positive, doc="Temperature of the blend, for 'discopop'.")

    name = "dpo_loss"
    arguments = "beta loss_type label_smoothing tau reduction"
    operands = {
        "chosen": Operand("Log-probabilities of the chosen answers, sums over their tokens."),
        "rejected": Operand("Those of the rejected answers."),
        "ref_chosen": Operand("Those of the chosen answers, by the reference model.", broadcast=True,
                              differentiable=False),
        "ref_rejected": Operand("Those of the rejected answers, by the reference model.", broadcast=True,
                                differentiable=False),
    }  # fmt: skip

    @staticmethod
    def value(chosen, rejected, ref_chosen, ref_rejected, beta, loss_type, label_smoothing, tau):
        u, v, gap = gains(chosen, rejected, ref_chosen, ref_rejected)
        a, b, h = (4.0 * beta) * u, (4.0 * beta) * v, (4.0 * beta) * gap
        if loss_type == "sigmoid":
            right, wrong = 4.0 * beta * (1.0 - label_smoothing), 4.0 * beta * label_smoothing  # h may overflow
            return times(where(h < 0.0, right, wrong), absolute(gap)) + softplus(-absolute(h))
        if loss_type == "robust":
            return softplus(-h) - times(label_smoothing / (1.0 - 2.0 * label_smoothing), h)
        if loss_type == "hinge":
            return maximum(0.0, 1.0 - h)
        if loss_type == "exo_pair":
            right, wrong = log1p(-share(label_smoothing)), log(share(label_smoothing))
            size, ahead = absolute(h), h > 0.0
            likely = times(sigmoid(-size), size + where(ahead, wrong, right))
            return -(softplus(-size) + likely + sigmoid(size) * where(ahead, right, wrong))
        if loss_type == "discopop":
            return times(sigmoid(-h / tau), softplus(-h)) + tamed(h, tau)
        if loss_type == "nca_pair":
            return where(a < 0.0, -a, 0.5 * a) + 1.5 * softplus(-absolute(a)) + 0.5 * softplus(b)
        if loss_type == "bco_pair":
            return softplus(-a) + softplus(b)
        if loss_type == "sppo_hard":
            won, lost = 4.0 * u - 0.5 / beta, 4.0 * v + 0.5 / beta
            return won * won + lost * lost
        if loss_type == "apo_zero":
            return sigmoid(-a) + sigmoid(b)
        return sigmoid(a) + sigmoid(-h)

    @staticmethod
    def grad(chosen, rejected, ref_chosen, ref_rejected, beta, loss_type, label_smoothing, tau):
        u, v, gap = gains(chosen, rejected, ref_chosen, ref_rejected)
        a, b, h = (4.0 * beta) * u, (4.0 * beta) * v, (4.0 * beta) * gap
        if loss_type == "nca_pair":
            return beta * (0.5 - 1.5 * sigmoid(-a)), (0.5 * beta) * sigmoid(b)
        if loss_type == "bco_pair":
            return -beta * sigmoid(-a), beta * sigmoid(b)
        if loss_type == "sppo_hard":
            return 8.0 * u - 1.0 / beta, 8.0 * v + 1.0 / beta
        if loss_type == "apo_zero":
            return -beta * (sigmoid(a) * sigmoid(-a)), beta * (sigmoid(b) * sigmoid(-b))
        if loss_type == "apo_down":
            pull = beta * (sigmoid(h) * sigmoid(-h))
            return beta * (sigmoid(a) * sigmoid(-a)) - pull, pull
        if loss_type == "sigmoid":
            pull = sigmoid(-h) - label_smoothing
        elif loss_type == "robust":
            pull = sigmoid(-h) + label_smoothing / (1.0 - 2.0 * label_smoothing)
        elif loss_type == "hinge":
            pull = where(h < 1.0, 1.0, maximum(0.0, 1.0 - h))  # NaN is NaN
        elif loss_type == "exo_pair":
            goal = log1p(-share(label_smoothing)) - log(share(label_smoothing))
            pull = times(sigmoid(h) * sigmoid(-h), goal - h)
        else:
            on, off = sigmoid(h / tau), sigmoid(-h / tau)
            pull = off * (sigmoid(-h) + times(on, softplus(-h)) / tau) + tamed(h, tau) * (1.0 - off / tau)
        return -beta * pull, beta * pull

    @staticmethod
    def textbook(chosen, rejected, ref_chosen, ref_rejected, beta, loss_type, label_smoothing, tau):
        u, v = chosen - ref_chosen, rejected - ref_rejected
        h, wrong = beta * (u - v), label_smoothing
        if loss_type == "sigmoid":
            return -(1.0 - wrong) * log(sigmoid(h)) - wrong * log(sigmoid(-h))
        if loss_type == "robust":
            return (wrong * log(sigmoid(-h)) - (1.0 - wrong) * log(sigmoid(h))) / (1.0 - 2.0 * wrong)
        if loss_type == "hinge":
            return maximum(0.0, 1.0 - h)
        if loss_type == "exo_pair":
            wrong = share(label_smoothing)
            of_chosen = sigmoid(h) * (log(sigmoid(h)) - log(1.0 - wrong))
            return of_chosen + sigmoid(-h) * (log(sigmoid(-h)) - log(wrong))
        if loss_type == "discopop":
            return -log(sigmoid(h)) * sigmoid(-h / tau) + exp(-h) * sigmoid(h / tau)
        if loss_type == "nca_pair":
            of_chosen = -log(sigmoid(beta * u)) - 0.5 * log(sigmoid(-beta * u))
            return of_chosen - 0.5 * log(sigmoid(-beta * v))
        if loss_type == "bco_pair":
            return -log(sigmoid(beta * u)) - log(sigmoid(-beta * v))
        if loss_type == "sppo_hard":
            return (u - 1.0 / (2.0 * beta)) ** 2 + (v + 1.0 / (2.0 * beta)) ** 2
        if loss_type == "apo_zero":
            return 1.0 - sigmoid(beta * u) + sigmoid(beta * v)
        return sigmoid(beta * u) + 1.0 - sigmoid(h)

    facts = Facts(convex=True, smooth=True, lipschitz="beta * (1 - label_smoothing)", minimum=0.0, symmetric=False)
    cases = [
        Case(
            chosen=-12.0, rejected=-15.0, ref_chosen=-13.0, ref_rejected=-14.0,
            value=0.5981388693815918, grad=-0.0450166002687522, source="log(1 + exp(-0.2))",
        ),
        Case(
            chosen=-12.0, rejected=-15.0, ref_chosen=-13.0, ref_rejected=-14.0, label_smoothing=0.1,
            value=0.6181388693815918, grad=-0.0350166002687522, source="log(1 + exp(-0.2)) + 0.1 * 0.2",
        ),
        Case(
            chosen=-12.0, rejected=-15.0, ref_chosen=-13.0, ref_rejected=-14.0, loss_type="hinge",
            value=0.8, grad=-0.1, source="1 - 0.2",
        ),
        Case(
            chosen=-12.0, rejected=-15.0, ref_chosen=-13.0, ref_rejected=-14.0, loss_type="sppo_hard",
            value=32.0, grad=-8.0, source="(1 - 5) ** 2 + (-1 + 5) ** 2",
        ),
        Case(
            chosen=-12.0, rejected=-12.0, ref_chosen=0.0, ref_rejected=0.0,
            value=0.6931471805599453, grad=-0.05, source="log 2, without a reference",
        ),
    ]  # fmt: skip
    peers = [
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten())[0]"
            ),
        ),
        Peer(
            "trl",
            (
                "trl.experimental.cpo.CPOTrainer.cpo_loss(trainer(beta=0.1, loss_type='sigmoid', alpha=0.0, "
                "label_smoothing=0.1), chosen - ref_chosen, rejected - ref_rejected)[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, label_smoothing=0.1, reduction='none')",
            why="cDPO; TRL's DPOTrainer ignores label_smoothing for 'sigmoid'.",
        ),
        Peer(
            "trl",
            (
                "trl.experimental.cpo.CPOTrainer.cpo_loss(trainer(beta=0.1, loss_type='hinge', alpha=0.0), chosen - "
                "ref_chosen, rejected - ref_rejected)[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='hinge', reduction='none')",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten(), loss_type='hinge')[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='hinge')",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten(), "
                "loss_type='robust', label_smoothing=0.1)[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='robust', label_smoothing=0.1)",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten(), "
                "loss_type='exo_pair', label_smoothing=0.001)[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='exo_pair', label_smoothing=0.001)",
            agrees=1e-6,
            why="Liger takes the logarithm of label_smoothing in float32.",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten(), "
                "loss_type='nca_pair')[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='nca_pair')",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten(), "
                "loss_type='bco_pair')[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='bco_pair')",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten(), "
                "loss_type='sppo_hard')[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='sppo_hard')",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten(), "
                "loss_type='apo_zero')[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='apo_zero')",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten(), "
                "loss_type='apo_down')[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='apo_down')",
        ),
        Peer(
            "liger-kernel",
            (
                "liger_kernel.chunked_loss.dpo_loss.LigerFusedLinearDPOFunction.preference_loss_fn(chosen.flatten(), "
                "rejected.flatten(), torch.empty(60), ref_chosen.flatten(), ref_rejected.flatten(), "
                "loss_type='discopop')[0]"
            ),
            "dpo_loss(chosen, rejected, ref_chosen, ref_rejected, loss_type='discopop')",
        ),
    ]
    aliases = "direct_preference_optimization cdpo slic exo"
    task = "preference"
    best_for = "Language models trained on pairs of answers of which one was preferred."
    not_for = "Means of log-probabilities; answers without a counterpart."
    reference = (
        "Rafailov, R. et al. (2023). Direct preference optimization: your language model is secretly a reward model. "
        "NeurIPS. arXiv:2305.18290. The types: robust 2403.00409, hinge 2305.10425, exo_pair 2402.00856, discopop "
        "2406.08414, nca_pair 2402.05369, bco_pair 2404.04656, sppo_hard 2405.00675, apo_zero and apo_down 2408.06266."
    )
