"""The truth about the squared distance of a gap between log-probabilities from a number."""

import numpy as np
import torch
from proofs import Bars, Example, PointwiseProof


def exact(m, chosen, rejected, ref_chosen, ref_rejected, beta):
    off = ((chosen - ref_chosen) - (rejected - ref_rejected)) - 1 / (2 * beta)
    return (off * off,), {
        "chosen": (2 * off,),
        "rejected": (-2 * off,),
        "ref_chosen": (-2 * off,),
        "ref_rejected": (2 * off,),
    }


def sizes(operands, given):
    """A quarter of how far the gap is off, and of the largest number that is rounded on the way."""
    c, r, a, b = (0.25 * np.float64(operands[name]) for name in ("chosen", "rejected", "ref_chosen", "ref_rejected"))
    with np.errstate(all="ignore"):
        u, v, goal = c - a, r - b, 0.125 / given["beta"]
        return np.abs((u - v) - goal), np.maximum(np.maximum(np.abs(u), np.abs(v)), np.maximum(np.abs(u - v), goal))


def scale(what, operands, given):
    """Differences of log-probabilities are rounded before they are subtracted from each other, and from 1 / (2 beta).

    The square of a gap that is right is that of its rounding.
    """
    off, size = sizes(operands, given)
    with np.errstate(all="ignore"):
        found = 16 * size * np.maximum(off, 1e-6 * size) if what == "value" else 4 * size
        return np.where(np.isfinite(found), found, 0.0)[()]


def undecided(operands, given, dtype):
    """The square overflows, or not, where the rounding of the gap is as large as itself."""
    off, size = sizes(operands, given)
    return ("value",) if off < 4 * torch.finfo(dtype).eps * size and off > 1e18 else ()


def points(given, dtype):
    """Gaps that are right."""
    gap = 1 / (2 * given["beta"])
    return [torch.tensor([[gap, 0.0, 0.0, 0.0], [gap - 3.0, -4.0, -2.0, -3.0]], dtype=torch.float64)]


proof = PointwiseProof(
    name="ipo_loss",
    exact=exact,
    variants=[{"beta": 1.0}, {"beta": 0.03}],
    # A difference of differences, squared: twice the error of its three roundings.
    bars=Bars(value=4.0, gradient=2.7, eager_value=4.0, eager_gradient=2.7),
    others={
        "rejected": [0.0, -1.0, -3.0, -40.0],
        "ref_chosen": [0.0, -1.5, -2.0, -40.0],
        "ref_rejected": [0.0, -1.0, -2.5, -3.0],
    },
    scale=scale,
    undecided=undecided,
    points=points,
    example=Example(
        data="""chosen, rejected = -torch.rand(10), -torch.rand(10)  # mean log-probability of a token
ref_chosen, ref_rejected = -torch.rand(10), -torch.rand(10)  # by the reference model
beta = 0.1""",
        by_hand="""gap = (chosen - ref_chosen) - (rejected - ref_rejected)
by_hand = (gap - 1 / (2 * beta)) ** 2""",
        operands="chosen, rejected, ref_chosen, ref_rejected",
        arguments="beta=beta, ",
    ),
)
