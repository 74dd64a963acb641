"""The denominators of means over several steps and ranks: what a batch counts, and what all of them count together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from losskit.errors import error
from losskit.families.class_scores import ClassScoresLoss
from losskit.families.pointwise import PointwiseLoss
from losskit.layers.linear import LinearLoss
from losskit.layers.linear_cross_entropy import LinearCrossEntropyLoss
from losskit.losses.cross_entropy import CrossEntropyLoss
from losskit.plan import Arguments
from losskit.reduction import denominator
from losskit.validation import check_extras, check_tensor


def count(criterion: Any, target: Tensor, *, sample_weight: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """What a mean of a loss divides by: the losses that count, or the sum of their weights.

    Choose it to know the denominator before the model runs, for `losskit.normalizer`: gradients that are accumulated
    over micro-batches, or averaged over ranks, are those of the whole batch only if all divide by the same number.
    Prefer reduction="mean" alone where a step is one batch on one rank.

    Args:
        criterion: A loss of elements or of class scores, or `losskit.linear` of one.
        target: Its targets, as a call takes them.
        sample_weight: Weight of each unreduced loss; broadcasts to it.
        mask: Boolean, True = counts; broadcasts to the unreduced loss.

    Returns:
        A scalar of float64, on the device of the target.

    Raises:
        TypeError: The loss is neither of elements nor of class scores, or its mean depends on more than the target.
        ValueError: The weights or the mask do not broadcast.

    Example:
        >>> import torch, losskit
        >>> losskit.count(losskit.CrossEntropyLoss(ignore_index=-100), torch.tensor([2, 0, -100, -100]))
        tensor(2., dtype=torch.float64)
    """
    criterion = _of_scores(criterion)
    name = getattr(type(criterion), "name", type(criterion).__name__)
    check_tensor(name, "target", target, "target", target)
    weight = getattr(criterion, "weight", None)
    if isinstance(criterion, ClassScoresLoss) and criterion.targets:
        soft = target.is_floating_point()
        of_rows = target.shape[:1] + target.shape[2:] if target.ndim > 1 else torch.Size()
        shape = of_rows if soft else target.shape
    elif isinstance(criterion, PointwiseLoss) and criterion.counts is None:
        shape = target.shape[:-1] if criterion._composed() else target.shape
    else:
        raise error("parameter_type", loss="count", argument="criterion", got=name, hint="",
                    expected="a loss of elements or class scores whose mean depends on the target alone")  # fmt: skip
    plan = criterion._planned(*(True for _ in criterion._optional_operands()))
    check_extras(plan, target, shape, None, (), sample_weight, mask, None)
    weights, kept = plan.counted(Arguments([target, target], weight, sample_weight, mask, None))
    wide = torch.float32 if target.device.type == "mps" else torch.float64
    like = torch.empty((), dtype=wide, device=target.device)
    of_class = weights[0] if weights else None
    return denominator(shape, like, weight=of_class, sample_weight=sample_weight, mask=kept).detach()


def _of_scores(criterion: Any) -> Any:
    """The loss of scores that a loss of features has."""
    if isinstance(criterion, LinearLoss):
        return criterion.criterion
    if isinstance(criterion, LinearCrossEntropyLoss):
        ignored = -100 if criterion.ignore_index is None else criterion.ignore_index
        return CrossEntropyLoss(weight=criterion.weight, ignore_index=ignored)
    return criterion


def normalizer(*counts: Tensor, group: Any = None, averaged: bool = True) -> Tensor:
    """The `normalizer` that makes the losses of several micro-batches and ranks add up to the mean over all of them.

    Choose it with gradient accumulation and with data-parallel training where batches do not count alike: padding,
    masks, `ignore_index`, class weights. Every rank must call it, and equally often.
    Prefer reduction="mean" alone on one rank without accumulation.

    Args:
        counts: What each micro-batch of this rank counts, see `losskit.count`.
        group: The process group of the ranks that share the batch; None: all of them, or this process alone.
        averaged: Whether the gradients are averaged over the ranks, as DistributedDataParallel and FSDP do, and not
            added up.

    Returns:
        A scalar: the sum of the counts over all ranks, divided by the number of ranks if they average.

    Raises:
        TypeError: There is no count.

    Example:
        >>> import torch, losskit
        >>> losskit.normalizer(torch.tensor(7.0), torch.tensor(3.0))  # one process, two micro-batches
        tensor(10.)
    """
    if not counts:
        raise error("arguments", loss="normalizer", problem="needs at least one count", hint=" See losskit.count.")
    total = torch.stack([torch.as_tensor(x).detach() for x in counts]).sum()
    if not (dist.is_available() and dist.is_initialized()):
        return total
    dist.all_reduce(total, group=group)
    return total / dist.get_world_size(group) if averaged else total
