"""The truth about the Jaccard loss of a region: what is wrong over all that either has."""

from proofs import Bars, Example, RowProof, Variant
from region_rows import BATCH, OF_BATCH, extremes, gradient, labels, ratio, shares, sums


def exact(m, input, target, smooth=1e-5, **_):
    found = sums(m, input, target)
    value, by_wrong, by_both = ratio(found.positives + found.negatives, found.overlap, smooth)
    return (value,), {0: gradient(found, by_both, by_wrong, by_wrong)}


proof = RowProof(
    name="jaccard_loss",
    exact=exact,
    # Sums of probabilities of 2 ULP, and a quotient of them.
    bars=Bars(2.4, 4.3, 1.7, 4.1),
    points={"extremes": extremes()},
    variants=[
        Variant("labels", labels, BATCH, batch=OF_BATCH),
        Variant("smooth", shares, {**BATCH, "smooth": 1.0}, batch=OF_BATCH),
    ],
    example=Example(
        data="""scores = torch.randn(2, 3, 16, 16)  # two images, three classes
target = (torch.rand(2, 3, 16, 16) < 0.3).float()
smooth = 1.0""",
        by_hand="""p = scores.sigmoid()
overlap = (p * target).sum(dim=(2, 3))
union = p.sum(dim=(2, 3)) + target.sum(dim=(2, 3)) - overlap
by_hand = 1 - (overlap + smooth) / (union + smooth)""",
        operands="scores, target",
        arguments="smooth=smooth, ",
    ),
)
