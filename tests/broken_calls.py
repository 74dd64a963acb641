"""More broken losses: reductions and batches, inputs, execution, declarations; see broken_losses.py."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.nn.functional as F
from broken_losses import (
    CLASSES,
    FLAT,
    LABELS,
    MASKED,
    NUMBERS,
    WEIGHTED,
    T,
    X,
    _Squared,
    bce,
    broken,
    cross_entropy,
    mse,
)
from torch import Tensor, nn

import losskit
from losskit.formula import absolute, exp, log, log1p, where

# ---------------------------------------------------------------------------------------------------------
# Reductions and batches


class SumThatDivides(nn.Module):
    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        each = (input - target) ** 2
        if self.reduction == "none":
            return each
        return each.mean() if self.reduction == "mean" else each.sum() / len(input)


broken("reductions", NUMBERS, sound=nn.MSELoss)(SumThatDivides)


class HardCodedBatch(nn.Module):
    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        each = ((input - target) ** 2).sum(1)
        return {"none": each, "sum": each.sum(), "mean": each.sum() / 32}[self.reduction]


broken("reductions", NUMBERS, sound=nn.MSELoss)(HardCodedBatch)


@broken("shape", NUMBERS, sound=mse)
def mean_over_the_wrong_dimension(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2).mean(0)


@broken("rows", NUMBERS, sound=mse, warning=True)
def divides_by_a_constant(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2).sum() / 64


@broken("broadcast", (X[:, :1], T[:, 0]), sound=lambda input, target: mse(input.squeeze(1), target))
def a_column_and_a_row(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2).mean()


@broken("rows", NUMBERS, sound=lambda input, target: ((input.mean(1) - target.mean(1)) ** 2).mean())
def broadcasts_inside(input: Tensor, target: Tensor) -> Tensor:
    return ((input.mean(1, keepdim=True) - target.mean(1)) ** 2).mean()


@broken("rows", CLASSES, sound=lambda input, target: F.cross_entropy(input, target, torch.tensor([1.0, 2, 3])))
def class_weights_that_broadcast(input: Tensor, target: Tensor) -> Tensor:
    weight = torch.tensor([1.0, 2.0, 3.0], dtype=input.dtype)
    return (-input.log_softmax(1).gather(1, target[:, None]) * weight[target]).mean()


@broken("rows", CLASSES, sound=cross_entropy)
def softmax_over_the_batch(input: Tensor, target: Tensor) -> Tensor:
    return -input.log_softmax(0).gather(1, target[:, None]).mean()


@broken("sizes", FLAT, sound=mse)
def five_rows_alone(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2).view(5, -1).sum() / 5


@broken("permutation", FLAT, sound=mse)
def weighs_by_place(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2 * torch.linspace(1, 2, len(input), dtype=input.dtype)).mean()


@broken("empty", NUMBERS, sound=mse, warning=True)
def needs_a_first_row(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2).reshape(len(input), -1).mean(1).max(0).values


class StillCounts(nn.Module):
    def __init__(self, ignore_index: int = -100) -> None:
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        keep = target != self.ignore_index
        each = -input.log_softmax(1).gather(1, target.clamp(min=0)[:, None]).squeeze(1)
        return (each * keep).mean()


broken("masks", CLASSES, sound=nn.CrossEntropyLoss)(StillCounts)


@broken("masks", CLASSES, sound=lambda input, target: F.cross_entropy(input, target))
def ignored_rows_count(input: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(input, target, reduction="none").mean()


_SEEN: list[Tensor] = []


@broken("state", NUMBERS, sound=mse)
def mean_of_all_batches(input: Tensor, target: Tensor) -> Tensor:
    _SEEN.append(mse(input, target))
    return sum(_SEEN, torch.zeros(())) / len(_SEEN)


@broken("target_range", CLASSES, sound=lambda input, target: F.cross_entropy(input, target), warning=True)
def takes_minus_1(input: Tensor, target: Tensor) -> Tensor:
    return -input.log_softmax(1)[torch.arange(len(target)), target].mean()


@broken("masks", MASKED, sound=lambda input, target, mask: ((input - target)[mask] ** 2).mean())
def masked_elements_in_the_mean(input: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return ((input - target) ** 2 * mask).mean()


@broken("masks", MASKED, sound=lambda input, target, mask: ((input - target)[mask] ** 2).mean(), warning=True)
def nan_leaks_through_the_mask(input: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    return ((input - target) ** 2 * mask).sum() / mask.sum()


@broken("weights", WEIGHTED, sound=lambda input, target, weight: ((input - target) ** 2 * weight).mean())
def weights_applied_twice(input: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((input * weight - target * weight) ** 2).mean()


@broken("weights", WEIGHTED, sound=lambda input, target, weight: ((input - target) ** 2 * weight).mean())
def weights_ignored(input: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    return ((input - target) ** 2).mean() + 0.0 * weight.sum()


# ---------------------------------------------------------------------------------------------------------
# Inputs


@broken("layouts", NUMBERS, sound=mse)
def view_of_what_may_be_transposed(input: Tensor, target: Tensor) -> Tensor:
    return ((input.view(-1) - target.reshape(-1)) ** 2).mean()


@broken("in_place", NUMBERS, sound=mse)
def writes_into_the_target(input: Tensor, target: Tensor) -> Tensor:
    target.clamp_(-1.0, 1.0)
    return ((input - target) ** 2).mean()


@broken("in_place", NUMBERS, sound=mse)
def writes_into_the_input(input: Tensor, target: Tensor) -> Tensor:
    input -= target
    return (input**2).mean()


@broken("target_dtypes", (LABELS[0], LABELS[1].long()), sound=bce)
def signs_from_unsigned_labels(input: Tensor, target: Tensor) -> Tensor:
    return F.softplus(-(2 * target - 1) * input).mean()


@broken("broadcast", NUMBERS, sound=losskit.MSELoss, warning=True)
def takes_any_shapes(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2).mean()


# ---------------------------------------------------------------------------------------------------------
# Execution


@broken("determinism", NUMBERS, sound=mse)
def dropout_inside(input: Tensor, target: Tensor) -> Tensor:
    return (F.dropout(input - target, 0.5) ** 2).mean()


@broken("determinism", NUMBERS, sound=mse)
def seeds_the_generator(input: Tensor, target: Tensor) -> Tensor:
    torch.manual_seed(0)
    return ((input - target + 0.0 * torch.randn_like(input)) ** 2).mean()


@broken("determinism", NUMBERS, sound=mse)
def draws_rows(input: Tensor, target: Tensor) -> Tensor:
    i = random.randrange(len(input))
    return ((input[i] - target[i]) ** 2).mean()


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.0))

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        self.scale = 0.9 * self.scale + 0.1 * target.abs().mean().detach()
        return ((input - target) ** 2).mean() / self.scale


broken("state", NUMBERS, sound=nn.MSELoss)(Remembers)


class FirstTarget(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.size = None

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if self.size is None:
            self.size = target.abs().max().detach()
        return ((input - target) ** 2).mean() / self.size


broken("state", NUMBERS, sound=nn.MSELoss)(FirstTarget)


@broken("compile", NUMBERS, sound=mse, warning=True)
def branches_on_numbers(input: Tensor, target: Tensor) -> Tensor:
    d = (input - target).abs().mean()
    return d if d > 1 else d**2


@broken("export", NUMBERS, sound=mse, warning=True)
def branches_by_item(input: Tensor, target: Tensor) -> Tensor:
    scale = 2.0 if (input - target).abs().max().item() > 1 else 1.0
    return scale * ((input - target) ** 2).mean()


@broken("vmap", NUMBERS, sound=mse, warning=True)
def function_without_setup_context(input: Tensor, target: Tensor) -> Tensor:
    return _Squared.apply(input, target)


@broken("autocast", NUMBERS, sound=mse, warning=True)
def two_dtypes_under_autocast(input: Tensor, target: Tensor) -> Tensor:
    d = input - target
    each = torch.zeros_like(d[:, 0])
    return each.scatter_add(0, torch.arange(len(d), device=d.device), (d @ d.mT).diagonal()).mean()


class HoldsALambda(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f = lambda d: d**2

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.f(input - target).mean()


broken("pickling", NUMBERS, sound=nn.MSELoss, warning=True)(HoldsALambda)


class PlainAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.tensor([1.0, 2.0, 3.0])

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return (self.w * (input - target) ** 2).mean()


broken("devices", NUMBERS, sound=nn.MSELoss)(PlainAttribute)


@broken("devices", NUMBERS, sound=mse)
def makes_tensors_on_the_cpu(input: Tensor, target: Tensor) -> Tensor:
    return torch.maximum((input - target).abs(), torch.zeros(3)).mean()


@broken("modes", NUMBERS, sound=mse)
def another_value_without_a_gradient(input: Tensor, target: Tensor) -> Tensor:
    d = (input - target) ** 2
    return d.mean() if input.requires_grad else d.sum()


# ---------------------------------------------------------------------------------------------------------
# Declarations


@broken("gradient", ())
class WrongGradLoss(losskit.PointwiseLoss):
    """The logarithm of cosh, with a gradient that is no longer right where the residual is large."""

    @staticmethod
    def value(input: Any, target: Any) -> Any:
        return absolute(input - target) + log1p(exp(-2.0 * absolute(input - target)))

    @staticmethod
    def grad(input: Any, target: Any) -> Any:
        d = input - target
        return where(absolute(d) < 3.0, (1.0 - exp(-2.0 * d)) / (1.0 + exp(-2.0 * d)), d / 3.0)


@broken("facts", (), sound=losskit.MSELoss)
class NotConvexLoss(losskit.PointwiseLoss):
    """Declared convex, and is not."""

    facts = losskit.Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)

    @staticmethod
    def value(input: Any, target: Any) -> Any:
        d = input - target
        return d * d / (1.0 + d * d)


@broken("facts", (), sound=losskit.HuberLoss)
class NotLipschitzLoss(losskit.PointwiseLoss):
    """Declared with a slope of 1, and has 2."""

    facts = losskit.Facts(convex=True, smooth=False, lipschitz=1.0, minimum=0.0, symmetric=True)

    @staticmethod
    def value(input: Any, target: Any) -> Any:
        return 2.0 * absolute(input - target)


@broken("facts", (), sound=losskit.L1Loss)
class WrongMinimumLoss(losskit.PointwiseLoss):
    """Declared never below 0, and is at -1."""

    facts = losskit.Facts(convex=True, smooth=False, lipschitz=1.0, minimum=0.0, symmetric=True)

    @staticmethod
    def value(input: Any, target: Any) -> Any:
        return absolute(input - target) - 1.0


@broken("facts", (), sound=losskit.MSELoss)
class NotSymmetricLoss(losskit.PointwiseLoss):
    """Declared symmetric, and punishes what is too small twice."""

    facts = losskit.Facts(convex=True, smooth=False, lipschitz=2.0, minimum=0.0, symmetric=True)

    @staticmethod
    def value(input: Any, target: Any) -> Any:
        d = input - target
        return where(d < 0.0, -2.0 * d, d)


@broken("facts", (), sound=losskit.LogCoshLoss)
class NotSmoothLoss(losskit.PointwiseLoss):
    """Declared smooth, with a kink."""

    facts = losskit.Facts(convex=True, smooth=True, lipschitz=1.0, minimum=0.0, symmetric=True)

    @staticmethod
    def value(input: Any, target: Any) -> Any:
        return absolute(input - target)


@broken("cases", (), sound=losskit.MSELoss)
class WrongCaseLoss(losskit.PointwiseLoss):
    """A case whose number is not the loss."""

    cases = [losskit.Case(input=3.0, target=1.0, value=2.0, grad=4.0, source="by hand")]

    @staticmethod
    def value(input: Any, target: Any) -> Any:
        return (input - target) * (input - target)


@broken("precision", (), warning=True, sound=losskit.SoftMarginLoss)
class NaiveSoftplusLoss(losskit.PointwiseLoss):
    """A softplus whose small values are rounded away."""

    @staticmethod
    def value(input: Any, target: Any) -> Any:
        return log(1.0 + exp(-input * target))
