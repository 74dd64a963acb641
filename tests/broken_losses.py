"""Losses with one mistake each, as people make them, and the check of `losskit.audit` that must find it.

Each says the example that it is audited with and, where it is cheap to write, its sound twin: the same loss without the
mistake, which that check must not blame.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import losskit
from losskit.formula import absolute, exp, log1p, where

_G = torch.Generator().manual_seed(0)
X, T = torch.randn(4, 3, generator=_G), torch.randn(4, 3, generator=_G)
NUMBERS = (X, T)
FLAT = (torch.randn(5, generator=_G), torch.randn(5, generator=_G))
CLASSES = (X, torch.tensor([0, 2, 1, 2]))
LABELS = (torch.randn(5, generator=_G), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0]))
UNIT = (torch.rand(5, generator=_G) * 0.8 + 0.1, LABELS[1])
PAIRS = (X, torch.randn(4, 3, generator=_G))
MASKED = (*FLAT, torch.tensor([True, True, False, True, False]))
WEIGHTED = (*FLAT, torch.rand(5, generator=_G) + 0.5)


@dataclass(frozen=True)
class Broken:
    """A broken loss: its name, itself, the example, the check that must find it, how badly, and its sound twin."""

    name: str
    loss: Any
    example: tuple[Any, ...]
    check: str
    verdicts: tuple[str, ...]
    sound: Any

    def __str__(self) -> str:
        return self.name


BROKEN: list[Broken] = []


def broken(check: str, example: tuple[Any, ...], *, sound: Any = None, warning: bool = False) -> Callable[[Any], Any]:
    """Register a broken loss; `warning` where the mistake is fragility and no wrong result."""

    def register(loss: Any) -> Any:
        verdicts = ("fault", "warning") if warning else ("fault",)
        BROKEN.append(Broken(loss.__name__, loss, example, check, verdicts, sound))
        return loss

    return register


def mse(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2).mean()


def bce(input: Tensor, target: Tensor) -> Tensor:
    return (F.softplus(input) - input * target).mean()


def cross_entropy(input: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(input, target)


# ---------------------------------------------------------------------------------------------------------
# Derivatives


class _Squared(torch.autograd.Function):
    """The squared error, right."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(input, target)
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, target = ctx.saved_tensors
        return grad_output * 2 * (input - target) / input.numel(), None


def written(input: Tensor, target: Tensor) -> Tensor:
    return _Squared.apply(input, target)


class _Half(_Squared):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, target = ctx.saved_tensors
        return grad_output * (input - target) / input.numel(), None


@broken("gradient", NUMBERS, sound=written)
def wrong_factor(input: Tensor, target: Tensor) -> Tensor:
    return _Half.apply(input, target)


class _Deaf(_Squared):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, target = ctx.saved_tensors
        return 2 * (input - target) / input.numel(), None


@broken("grad_output", NUMBERS, sound=written)
def ignores_grad_output(input: Tensor, target: Tensor) -> Tensor:
    return _Deaf.apply(input, target)


class _Stored(_Squared):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor) -> Tensor:
        d = input - target
        ctx.slope = 2 * d.detach() / input.numel()
        return (d**2).mean()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return grad_output * ctx.slope, None


@broken("second_derivative", NUMBERS, sound=written)
def gradient_from_forward(input: Tensor, target: Tensor) -> Tensor:
    return _Stored.apply(input, target)


class _OnceOnly(_Stored):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return ctx.slope.mul_(grad_output), None


@broken("retain_graph", NUMBERS, sound=written)
def scales_what_it_saved(input: Tensor, target: Tensor) -> Tensor:
    return _OnceOnly.apply(input, target)


class _Writes(_Squared):
    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, target = ctx.saved_tensors
        return grad_output.mul_(2.0) * (input - target) / input.numel(), None


@broken("retain_graph", NUMBERS, sound=written)
def writes_into_grad_output(input: Tensor, target: Tensor) -> Tensor:
    return _Writes.apply(input, target)


class _Attribute(_Squared):
    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor) -> Tensor:
        ctx.input, ctx.target = input, target
        return ((input - target) ** 2).mean()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        return grad_output * 2 * (ctx.input - ctx.target) / ctx.input.numel(), None


@broken("kept_operands", NUMBERS, sound=written, warning=True)
def keeps_the_target_by_reference(input: Tensor, target: Tensor) -> Tensor:
    return _Attribute.apply(input, target)


@broken("gradient", LABELS, sound=bce)
def focal_with_a_detached_part(input: Tensor, target: Tensor) -> Tensor:
    p = torch.sigmoid(input)
    return ((1 - (p.detach() * target + (1 - p.detach()) * (1 - target))) ** 2
            * F.binary_cross_entropy_with_logits(input, target, reduction="none")).mean()  # fmt: skip


@broken("gradient", NUMBERS, sound=mse)
def through_item(input: Tensor, target: Tensor) -> Tensor:
    return torch.tensor(((input - target) ** 2).mean().item(), requires_grad=True)


@broken("gradient", NUMBERS, sound=mse)
def through_numpy(input: Tensor, target: Tensor) -> Tensor:
    return torch.as_tensor(numpy.mean((input.detach().numpy() - target.numpy()) ** 2))


