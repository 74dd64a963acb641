"""Scores and lists of targets for losses of margins, and ways to call them."""

from __future__ import annotations

from typing import Any

import torch

from losskit.losses.multi_margin import MultiMarginLoss
from losskit.losses.multilabel_margin import MultiLabelMarginLoss

multi = MultiMarginLoss.functional
multilabel = MultiLabelMarginLoss.functional
HALVES = (torch.float16, torch.bfloat16)
WIDE = (torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
NAN, INF = float("nan"), float("inf")
SHAPES = [(1, 1), (1, 2), (3, 5), (120, 10), (5, 513), (3, 1024), (2, 1025), (2, 2500), (300, 17)]


def scores(shape, dtype, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)


def lists(rows, classes, seed=0):
    """Lists of targets of all lengths, with repetitions, garbage after their end."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (rows, classes), generator=generator)
    for row in range(rows):
        length = row % (min(classes, 12) + 1)
        if length < classes:
            target[row, length] = -1
            target[row, length + 1 :] = torch.randint(-99, 99, (classes - length - 1,), generator=generator)
    return target


def torch_lists(target):
    """The same without the garbage, at which torch does look."""
    return torch.where((target == -1).cumsum(1) > 0, -1, target)


def eagerly(loss, *operands, weight=None, sample_weight=None, mask=None, normalizer=None, checks="raise"):
    plan = loss._planned()
    return plan.eager(plan.validated(operands, weight, sample_weight, mask, normalizer), checks)


def with_gradient(function, input, *rest, upstream=None, **extras):
    leaf = input.detach().requires_grad_()
    result = function(leaf, *rest, **extras)
    upstream = torch.ones_like(result) if upstream is None else upstream
    return result.detach(), torch.autograd.grad(result, leaf, upstream)[0]


# ---------------------------------------------------------------------------------------------------------
# Rules of the house


CALLS: dict[str, Any] = {
    "multi": (MultiMarginLoss, lambda rows, classes: torch.arange(rows) * 5 % classes),
    "multilabel": (MultiLabelMarginLoss, lists),
}
