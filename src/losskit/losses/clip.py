"""CLIPLoss: images among texts, and texts among images."""

from torch import Tensor

from losskit.declaration import Case, Operand, Peer, param
from losskit.domains import positive as above_zero
from losskit.facts import Facts
from losskit.families.pairs import PairsLoss
from losskit.losses._contrastive import of_one_positive


class CLIPLoss(PairsLoss):
    """Images and texts: each image should find its text among all texts, and each text its image.

    Choose it to train two encoders together; `logit_scale` may be a parameter of the model, the exponential of what
    learns.
    Prefer SigLIPLoss for very large batches, InfoNCELoss where only one direction is wanted.
    """

    logit_scale: float | Tensor = param(
        default=14.285714285714286, domain=above_zero,
        doc="By which similarities are multiplied: a number, or a tensor that may learn.",
    )  # fmt: skip

    name = "clip_loss"
    arguments = "logit_scale normalize reduction"
    both_ways = True
    operands = {
        "image": Operand("Embeddings of shape (N, D)."),
        "text": Operand("Embeddings of shape (N, D): row i belongs to image i."),
    }

    @staticmethod
    def value(positive_sum, negative_log_sum_exp):
        return of_one_positive(positive_sum, negative_log_sum_exp)

    facts = Facts(convex=False, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)
    cases = [
        Case(image=[[1.0, 0.0], [0.6, 0.8]], text=[[0.8, 0.6], [0.0, 1.0]], logit_scale=10.0, value=1.784235,
             source="mpmath"),
        Case(image=[[1.0, 0.0]], text=[[0.0, 1.0]], value=0.0, grad=[[0.0, 0.0]], source="one pair has no rival"),
    ]  # fmt: skip
    peers = [
        Peer(
            "open-clip-torch",
            "open_clip.loss.ClipLoss()(F.normalize(image), F.normalize(text), 10.0)",
            "clip_loss(image, text, logit_scale=10.0)",
            why="There features are normalised before the call; here they are in it, which is harmless twice.",
        ),
    ]
    aliases = "contrastive_language_image symmetric_info_nce"
    task = "metric learning"
    best_for = "Two encoders that meet in one space."
    not_for = "More than one positive for a row."
    reference = (
        "Radford, A. et al. (2021). Learning transferable visual models from natural language supervision. ICML. "
        "arXiv:2103.00020."
    )
