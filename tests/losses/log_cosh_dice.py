"""The truth about log cosh of the Dice loss of a region."""

from proofs import Bars, Example, RowProof, Variant
from region_rows import BATCH, OF_BATCH, extremes, gradient, labels, ratio, shares, sums


def exact(m, input, target, smooth=1e-5, **_):
    found = sums(m, input, target)
    dice, by_wrong, by_both = ratio(found.positives + found.negatives, 2 * found.overlap, smooth)
    u, slope = m.expm1(dice), m.tanh(dice)
    return (m.log1p(u * u / (2 * (1 + u))),), {
        0: gradient(found, 2 * slope * by_both, slope * by_wrong, slope * by_wrong)
    }


proof = RowProof(
    name="log_cosh_dice_loss",
    exact=exact,
    # The Dice loss squared, which doubles its error.
    bars=Bars(4.4, 6.6, 3.5, 5.0),
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
dice = 1 - (2 * overlap + smooth) / (p.sum(dim=(2, 3)) + target.sum(dim=(2, 3)) + smooth)
by_hand = dice.cosh().log()""",
        operands="scores, target",
        arguments="smooth=smooth, ",
    ),
)
