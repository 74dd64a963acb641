"""The truth about the likelihood of an event in one of some intervals, or of none up to it."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal

from losses.coral import sizes as of_questions

INTERVALS = 4


def exact(m, input, interval, event):
    ends = [event if k == interval else m.zero for k in range(len(input))]
    lived = [k <= interval for k in range(len(input))]
    terms = [((1 - end) * m.softplus(x), end * m.softplus(-x)) for x, end, alive in zip(input, ends, lived) if alive]
    slopes = [
        ((1 - end) * m.sigmoid(x), -end * m.sigmoid(-x)) if alive else m.zero
        for x, end, alive in zip(input, ends, lived)
    ]
    return (m.sum(sum(pair) for pair in terms),), {0: slopes}


def times(n, g):
    """Logits of hazards, intervals, and whether the event was seen."""
    interval = torch.randint(0, INTERVALS, (n,), generator=g)
    return normal(n, INTERVALS, g=g), interval, (torch.rand(n, generator=g) > 0.4).double()


def shares(n, g):
    """The same; of some events it is not certain that they happened."""
    logits, interval, event = times(n, g)
    return logits, interval.double(), (event + 0.25) / 1.5


def sizes(dtype):
    """Logits of every size, for every interval, with an event and without."""
    for (x, last), _ in of_questions(dtype):
        for event in (0.0, 1.0):
            yield (x, (last - 1).clamp(min=0), torch.full((len(x),), event, dtype=torch.float64)), {}


proof = RowProof(
    name="logistic_hazard_loss",
    exact=exact,
    bars=Bars(value=1.2, gradient=1.5, eager_value=1.2, eager_gradient=1.8),
    points={"sizes": sizes},
    formula_at={"sizes": 1.5},
    variants=[Variant("times", times), Variant("shares", shares)],
    example=Example(
        data="""logits = torch.randn(10, 4)  # (B, K): of the hazard of each of 4 intervals
interval = torch.randint(0, 4, (10,))
event = (torch.rand(10) > 0.3).float()  # 0: the subject is censored""",
        by_hand="""hazard = logits.sigmoid()
places = torch.arange(4)
ends = (places == interval.unsqueeze(1)) * event.unsqueeze(1)
likelihood = torch.where(ends > 0, hazard, 1 - hazard)
by_hand = -(likelihood.log() * (places <= interval.unsqueeze(1))).sum(dim=1)""",
        operands="logits, interval, event",
        more="""survival = (1 - hazard).cumprod(dim=1)  # no event up to the end of each interval
print("chance to survive all intervals", survival[:, -1])""",
    ),
)
