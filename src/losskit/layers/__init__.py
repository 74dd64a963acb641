"""Losses that are no declaration of one formula: layers with a loss, and triplets under any distance."""

from losskit.layers.adaptive_log_softmax import AdaptiveLogSoftmaxWithLoss
from losskit.layers.linear import LinearLoss
from losskit.layers.linear_cross_entropy import LinearCrossEntropyLoss
from losskit.layers.triplet_margin_with_distance import TripletMarginWithDistanceLoss

__all__ = ["AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss", "LinearLoss", "TripletMarginWithDistanceLoss"]
