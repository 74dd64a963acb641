"""The truth about the logistic loss of a difference between log-probabilities, plus a negative log-likelihood."""

import numpy as np
from proofs import Bars, Example, PointwiseProof


def exact(m, chosen, rejected, nll, beta, alpha):
    behind = -beta * (chosen - rejected)
    pull = beta * m.sigmoid(behind)
    return (m.softplus(behind), m.times(alpha, nll)), {
        "chosen": (-pull,),
        "rejected": (pull,),
        "nll": (alpha + 0 * nll,),
    }


def scale(what, operands, given):
    """The difference times beta is rounded before a function of it is taken."""
    with np.errstate(all="ignore"):
        half = 0.5 * np.float64(operands["chosen"]) - 0.5 * np.float64(operands["rejected"])
        behind = -2 * given["beta"] * half
        loses = 1 / (1 + np.exp(-behind))
        found = np.abs(behind) * (loses if what == "value" else given["beta"] * loses * (1 - loses))
        return np.where(np.isfinite(found) & (what != "nll"), found, 0.0)[()]


proof = PointwiseProof(
    name="cpo_loss",
    exact=exact,
    variants=[{"beta": 0.3, "alpha": 0.5}, {"alpha": 0.0}],
    bars=Bars(value=1.7, gradient=2.3, eager_value=1.7, eager_gradient=2.2),
    others={"rejected": [0.0, -1.0, -30.0, -400.0], "nll": [0.5, 0.0, 2.0, 40.0]},
    scale=scale,
    example=Example(
        data="""chosen = -20 * torch.rand(10)  # log-probabilities of whole answers
rejected = -20 * torch.rand(10)
nll = -chosen / 20  # of the chosen answers, per token
beta, alpha = 0.1, 1.0""",
        by_hand="by_hand = -torch.log(torch.sigmoid(beta * (chosen - rejected))) + alpha * nll",
        operands="chosen, rejected, nll",
        arguments="beta=beta, alpha=alpha, ",
    ),
)
