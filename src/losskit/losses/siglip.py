"""SigLIPLoss: for each pair of image and text, yes or no."""

from losskit.declaration import Case, Operand, Peer
from losskit.facts import Facts
from losskit.families.pairs import PairsLoss
from losskit.formula import softplus


class SigLIPLoss(PairsLoss):
    """Images and texts, each pair by itself: a sigmoid says whether the two belong together.

    Choose it for large batches: a pair needs nothing of the others, and small batches are good enough, too.
    Prefer CLIPLoss where the softmax over the batch is wanted.

    The loss of a row is the sum over all columns, and the mean divides by the rows. Texts beyond the number of images
    belong to none.
    """

    name = "siglip_loss"
    arguments = "logit_scale logit_bias normalize reduction"
    operands = {
        "image": Operand("Embeddings of shape (N, D)."),
        "text": Operand("Embeddings of shape (M, D), M at least N: row i belongs to image i, further rows to none."),
    }

    @staticmethod
    def positive(similarity):
        return softplus(-similarity)

    @staticmethod
    def negative(similarity):
        return softplus(similarity)

    @staticmethod
    def value(positive_sum, negative_sum):
        return positive_sum + negative_sum

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(image=[[1.0, 0.0], [0.6, 0.8]], text=[[0.8, 0.6], [0.0, 1.0]], value=4.766919, source="mpmath"),
        Case(image=[[1.0, 0.0]], text=[[0.0, 3.0]], logit_scale=1.0, logit_bias=0.0, value=0.6931471805599453,
             grad=[[0.0, -0.5]], source="log 2"),
    ]  # fmt: skip
    peers = [
        Peer(
            "open-clip-torch",
            "open_clip.loss.SigLipLoss()(F.normalize(image), F.normalize(text), 10.0, -10.0)",
            "siglip_loss(image, text)",
            why="There features are normalised before the call; here they are in it, which is harmless twice.",
        ),
    ]
    aliases = "sigmoid_contrastive sigmoid_language_image"
    task = "metric learning"
    best_for = "Two encoders, batches of any size."
    not_for = "Labels of more than one row."
    reference = "Zhai, X. et al. (2023). Sigmoid loss for language image pre-training. ICCV. arXiv:2303.15343."
