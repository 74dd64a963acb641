"""Losses for trainers that compute their own: what transformers.Trainer takes as `compute_loss_func`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from losskit.losses.cross_entropy import CrossEntropyLoss


def compute_loss_func(criterion: Any = None, *, shift: bool = True, ignore_index: int = -100) -> Callable[..., Tensor]:
    """A loss of class scores as `transformers.Trainer(compute_loss_func=...)` takes it.

    Choose it to train a model of transformers with another loss than its own: focal, smoothed, weighted. With
    accumulated gradients the mean is over the labels of all micro-batches, as the Trainer counts them.
    Prefer the model's own loss under `losskit.accelerate()` where cross entropy is what you want.

    Args:
        criterion: A loss of class scores, for example `losskit.SoftmaxFocalLoss(gamma=2.0)`; None: cross entropy.
        shift: Whether the scores of a token are for the next one, as in causal language models.
        ignore_index: The label of tokens that do not count.

    Returns:
        A function of the model's outputs, the labels, and the number of labels of all micro-batches.

    Example:
        >>> import torch, losskit
        >>> loss = losskit.compute_loss_func(losskit.SoftmaxFocalLoss(), shift=False)
        >>> loss({"logits": torch.zeros(2, 3)}, torch.tensor([0, -100]))
        tensor(0.4883)
    """
    loss = CrossEntropyLoss(ignore_index=ignore_index) if criterion is None else criterion

    def computed(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        scores = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        if shift:
            labels = pad(labels[..., 1:], (0, 1), value=ignore_index)
        rows, target = scores.flatten(0, -2), labels.flatten()
        counts = target != ignore_index
        return loss(rows, target.where(counts, 0), mask=counts, normalizer=num_items_in_batch)

    return computed
