"""One file per loss. To add one, copy a neighbour: see CONTRIBUTING.md."""

import sys
from types import ModuleType
from typing import Any

from losskit.losses.bce import BCELoss
from losskit.losses.bce_with_logits import BCEWithLogitsLoss
from losskit.losses.cosine_embedding import CosineEmbeddingLoss
from losskit.losses.cross_entropy import CrossEntropyLoss
from losskit.losses.ctc import CTCLoss
from losskit.losses.gaussian_nll import GaussianNLLLoss
from losskit.losses.hinge_embedding import HingeEmbeddingLoss
from losskit.losses.huber import HuberLoss
from losskit.losses.kl_div import KLDivLoss
from losskit.losses.l1 import L1Loss
from losskit.losses.margin_ranking import MarginRankingLoss
from losskit.losses.mse import MSELoss
from losskit.losses.multi_margin import MultiMarginLoss
from losskit.losses.multilabel_margin import MultiLabelMarginLoss
from losskit.losses.multilabel_soft_margin import MultiLabelSoftMarginLoss
from losskit.losses.nll import NLLLoss
from losskit.losses.poisson_nll import PoissonNLLLoss
from losskit.losses.smooth_l1 import SmoothL1Loss
from losskit.losses.soft_margin import SoftMarginLoss
from losskit.losses.triplet_margin import TripletMarginLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "TripletMarginLoss",
]


class _Package(ModuleType):
    """`losskit.losses()`, as earlier versions spelt `losskit.list_losses()`."""

    def __call__(self) -> dict[str, Any]:
        from losskit.registry import list_losses

        return list_losses()


sys.modules[__name__].__class__ = _Package
