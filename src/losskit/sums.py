"""Sums of losses: `2.0 * DiceLoss() + CrossEntropyLoss()` is a loss.

Parts are not fused: each keeps its own reduction and its own denominator.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from losskit.errors import error
from losskit.kernels.torch_internals import hidden

Weight = float | Tensor | Callable[[int], float]


class Summand(nn.Module):
    """A loss that can be multiplied by a weight and added to others."""

    def __mul__(self, weight: Any) -> WeightedSum:
        if not (isinstance(weight, int | float | Tensor) or callable(weight)):
            return NotImplemented
        return WeightedSum([self], [weight])

    __rmul__ = __mul__

    def __add__(self, other: Any) -> WeightedSum:
        if not isinstance(other, nn.Module):
            return NotImplemented
        return WeightedSum([self, other])

    def __radd__(self, other: Any) -> Any:
        if isinstance(other, int) and other == 0:  # where `sum` begins
            return self
        return WeightedSum([other, self]) if isinstance(other, nn.Module) else NotImplemented


class WeightedSum(Summand):
    """The sum of losses, each times a weight; `2.0 * a + b` makes one.

    Choose it for objectives of several terms: a region loss beside cross entropy, a penalty beside a likelihood.
    Prefer one loss, if one says what you want: every weight is a number that somebody has to find.

    Args:
        losses: Losses of losskit, or any modules that are called like them.
        weights: One for each: a number, a tensor of one element (an `nn.Parameter` is learned with the model), or a
            function of the step that gives a number, see `step`. None: all 1.
        uncertainty: Learn the weights: each loss L has a log-variance s, and counts exp(-s) L / 2 + s / 2 where it is a
            regression, exp(-s) L + s / 2 elsewhere. The parameter `log_variances` must go to the optimizer. Losses
            must not be negative, or s falls without an end.
        operands: For each part what its operands are called here, where two parts mean different things by one name:
            `[{"target": "teacher"}, {}]` for a distillation beside a loss of labels. None: as the parts call them.

    Called with the operands of all parts, in the order in which parts name them first, and by keyword with what parts
    take: `mask`, `sample_weight`, `normalizer`. A part gets the operands that it names: `CrossEntropyLoss() + ZLoss()`
    takes `input` and `target`, of which ZLoss gets the first.

    Attributes:
        losses: The parts, a ModuleList.
        parts: The value of each part in the last call, without weight and gradient, by the name of its function. Empty
            under torch.compile and torch.func.
        steps: How often `step` was called.

    Raises:
        TypeError: A part is no module, or a weight is none of the above.
        ValueError: The parts have losses of different shapes, or operands are missing.

    Reference:
        Kendall, A., Gal, Y. and Cipolla, R. (2018). Multi-task learning using uncertainty to weigh losses for scene
        geometry and semantics. CVPR. arXiv:1705.07115.

    Example:
        >>> import torch, losskit
        >>> criterion = losskit.MSELoss() + 0.5 * losskit.L1Loss()
        >>> criterion(torch.tensor([3.0]), torch.tensor([1.0]))
        tensor(5.)
        >>> criterion.parts
        {'mse_loss': tensor(4.), 'l1_loss': tensor(2.)}
    """

    name = "weighted_sum"

    def __init__(
        self, losses: Iterable[nn.Module], weights: Sequence[Weight] | None = None, *, uncertainty: bool = False,
        operands: Sequence[Mapping[str, str]] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        given = list(losses)
        factors: list[Any] = [1.0] * len(given) if weights is None else list(weights)
        renamed = [dict[str, str]()] * len(given) if operands is None else list(operands)
        for argument, got in (("weights", len(factors)), ("operands", len(renamed))):
            if got != len(given) or not given:
                expected = f"one for each of {len(given)} losses"
                raise error("parameter", loss=self.name, argument=argument, expected=expected, got=got, hint="")
        self.losses = nn.ModuleList()
        self.weights: list[float | Callable[[int], float] | None] = []  # None: a tensor
        self.uncertainty, self.steps = bool(uncertainty), 0
        self.parts: dict[str, Tensor] = {}
        self._taken: list[list[str]] = []  # the operands of each part, as they are called here
        for loss, weight, names in zip(given, factors, renamed, strict=True):
            self._take(loss, weight, names)
        if self.uncertainty:
            self.log_variances = nn.Parameter(torch.zeros(len(self.losses)))
        self._names = _named(self.losses)

    def _take(self, loss: Any, weight: Any, names: Mapping[str, str]) -> None:
        """One more part; a sum of numbers times losses becomes its parts."""
        if not isinstance(loss, nn.Module):
            told = f"the class {loss.__name__}" if isinstance(loss, type) else type(loss).__name__
            raise error("parameter_type", loss=self.name, argument="losses", expected="losses", got=told, hint="")
        if not _is_weight(weight):
            raise error("parameter_type", loss=self.name, argument="weights", got=repr(weight), hint="",
                        expected="a finite number, a tensor of one element or a function of the step")  # fmt: skip
        number = isinstance(weight, int | float)
        if isinstance(loss, WeightedSum) and not loss.uncertainty and number:
            known = loss._weights()
            if weight == 1 or all(isinstance(own, float) for own in known):
                for part, own, taken in zip(loss.losses, known, loss._taken, strict=True):
                    called = dict(zip(operands_of(part), [names.get(name, name) for name in taken], strict=True))
                    self._take(part, own if weight == 1 else own * weight, called)
                return
        own_names = operands_of(loss)
        unknown = [name for name in names if name not in own_names]
        if unknown:
            expected = f"names of operands of {type(loss).__name__}, which are {', '.join(own_names)}"
            raise error("parameter", loss=self.name, argument="operands", expected=expected, got=unknown[0], hint="")
        self._taken.append([names.get(name, name) for name in own_names])
        if isinstance(weight, nn.Parameter):
            self.register_parameter(f"weight_{len(self.losses)}", weight)
        elif isinstance(weight, Tensor):
            self.register_buffer(f"weight_{len(self.losses)}", weight)
        self.weights.append(None if isinstance(weight, Tensor) else float(weight) if number else weight)
        self.losses.append(loss)

    def _weights(self) -> list[Any]:
        """The weights as they were given."""
        return [getattr(self, f"weight_{i}") if x is None else x for i, x in enumerate(self.weights)]

    def step(self) -> None:
        """Count a step, whose number weights that are functions take. Call it beside the optimizer's."""
        self.steps += 1
        for loss in self.losses:
            if isinstance(loss, WeightedSum):
                loss.step()

    def weight_of(self, number: int) -> float | Tensor:
        """The weight of a part at this step; of learned ones what multiplies the loss."""
        weight = self.weights[number]
        if weight is None:
            own: float | Tensor = getattr(self, f"weight_{number}").reshape(())
        else:
            own = float(weight(self.steps)) if callable(weight) else weight
        if not self.uncertainty:
            return own
        half = 0.5 if getattr(self.losses[number], "task", "") == "regression" else 1.0
        return own * half * torch.exp(-self.log_variances[number])

    def _call_operands(self) -> list[str]:
        """The operands of all parts, in the order in which they are named."""
        return list(dict.fromkeys(name for names in self._taken for name in names))

    def forward(self, *operands: Any, **extras: Any) -> Tensor:
        names = self._call_operands()
        if len(operands) != len(names):
            raise error("by_keyword", loss=self.name, got=len(operands), expected=", ".join(names))
        given = dict(zip(names, operands, strict=True))
        parts = zip(self.losses, self._taken, strict=True)
        losses = [loss(*(given[name] for name in taken), **extras) for loss, taken in parts]
        shapes = {tuple(x.shape) for x in losses}
        if len(shapes) > 1:
            told = (f"{name} {tuple(x.shape)}" for name, x in zip(self._names, losses, strict=True))
            raise error("sum_shapes", loss=self.name, got=", ".join(told))
        if not hidden(losses[0]):
            self.parts = {name: x.detach() for name, x in zip(self._names, losses, strict=True)}
        terms = [self.weight_of(i) * x for i, x in enumerate(losses)]
        if self.uncertainty:
            terms.append(0.5 * self.log_variances.sum())
        total = terms[0]
        for term in terms[1:]:
            total = total + term
        return total

    def extra_repr(self) -> str:
        told = [f"weight_{i}" if x is None else getattr(x, "__name__", f"{x}") for i, x in enumerate(self.weights)]
        return f"weights=[{', '.join(told)}]{', uncertainty=True' if self.uncertainty else ''}"

    def _counts(self) -> bool:
        return any(callable(weight) for weight in self.weights)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._counts():  # else a checkpoint of other losses would lack it
            destination[f"{prefix}steps"] = torch.tensor(self.steps)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str],
        unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        lists = missing_keys, unexpected_keys, error_msgs
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, *lists)
        if self._counts() and f"{prefix}steps" in state_dict:
            self.steps = int(state_dict[f"{prefix}steps"])
            unexpected_keys[:] = [key for key in unexpected_keys if key != f"{prefix}steps"]

    def config(self) -> dict[str, Any]:
        """The sum as a dict that `losskit.create` turns back into it. Weights that are functions have none."""
        if self._counts():
            raise error("parameter_type", loss="config", argument="weights", got="a function of the step", hint="",
                        expected="numbers or tensors")  # fmt: skip
        configs = [cast(Any, loss).config() for loss in self.losses]
        named = zip(self.losses, self._taken, strict=True)
        operands = [{a: b for a, b in zip(operands_of(x), taken, strict=True) if a != b} for x, taken in named]
        config = {"name": self.name, "losses": configs, "weights": self._weights(), "uncertainty": self.uncertainty}
        return config | ({"operands": operands} if any(operands) else {})


def operands_of(loss: Any) -> list[str]:
    """The operands of a call of a loss, or of any module, by name."""
    own = getattr(loss, "_call_operands", None)
    if own is not None:
        found: list[str] = own()
        return found
    taken = inspect.signature(loss.forward).parameters.values()
    return [x.name for x in taken if x.default is x.empty and x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)]


def _named(losses: Iterable[nn.Module]) -> list[str]:
    """A name for each part, also where several are of one kind."""
    kinds: list[str] = []
    names: list[str] = []
    for loss in losses:
        kinds.append(str(getattr(loss, "name", type(loss).__name__)))
        same = kinds.count(kinds[-1])
        names.append(kinds[-1] if same == 1 else f"{kinds[-1]}_{same}")
    return names


def _is_weight(x: Any) -> bool:
    if isinstance(x, Tensor):
        return x.numel() == 1 and x.is_floating_point()
    if isinstance(x, int | float) and not isinstance(x, bool):
        return math.isfinite(x)
    return callable(x) and not isinstance(x, nn.Module | type)
