"""CoxPHLoss: who of those at risk had the event, whenever there was one."""

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.ordered import OrderedLoss

_NO_TIES = {
    "input": [0.5, -0.2, 0.1, 1.0, -0.7],
    "time": [3.0, 1.0, 2.0, 4.0, 5.0],
    "event": [1.0, 1.0, 0.0, 1.0, 0.0],
}
_TIES = _NO_TIES | {"time": [2.0, 1.0, 2.0, 4.0, 5.0], "event": [1.0, 1.0, 1.0, 0.0, 1.0]}


class CoxPHLoss(OrderedLoss):
    """Cox's partial likelihood: at each event, minus the log-probability that it hit whom it hit of all at risk.

    Choose it for survival times with censoring when only the order of risks matters, whatever the hazard over time.
    Prefer LogisticHazardLoss for probabilities of surviving given times.

    The mean is over events, the sum over them is minus the log partial likelihood. Subjects that are censored at the
    time of an event are at risk. Batches should be large: the risk set of an event is what is in the batch. Dimensions
    before the last one are strata, each with risk sets of its own; one without an event does not count.
    """

    name = "cox_ph_loss"
    arguments = "reduction ties"
    operands = {
        "input": Operand("Log-hazards of the subjects, (..., N).", kind="logit"),
        "time": Operand("Times of the events or of the censoring, of the same shape.", differentiable=False),
        "event": Operand("1 for an event, 0 for a censored subject, of the same shape.", differentiable=False),
        "element_mask": Operand("Boolean, True = counts, of the shape of input; padding may be NaN.", optional=True,
                                differentiable=False),
    }  # fmt: skip
    descending = False
    at_ties = "end of tie"
    units = "events"

    @staticmethod
    def value(log_share):
        return -log_share

    facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(input=[0.5, -0.2, 0.1, 1.0], time=[3, 1, 2, 4], event=[1, 1, 0, 1], value=3.01317,
             grad=[-0.360378, -0.869855, 0.1756776, 1.054557], source="mpmath; no ties"),
        Case(input=[0.5, -0.2, 0.1, 1.0], time=[2, 1, 2, 4], event=[1, 1, 1, 0], ties="breslow", value=4.83846,
             grad=[-0.1353363, -0.869855, -0.420399, 1.425591], source="mpmath"),
        Case(input=[0.5, -0.2, 0.1, 1.0], time=[2, 1, 2, 4], event=[1, 1, 1, 0], value=4.54860,
             grad=[-0.2353302, -0.869855, -0.487425, 1.592610], source="mpmath"),
    ]  # fmt: skip
    peers = [
        Peer(
            "pycox",
            "pycox.models.loss.cox_ph_loss(input, time, event)",
            agrees=1e-6,
            why="It has no ties: the order of the sort decides. It adds 1e-7 to the sums.",
            given=_NO_TIES,
        ),
        Peer(
            "statsmodels",
            "-statsmodels.api.PHReg(time, input[:, None], event, ties='efron').loglike(np.ones(1)) / event.sum()",
            given=_TIES,
        ),
        Peer(
            "statsmodels",
            "-statsmodels.api.PHReg(time, input[:, None], event, ties='breslow').loglike(np.ones(1)) / event.sum()",
            "cox_ph_loss(input, time, event, ties='breslow')",
            given=_TIES,
        ),
    ]
    aliases = "cox deep_surv deepsurv neg_partial_log_likelihood partial_likelihood proportional_hazards"
    task = "survival"
    best_for = "Relative risks from censored survival times."
    not_for = "Survival probabilities; batches of a few subjects."
    reference = (
        "Cox, D. R. (1972). Regression models and life-tables. J. R. Stat. Soc. B 34, 187-220. Ties: Efron, B. (1977), "
        "J. Am. Stat. Assoc. 72, 557-565; Breslow, N. (1974), Biometrics 30, 89-99. Networks: Katzman, J. L. et al. "
        "(2018), arXiv:1606.00931 (DeepSurv)."
    )
