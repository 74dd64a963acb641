"""Calls of a hinge on distances in triplets, and the loss by hand. Its truth is in tests/test_embeddings.py."""

from proofs import Example, RowProof, Variant
from row_operands import triplets

proof = RowProof(
    name="triplet_margin_loss",
    variants=[
        Variant("default", triplets, {"margin": 2.0}, gradients=(0, 1, 2)),
        Variant("swap", triplets, {"p": 3.0, "eps": 0.01, "swap": True}, gradients=(0, 1, 2)),
        Variant("fraction", triplets, {"p": 1.5, "margin": 4.0}, gradients=(0, 1, 2)),
    ],
    example=Example(
        data="""anchor, positive, negative = torch.randn(3, 10, 8)  # 10 triplets, 8 numbers each
margin, eps = 1.0, 1e-6""",
        by_hand="""near = ((anchor - positive + eps) ** 2).sum(dim=1).sqrt()
far = ((anchor - negative + eps) ** 2).sum(dim=1).sqrt()
by_hand = (near - far + margin).clamp(min=0)""",
        operands="anchor, positive, negative",
        arguments="margin=margin, eps=eps, ",
        more="""# swap=True: the negative's distance from the positive counts where it is smaller.
other = ((positive - negative + eps) ** 2).sum(dim=1).sqrt()
swapped = (near - torch.minimum(far, other) + margin).clamp(min=0)
criterion = losskit.TripletMarginLoss(margin=margin, eps=eps, swap=True)
loss = criterion(anchor, positive, negative)
torch.testing.assert_close(loss, swapped.mean())
print("swap", loss)""",
    ),
)
