"""The truth about the logistic loss of a difference between mean log-probabilities, with a margin."""

import numpy as np
from proofs import Bars, Example, PointwiseProof


def exact(m, chosen, rejected, beta, gamma):
    behind = gamma - beta * (chosen - rejected)
    pull = beta * m.sigmoid(behind)
    return (m.softplus(behind),), {"chosen": (-pull,), "rejected": (pull,)}


def scale(what, operands, given):
    """The difference times beta is rounded before a function of it is taken."""
    with np.errstate(all="ignore"):
        half = 0.5 * np.float64(operands["chosen"]) - 0.5 * np.float64(operands["rejected"])
        size = np.abs(2 * given["beta"] * half) + given["gamma"]
        loses = 1 / (1 + np.exp(2 * given["beta"] * half - given["gamma"]))
        found = size * (loses if what == "value" else given["beta"] * loses * (1 - loses))
        return np.where(np.isfinite(found), found, 0.0)[()]


proof = PointwiseProof(
    name="simpo_loss",
    exact=exact,
    variants=[{"beta": 0.1, "gamma": 0.0}, {"beta": 10.0, "gamma": 3.0}],
    bars=Bars(value=1.7, gradient=3.9, eager_value=1.7, eager_gradient=3.9),
    others={"rejected": [0.0, -1.0, -3.0, -40.0]},
    scale=scale,
    example=Example(
        data="""chosen = -torch.rand(10)  # mean log-probability of a token
rejected = -torch.rand(10)
beta, gamma = 2.0, 0.5""",
        by_hand="by_hand = -torch.log(torch.sigmoid(beta * (chosen - rejected) - gamma))",
        operands="chosen, rejected",
        arguments="beta=beta, gamma=gamma, ",
    ),
)
