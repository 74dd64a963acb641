"""The truth about a power of the Tversky loss of a region."""

from proofs import Bars, Example, RowProof, Variant
from region_rows import BATCH, OF_BATCH, extremes, gradient, labels, ratio, shares, sums


def exact(m, input, target, alpha=0.3, beta=0.7, gamma=0.75, smooth=1e-5, **_):
    found = sums(m, input, target)
    part, by_wrong, by_both = ratio(alpha * found.positives + beta * found.negatives, found.overlap, smooth)
    slope = gamma * part ** (gamma - 1) if part else m.zero
    return (part**gamma,), {0: gradient(found, slope * by_both, slope * alpha * by_wrong, slope * beta * by_wrong)}


proof = RowProof(
    name="focal_tversky_loss",
    exact=exact,
    # A power of a quotient of sums, of probabilities of 2 ULP.
    bars=Bars(3.4, 4.8, 4.2, 4.1),
    points={"extremes": extremes(), "extremes_above_1": extremes(gamma=1.5)},
    variants=[
        Variant("labels", labels, BATCH, batch=OF_BATCH),
        Variant("weighed", shares, {**BATCH, "alpha": 0.6, "beta": 0.4, "gamma": 2.0, "smooth": 1.0}, batch=OF_BATCH),
    ],
    example=Example(
        data="""scores = torch.randn(2, 3, 16, 16)  # two images, three classes
target = (torch.rand(2, 3, 16, 16) < 0.3).float()
alpha, beta, gamma, smooth = 0.3, 0.7, 0.75, 1.0""",
        by_hand="""p = scores.sigmoid()
overlap = (p * target).sum(dim=(2, 3))
wrong = alpha * (p * (1 - target)).sum(dim=(2, 3)) + beta * ((1 - p) * target).sum(
    dim=(2, 3)
)
by_hand = (1 - (overlap + smooth) / (overlap + wrong + smooth)) ** gamma""",
        operands="scores, target",
        arguments="alpha=alpha, beta=beta, gamma=gamma, smooth=smooth, ",
    ),
)
