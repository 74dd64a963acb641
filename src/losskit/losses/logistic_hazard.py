"""LogisticHazardLoss: the time of an event as a row of intervals, each with the chance that it ends there."""

from losskit.declaration import Case, Operand, Peer
from losskit.domains import probability
from losskit.facts import Facts
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import softplus, where


class LogisticHazardLoss(PointwiseLoss):
    """Negative log-likelihood of discrete-time survival: an interval's score is the logit of its hazard.

    Choose it for times to an event, some of which are censored, cut into intervals; hazards may change as they like.
    Prefer a Cox model for one score per subject, MSELoss when nothing is censored.

    The loss of a row is the sum over the intervals up to its own: of surviving those before, and of the event, or of
    surviving the interval where there was none. A censored subject has survived its interval in full, as in pycox;
    where that is not so, give the interval before.
    """

    name = "logistic_hazard_loss"
    rows = "sum"
    operands = {
        "input": Operand("Logits of the hazards of K intervals, of shape (N, K).", kind="logit"),
        "interval": Operand("Interval of the event or of the censoring, from 0 to K - 1, of shape (N,).", per_row=True,
                            broadcast=True, differentiable=False, places=0),
        "event": Operand("1 where the event was seen, 0 where the subject is censored, of shape (N,).",
                         domain=probability, per_row=True, broadcast=True, differentiable=False),
    }  # fmt: skip

    @staticmethod
    def value(input, interval, event, position):
        seen = where(position == interval, event, 0.0)
        return where(position <= interval, (1.0 - seen) * softplus(input) + seen * softplus(-input), 0.0)

    facts = Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[[-1.0, 0.0, 0.5]], interval=[1], event=[1.0], value=1.0064088,
             grad=[[0.26894142, -0.5, 0.0]], source="mpmath"),
        Case(input=[[-1.0, 0.0, 0.5]], interval=[1], event=[0.0], value=1.0064088,
             grad=[[0.26894142, 0.5, 0.0]], source="mpmath; censored"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pycox",
            "pycox.models.loss.nll_logistic_hazard(input, interval, event)",
        ),
    ]
    aliases = "nnet_survival discrete_hazard discrete_time_survival"
    task = "survival"
    best_for = "Times to an event in intervals, some censored."
    not_for = "Continuous times; one score per subject."
    reference = (
        "Gensheimer, M. F. and Narasimhan, B. (2019). A scalable discrete-time survival model for neural networks. "
        "PeerJ 7, e6257. arXiv:1805.00917. Kvamme, H. and Borgan, O. (2019), arXiv:1910.06724."
    )
