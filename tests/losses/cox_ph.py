"""The truth about Cox's partial likelihood, with both ways to treat ties."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal

from losses.list_mle import shares

SUBJECTS = 6


def exact(m, input, time, event, element_mask=None, ties="efron"):
    there = [i for i in range(len(input)) if element_mask is None or element_mask[i]]
    value, slopes = [m.zero], [[m.zero] for _ in input]
    for i in there:
        if not event[i]:
            continue
        tied = [j for j in there if event[j] and time[j] == time[i]]
        left_out = m.one * tied.index(i) / len(tied) if ties == "efron" else m.zero
        others = [j for j in there if j != i and time[j] >= time[i]]
        # A weight of an exponential is a step of its exponent.
        step = m.log(1 - left_out)
        exponents = [input[j] + (step if j in tied else 0) for j in others]
        terms, missing, taken = shares(m, input[i], exponents, 1 - left_out)
        value += terms
        slopes[i].append(-missing)
        for j, part in zip(others, taken):
            slopes[j].append(part)
    return tuple(value), {0: [(m.sum(x for x in s if x > 0), m.sum(x for x in s if x < 0)) for s in slopes]}


def subjects(n, g):
    """Log-hazards, times of which many are tied, and events, one at least."""
    time = torch.randint(1, 4, (n, SUBJECTS), generator=g).double()
    event = torch.randint(0, 2, (n, SUBJECTS), generator=g).double()
    event[:, 2] = 1.0
    return normal(n, SUBJECTS, g=g), time, event


def padded(n, g):
    """Sets of different sizes."""
    return *subjects(n, g), torch.arange(SUBJECTS) < 3 + torch.arange(n).unsqueeze(1) % 4


def scales(dtype):
    """Log-hazards of every magnitude, with ties and without."""
    g = torch.Generator().manual_seed(5)
    for scale in (1e-4, 1.0, 30.0, 1e3):
        x = torch.randn(6, 12, generator=g, dtype=torch.float64) * scale
        event = torch.randint(0, 2, (6, 12), generator=g).double()
        event[:, 0] = 1.0
        for most in (3, 1000):
            time = torch.randint(0, most, (6, 12), generator=g).double()
            for ties in ("efron", "breslow"):
                yield (x, time, event), {"ties": ties}


proof = RowProof(
    name="cox_ph_loss",
    exact=exact,
    # In float64 there is nothing wider in which running sums could be taken.
    bars=Bars(value=1.4, gradient=2.3, eager_value=2.0, eager_gradient=5.0),
    points={"scales": scales},
    variants=[
        Variant("efron", subjects, {"ties": "efron"}),
        Variant("breslow", subjects, {"ties": "breslow"}),
        Variant("padded", padded),
    ],
    example=Example(
        data="""log_hazard = torch.randn(6)
time = torch.tensor([5.0, 3.0, 3.0, 8.0, 1.0, 3.0])
event = torch.tensor([1, 1, 0, 0, 1, 1])""",
        by_hand="""# Two events are tied at 3: the second leaves out half of both.
hazard = log_hazard.exp()
by_hand = 0.0
for t, places in {1.0: [4], 3.0: [1, 5], 5.0: [0]}.items():
    for place, i in enumerate(places):
        at_risk = hazard[time >= t].sum() - place / len(places) * hazard[places].sum()
        by_hand = by_hand + at_risk.log() - log_hazard[i]""",
        operands="log_hazard, time, event",
        mean="by_hand / event.sum()",
    ),
)