@broken("gradient", CLASSES, sound=cross_entropy)
def accuracy_as_a_loss(input: Tensor, target: Tensor) -> Tensor:
    return 1.0 - (input.argmax(1) == target).double().mean()


class _Tail(torch.autograd.Function):
    """Huber's loss, whose gradient forgets the clamp of the tail."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(input, target)
        return F.huber_loss(input, target, delta=5.0)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, target = ctx.saved_tensors
        return grad_output * (input - target) / input.numel(), None


@broken("gradient", NUMBERS, sound=lambda input, target: F.huber_loss(input, target, delta=5.0))
def wrong_in_the_tail_alone(input: Tensor, target: Tensor) -> Tensor:
    return _Tail.apply(input, target)


class _Curved(torch.autograd.Function):
    """The gradient is right, its own derivative is not."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(input, target)
        return ((input - target) ** 4).sum()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Any:
        input, target = ctx.saved_tensors
        return grad_output * 4 * (input - target).detach() ** 2 * (input - target), None


@broken("second_derivative", NUMBERS, sound=lambda input, target: ((input - target) ** 4).sum())
def wrong_second_derivative(input: Tensor, target: Tensor) -> Tensor:
    return _Curved.apply(input, target)


@broken("direction", NUMBERS, sound=mse)
def wrong_sign(input: Tensor, target: Tensor) -> Tensor:
    return -((input - target) ** 2).mean()


# ---------------------------------------------------------------------------------------------------------
# Numbers


def focal(input: Tensor, target: Tensor) -> Tensor:
    z = torch.where(target > 0, input, -input)
    return -(torch.sigmoid(-z) ** 2 * F.logsigmoid(z)).mean()


@broken("scales", LABELS, sound=focal)
def focal_with_the_logarithm_of_0(input: Tensor, target: Tensor) -> Tensor:
    p = torch.sigmoid(input)
    return -(target * (1 - p) ** 2 * p.log() + (1 - target) * p**2 * (1 - p).log()).mean()


@broken("scales", LABELS, sound=lambda input, target: F.softplus(-(2 * target - 1) * input).mean())
def overflows_in_exp(input: Tensor, target: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(-(2 * target - 1) * input)).mean()


@broken("scales", CLASSES)
def softmax_without_its_largest(input: Tensor, target: Tensor) -> Tensor:
    e = input.exp()
    return -(e.gather(1, target[:, None]) / e.sum(1, keepdim=True)).log().mean()


@broken("scales", LABELS, sound=lambda input, target: -F.logsigmoid((2 * target - 1) * input).mean(), warning=True)
def loses_digits_in_1_minus_p(input: Tensor, target: Tensor) -> Tensor:
    p = torch.sigmoid((2 * target - 1) * input)
    return (1 - p).mean()


@broken("special_points", NUMBERS, sound=lambda input, target: (input - target).pow(2).sum(1).add(1e-6).sqrt().mean())
def root_of_0(input: Tensor, target: Tensor) -> Tensor:
    return (input - target).pow(2).sum(1).sqrt().mean()


@broken("special_points", PAIRS, sound=lambda a, b: (1 - F.cosine_similarity(a, b)).mean())
def cosine_of_a_zero_vector(a: Tensor, b: Tensor) -> Tensor:
    return (1 - (a * b).sum(1) / (a.pow(2).sum(1) * b.pow(2).sum(1)).sqrt()).mean()


@broken("special_points", UNIT, sound=lambda input, target: F.binary_cross_entropy(input, target))
def zero_times_the_logarithm_of_0(input: Tensor, target: Tensor) -> Tensor:
    return -(target * input.log() + (1 - target) * (1 - input).log()).mean()


@broken("scales", UNIT, warning=True)
def an_epsilon_that_vanishes(input: Tensor, target: Tensor) -> Tensor:
    return -(target * (input + 1e-12).log() + (1 - target) * (1 - input + 1e-12).log()).mean()


@broken("pull", LABELS, sound=bce, warning=True)
def clamp_kills_the_gradient(input: Tensor, target: Tensor) -> Tensor:
    p = torch.sigmoid(input).clamp(1e-7, 1 - 1e-7)
    return -(target * p.log() + (1 - target) * (1 - p).log()).mean()


@broken("pull", CLASSES, sound=cross_entropy, warning=True)
def softmax_twice(input: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(input.softmax(1), target)


@broken("dtypes", NUMBERS, sound=mse)
def promotes_to_float64(input: Tensor, target: Tensor) -> Tensor:
    return ((input - target) ** 2 * torch.ones(3, dtype=torch.float64)).mean()


@broken("dtypes", NUMBERS, sound=mse, warning=True)
def float32_alone(input: Tensor, target: Tensor) -> Tensor:
    return torch.dot((input - target).reshape(-1), torch.ones(input.numel())) ** 2


@broken("nan_in", NUMBERS, sound=mse, warning=True)
def swallows_nan(input: Tensor, target: Tensor) -> Tensor:
    return torch.nan_to_num((input - target) ** 2).mean()


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
