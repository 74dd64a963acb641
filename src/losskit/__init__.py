"""losskit: the loss layer for PyTorch. Exact, fused, checked, explained, and one declaration per loss."""

from typing import TYPE_CHECKING, NoReturn

from losskit import functional, layers, losses, testing
from losskit.acceleration import accelerate
from losskit.acceleration.trainers import compute_loss_func
from losskit.advice import advise
from losskit.audit import audit
from losskit.autopsy import autopsy
from losskit.declaration import Case, Deviation, Operand, Peer, param
from losskit.denominators import count, normalizer
from losskit.describe import explain, plot
from losskit.distances import distance_field, signed_distance
from losskit.domains import Interval, nonnegative, positive, probability, real, signs
from losskit.errors import (
    DeclarationError,
    LossError,
    LossIndexError,
    LossTypeError,
    LossValueError,
    SpaceWarning,
    WatchWarning,
)
from losskit.facts import Facts
from losskit.families.class_scores import ClassScoresLoss
from losskit.families.composed import ComposedLoss
from losskit.families.embeddings import EmbeddingsLoss
from losskit.families.lists import ListsLoss
from losskit.families.margins import MarginsLoss
from losskit.families.ordered import OrderedLoss
from losskit.families.pairs import PairsLoss
from losskit.families.pointwise import PointwiseLoss
from losskit.families.regions import RegionsLoss
from losskit.families.two_rows import TwoRowsLoss
from losskit.helpers import class_balanced_weights, gather_rows, soft_cap, top_k_scores
from losskit.kernels.dispatch import why
from losskit.kernels.gpu import last_violation
from losskit.layers import *  # noqa: F403
from losskit.layers.linear import linear
from losskit.loss import Loss
from losskit.losses import *  # noqa: F403
from losskit.policy import checks, empty
from losskit.registry import create, get, list_losses, missing
from losskit.sums import WeightedSum
from losskit.watching import watch

__version__ = "0.1.0"


if not TYPE_CHECKING:  # a type checker would take any attribute

    def __getattr__(name: str) -> NoReturn:
        raise missing(__name__, name)


__all__ = [
    "Case",
    "ClassScoresLoss",
    "ComposedLoss",
    "DeclarationError",
    "Deviation",
    "EmbeddingsLoss",
    "Facts",
    "Interval",
    "ListsLoss",
    "Loss",
    "LossError",
    "LossIndexError",
    "LossTypeError",
    "LossValueError",
    "MarginsLoss",
    "Operand",
    "OrderedLoss",
    "PairsLoss",
    "Peer",
    "PointwiseLoss",
    "RegionsLoss",
    "SpaceWarning",
    "TwoRowsLoss",
    "WatchWarning",
    "WeightedSum",
    "accelerate",
    "advise",
    "audit",
    "autopsy",
    "checks",
    "class_balanced_weights",
    "compute_loss_func",
    "count",
    "create",
    "distance_field",
    "empty",
    "explain",
    "functional",
    "gather_rows",
    "get",
    "last_violation",
    "linear",
    "list_losses",
    "nonnegative",
    "normalizer",
    "param",
    "plot",
    "positive",
    "probability",
    "real",
    "signed_distance",
    "signs",
    "soft_cap",
    "testing",
    "top_k_scores",
    "watch",
    "why",
]
__all__ += losses.__all__
__all__ += layers.__all__
