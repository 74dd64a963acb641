"""The truth about the Tversky loss of a region: weighed wrong pixels over them and what both have."""

from proofs import Bars, Example, RowProof, Variant
from region_rows import BATCH, OF_BATCH, extremes, gradient, labels, ratio, shares, sums


def exact(m, input, target, alpha=0.5, beta=0.5, smooth=1e-5, soft_label=False, **_):
    found = sums(m, input, target, soft_label)
    value, by_wrong, by_both = ratio(alpha * found.positives + beta * found.negatives, found.overlap, smooth)
    return (value,), {0: gradient(found, by_both, alpha * by_wrong, beta * by_wrong)}


proof = RowProof(
    name="tversky_loss",
    exact=exact,
    # Sums of probabilities of 2 ULP, and a quotient of them.
    bars=Bars(2.5, 2.9, 1.6, 3.6),
    points={"extremes": extremes(alpha=0.3, beta=0.7)},
    variants=[
        Variant("labels", labels, BATCH, batch=OF_BATCH),
        Variant("weighed", shares, {**BATCH, "alpha": 0.3, "beta": 0.7, "smooth": 1.0}, batch=OF_BATCH),
        Variant("soft_label", shares, {**BATCH, "alpha": 0.3, "beta": 0.7, "soft_label": True}, batch=OF_BATCH),
    ],
    example=Example(
        data="""scores = torch.randn(2, 3, 16, 16)  # two images, three classes
target = (torch.rand(2, 3, 16, 16) < 0.3).float()
alpha, beta, smooth = 0.3, 0.7, 1.0""",
        by_hand="""p = scores.sigmoid()
overlap = (p * target).sum(dim=(2, 3))
wrong = alpha * (p * (1 - target)).sum(dim=(2, 3)) + beta * ((1 - p) * target).sum(
    dim=(2, 3)
)
by_hand = 1 - (overlap + smooth) / (overlap + wrong + smooth)""",
        operands="scores, target",
        arguments="alpha=alpha, beta=beta, smooth=smooth, ",
    ),
)
