"""The truth about a negative log-likelihood plus the logistic loss of a logarithm of odds."""

import math

import numpy as np
from proofs import Bars, Example, PointwiseProof


def exact(m, chosen, rejected, lam):
    c, r = -m.expm1(chosen), -m.expm1(rejected)  # what the probabilities miss to 1
    ratio = (rejected + m.log(c)) - (chosen + m.log(r))  # the logarithm of odds of rejected over those of chosen
    loses = lam * m.sigmoid(ratio)
    # At a chosen probability of 1 the quotient has a limit.
    by_chosen = m.where(c == 0, lam * m.div(m.exp(rejected), m.where(r == 0, 0 * r, r)), m.div(loses, c))
    return (-chosen, m.times(lam, m.softplus(ratio))), {
        "chosen": (-1 + 0 * c, -by_chosen),
        "rejected": (m.div(loses, r),),
    }


def scale(what, operands, given):
    """The difference of the log-probabilities is rounded before its exponential is taken."""
    c, r = np.float64(operands["chosen"]), np.float64(operands["rejected"])
    with np.errstate(all="ignore"):
        missed_c, missed_r = -np.expm1(c), -np.expm1(r)
        ratio = missed_c / (np.exp(c - r) * missed_r)
        share = (
            ratio / (1 + ratio)
            if what == "value"
            else ratio / (1 + ratio) ** 2 / (missed_c if what == "chosen" else missed_r)
        )
        found = given["lam"] * np.abs(c - r) * share
        return np.where(np.isfinite(found), found, 0.0)[()]


def subnormal_factor(what, operands):
    """A quotient of what both miss, by what the less likely one misses."""
    c, r = operands["chosen"], operands["rejected"]
    if what != "rejected" or not (math.isfinite(c) and math.isfinite(r)):
        return 0.0
    both = math.exp(min(c - r, 0.0)) * -math.expm1(r) + math.exp(min(r - c, 0.0)) * -math.expm1(c)
    return 1.0 / max(both, 1e-300)


proof = PointwiseProof(
    name="orpo_loss",
    exact=exact,
    variants=[{"lam": 0.7}],
    # Above 2 ULP: the product with lam, whose half ULP is a whole one of a result below a power of two.
    bars=Bars(value=2.1, gradient=3.5, eager_value=2.1, eager_gradient=3.5),
    others={"rejected": [-0.5, -1.0, -0.01, -40.0]},
    scale=scale,
    subnormal_factor=subnormal_factor,
    example=Example(
        data="""chosen = -torch.rand(10) - 0.1  # mean log-probability of a token
rejected = -torch.rand(10) - 0.1
lam = 0.1""",
        by_hand="""odds = lambda log_p: log_p.exp() / (1 - log_p.exp())
by_hand = -chosen - lam * torch.log(torch.sigmoid(torch.log(odds(chosen) / odds(rejected))))""",
        operands="chosen, rejected",
        arguments="lam=lam, ",
    ),
)
