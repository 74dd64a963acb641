"""The truth about the Dice loss of a region: what is wrong over the sum of both sizes."""

from proofs import Bars, Example, RowProof, Variant
from region_rows import BATCH, OF_BATCH, extremes, gradient, labels, ratio, shares, sums


def exact(m, input, target, smooth=1e-5, squared=False, log_score=False, soft_label=False, **_):
    found = sums(m, input, target, soft_label)
    wrong, both = found.positives + found.negatives, 2 * found.overlap
    if squared:
        wrong = m.sum((p * (1 - t) - q * t) ** 2 for p, q, t in found.pixels)
    value, by_wrong, by_both = ratio(wrong, both, smooth)
    if log_score:
        score = (both + smooth) / (both + wrong + smooth)
        value, by_wrong, by_both = -m.log1p(-value), by_wrong / score, by_both / score
    if not squared:
        return (value,), {0: gradient(found, 2 * by_both, by_wrong, by_wrong)}
    return (value,), {
        0: [(p * q * 2 * by_both * t, p * q * 2 * by_wrong * (p * (1 - t)), -p * q * 2 * by_wrong * q * t)
            for p, q, t in found.pixels]
    }  # fmt: skip


proof = RowProof(
    name="dice_loss",
    exact=exact,
    # Sums of probabilities of 2 ULP, and a quotient of them; squares double their error.
    bars=Bars(3.8, 4.3, 3.6, 4.3),
    points={
        "extremes": extremes(),
        "extremes_squared": extremes(0.5, squared=True),
        "extremes_log": extremes(log_score=True),
        "extremes_soft_label": extremes(soft_label=True),
    },
    variants=[
        Variant("labels", labels, BATCH, batch=OF_BATCH),
        Variant("smooth", shares, {**BATCH, "smooth": 1.0}, batch=OF_BATCH),
        Variant("squared", shares, {**BATCH, "squared": True, "smooth": 0.0}, batch=OF_BATCH),
        Variant("log", labels, {**BATCH, "log_score": True}, batch=OF_BATCH),
        Variant("soft_label", shares, {**BATCH, "soft_label": True}, batch=OF_BATCH),
    ],
    example=Example(
        data="""scores = torch.randn(2, 3, 16, 16)  # two images, three classes
target = torch.randint(0, 3, (2, 16, 16))
smooth = 1.0""",
        by_hand="""p = scores.softmax(dim=1)
t = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
overlap = (p * t).sum(dim=(2, 3))
by_hand = 1 - (2 * overlap + smooth) / (p.sum(dim=(2, 3)) + t.sum(dim=(2, 3)) + smooth)""",
        operands="scores, target",
        arguments="smooth=smooth, activation='softmax', ",
        more="""# The first image's left half does not count.
pixel_mask = torch.ones(2, 16, 16, dtype=torch.bool)
pixel_mask[0, :, :8] = False
p, t = p * pixel_mask.unsqueeze(1), t * pixel_mask.unsqueeze(1)
overlap = (p * t).sum(dim=(2, 3))
by_hand = 1 - (2 * overlap + smooth) / (p.sum(dim=(2, 3)) + t.sum(dim=(2, 3)) + smooth)
loss = losskit.DiceLoss(smooth=smooth, activation='softmax')(scores, target, pixel_mask)
torch.testing.assert_close(loss, by_hand.mean())
print("masked", loss)""",
    ),
)
