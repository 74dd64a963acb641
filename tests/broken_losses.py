"""Losses with one mistake each, as people make them, and the check of `losskit.audit` that must find it.

Each says the example that it is audited with and, where it is cheap to write, its sound twin: the same loss without the
mistake, which that check must not blame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


@broken("gradient", NUMBERS, sound=mse)
def returns_a_number(input: Tensor, target: Tensor) -> float:
    return ((input - target) ** 2).mean().item()


@broken("direction", CLASSES, sound=cross_entropy)
def classes_off_by_one(input: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(input, (target + 1) % 3)


@broken("floor", LABELS, sound=F.binary_cross_entropy_with_logits, warning=True)
def has_the_wrong_sign(input: Tensor, target: Tensor) -> Tensor:
    return -((2 * target - 1) * input).exp().mean()


@broken("floor", CLASSES, sound=cross_entropy, warning=True)
def scores_for_log_probabilities(input: Tensor, target: Tensor) -> Tensor:
    return F.nll_loss(input, target)


class Detaches(nn.Module):
    def __init__(self, detached: bool = True) -> None:
        super().__init__()
        self.log_variance, self.detached = nn.Parameter(torch.zeros(1)), detached

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        s = self.log_variance.detach() if self.detached else self.log_variance
        return (((input - target) ** 2) * torch.exp(-s) + s).mean()


broken("parameters", NUMBERS, sound=Detaches(False))(Detaches)


@broken("jumps", NUMBERS, sound=F.huber_loss)
def branches_that_do_not_meet(input: Tensor, target: Tensor) -> Tensor:
    d = (input - target).abs()
    return torch.where(d < 1, 0.5 * d**2, d).mean()


@broken("gradient", NUMBERS, sound=mse)
def rounds(input: Tensor, target: Tensor) -> Tensor:
    return ((input.round() - target) ** 2).mean()


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


@broken("special_points", LABELS, sound=lambda input, target: dice(input, target, 1.0))
def dice(input: Tensor, target: Tensor, smooth: float = 0.0) -> Tensor:
    p = input.sigmoid()
    return 1 - (2 * (p * target).sum() + smooth) / ((p + target).sum() + smooth)


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


@broken("labels", LABELS, sound=lambda input, target: F.relu(1 - (2 * target - 1) * input).mean(), warning=True)
def hinge_of_labels_0_and_1(input: Tensor, target: Tensor) -> Tensor:
    return F.relu(1 - target * input).mean()


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
