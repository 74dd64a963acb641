"""The truth about images and texts that look for each other."""

from pair_rows import contrastive, of_diagonal, pairs
from proofs import Bars, Example, PairsProof, Variant


def exact(m, image, text, logit_scale=14.285714285714286, normalize=True):
    return of_diagonal(m, contrastive(m), image, text, True, "cosine" if normalize else "dot", logit_scale * m.one)


proof = PairsProof(
    name="clip_loss",
    exact=exact,
    bars=Bars(value=1.4, gradient=0.9, eager_value=1.2, eager_gradient=1.1),
    variants=[
        Variant("default", pairs, gradients=(0, 1)),
        Variant("dots", pairs, {"logit_scale": 0.5, "normalize": False}, gradients=(0, 1)),
    ],
    example=Example(
        data="""image = torch.randn(10, 8)
text = image + torch.randn(10, 8)  # row i belongs to image i
logit_scale = 10.0""",
        by_hand="""normalized = torch.nn.functional.normalize
similarities = logit_scale * normalized(image) @ normalized(text).T
of_images, of_texts = (
    -x.log_softmax(dim=1).diagonal() for x in (similarities, similarities.T)
)
by_hand = (of_images + of_texts) / 2""",
        operands="image, text",
        arguments="logit_scale=logit_scale, ",
    ),
)
