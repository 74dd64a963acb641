"""The truth about several quantiles of one target. At a tie the slope is zero."""

import torch
from proofs import Bars, Example, RowProof, Variant
from row_operands import normal

LEVELS = [0.125, 0.25, 0.5, 0.875]


def exact(m, input, target, quantiles):
    terms, slopes = [], []
    for x, q in zip(input, quantiles):
        d = x - target
        slope = 1 - q if d > 0 else -q if d < 0 else 0 * q
        terms.append(slope * d)
        slopes.append(slope / len(input))
    return (m.sum(terms) / len(input),), {0: slopes, 1: [-m.sum(slopes)]}


def forecasts(n, g):
    return normal(n, len(LEVELS), g=g), normal(n, g=g)


def sizes(dtype):
    """Residuals of every size, and ties; one quantile, and many."""
    every = [0.0, *(sign * x for x in (1e-7, 1e-3, 0.5, 3.0, 60.0, 1e4) for sign in (1, -1))]
    x = torch.tensor(every, dtype=torch.float64)
    for count in (1, 3, 100):
        levels = (torch.arange(count, dtype=torch.float64) + 0.5) / 128
        for target in (0.0, 1.0, -50.0):
            yield (
                (torch.stack([x.roll(k) for k in range(count)], 1), torch.full((len(x),), target)),
                {"quantiles": levels},
            )


def far(dtype):
    """Residuals that overflow where the loss does not."""
    largest = torch.finfo(dtype).max
    x = torch.tensor([[0.75], [-0.75], [1.0], [-1.0]], dtype=torch.float64) * largest
    for quantile in (0.25, 0.5, 0.75):
        given = {"quantiles": torch.tensor([quantile], dtype=torch.float64)}
        yield (x, -0.5 * x[:, 0]), given


proof = RowProof(
    name="multi_quantile_loss",
    exact=exact,
    bars=Bars(value=2.0, gradient=1.5, eager_value=1.1, eager_gradient=0.0),
    points={"sizes": sizes, "far": far},
    variants=[Variant("levels", forecasts, {"quantiles": torch.tensor(LEVELS)}, gradients=(0, 1))],
    example=Example(
        data="""output = torch.randn(10, 3)  # (B, Q): a prediction of each quantile
target = torch.randn(10)
quantiles = torch.tensor([0.1, 0.5, 0.9])""",
        by_hand="""d = target.unsqueeze(1) - output
each = torch.maximum(quantiles * d, (quantiles - 1) * d)
by_hand = each.mean(dim=1)""",
        operands="output, target",
        arguments="quantiles=quantiles, ",
        more="""# Quantiles that cross, with a price of 1: a ranking loss of neighbours.
lower, upper = output[:, :-1], output[:, 1:]
crossing = losskit.MarginRankingLoss()(upper, lower, torch.ones_like(upper))
torch.testing.assert_close(crossing, (lower - upper).clamp(min=0).mean())
print("crossing", crossing)""",
    ),
)
