"""The truth about the logistic loss of the difference between two rewards."""

import numpy as np
from proofs import Bars, Example, PointwiseProof


def exact(m, chosen, rejected, margin, center_coefficient):
    behind = margin - (chosen - rejected)
    loses = m.sigmoid(behind)
    both = chosen + rejected
    pull = m.times(2 * center_coefficient, both)
    return (m.softplus(behind), m.times(center_coefficient, both * both)), {
        "chosen": (-loses, pull),
        "rejected": (loses, pull),
    }


def scale(what, operands, given):
    """The difference and the sum of the rewards are rounded before a function of them is taken."""
    c, r = np.float64(operands["chosen"]), np.float64(operands["rejected"])
    with np.errstate(all="ignore"):
        loses = 1 / (1 + np.exp((c - r) - given["margin"]))
        size = np.abs(c - r) + abs(given["margin"])
        found = size * (loses if what == "value" else loses * (1 - loses))
        return np.where(np.isfinite(found), found, 0.0)[()]


proof = PointwiseProof(
    name="bradley_terry_loss",
    exact=exact,
    variants=[{"margin": 0.5}, {"center_coefficient": 0.01}],
    # The sum of a logistic loss and two products.
    bars=Bars(value=3.4, gradient=2.4, eager_value=3.4, eager_gradient=2.0),
    others={"rejected": [0.0, 1.0, -3.0, 40.0]},
    scale=scale,
    example=Example(
        data="""chosen = torch.randn(10)  # rewards of the answers that people chose
rejected = torch.randn(10)""",
        by_hand="by_hand = torch.log(1 + torch.exp(-(chosen - rejected)))",
        operands="chosen, rejected",
        more="""# A margin, and the level of rewards held at 0.
strict = torch.log(1 + torch.exp(1 - (chosen - rejected))) + 0.01 * (chosen + rejected) ** 2
loss = losskit.BradleyTerryLoss(margin=1.0, center_coefficient=0.01)(chosen, rejected)
torch.testing.assert_close(loss, strict.mean())
print("margin and level", loss)""",
    ),
)
