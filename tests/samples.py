"""Arguments for every loss, made from its declaration: domains give the operands, its proof the parameters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import proofs
import torch

import losskit
from losskit import PointwiseLoss

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Setup:
    """A loss with parameters, ready to be given operands."""

    loss: type[PointwiseLoss]
    params: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.loss.name, *(f"{k}={v}" for k, v in self.params.items())])

    def operands(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> list[torch.Tensor]:
        """Random operands inside their domains, at ordinary scale; the same numbers on every device."""
        generator, device = torch.Generator().manual_seed(seed), torch.get_default_device()
        return [self.domain(name).sample(shape, generator).to(device, dtype) for name in self.names]

    @property
    def names(self) -> list[str]:
        """The operands of the call: all, but an optional one that is None in the parameters."""
        return [name for name in self.loss._call_operands() if self.params.get(name, 0) is not None]

    def setting(self, name: str) -> Any:
        """The value of a parameter; numbers stand for tensor parameters that are there. Of an operand, whether it is."""
        if name not in self.loss.params:
            return name in self.names
        declared = self.loss.params[name]
        value = self.params.get(name, declared.default)
        return value is not None if declared.kind == "tensor" else value

    @property
    def formula(self) -> Any:
        """The traced formula that the switches select."""
        params = self.loss.params
        own = {name: self.setting(name) for name in self.loss._switches()}
        return self.loss._formulas[tuple(params[k].setting(x) if k in params else x for k, x in own.items())]

    def domain(self, operand: str) -> Any:
        declared = self.loss.operands[operand]
        return losskit.real if declared.unless and self.setting(declared.unless) else declared.domain

    def kwargs(self, like: torch.Tensor | None = None) -> dict[str, Any]:
        """Parameters as keyword arguments; numbers for tensor parameters become tensors of the dtype of `like`."""
        result = {}
        for name, value in self.params.items():
            if name not in self.loss.params:
                continue
            if self.loss.params[name].kind == "tensor" and like is not None:
                value = torch.full(like.shape[-1:], value, dtype=like.dtype, device=like.device)
            result[name] = value
        return result

    def __call__(self, *operands: torch.Tensor, **extra: Any) -> torch.Tensor:
        return self.loss.functional(*operands, **self.kwargs(operands[0]), **extra)


def built_in() -> list[type[PointwiseLoss]]:
    """The built-in losses of single elements; those of rows have files of tests of their own."""
    found = losskit.list_losses().values()
    return [cls for cls in found if cls.__module__.startswith("losskit.") and not of_rows(cls)]


def of_rows(cls: type[losskit.Loss]) -> bool:
    """Whether the loss of a row is more than that of alike elements: another family, components, a sum, parameters."""
    required = any(p.required for p in cls.params.values())
    return not issubclass(cls, PointwiseLoss) or cls._composed() or cls.rows == "sum" or required


def stopped(cls: type[losskit.Loss]) -> bool:
    """Whether the gradient is not that of the value, since part of the value is a constant for differentiation."""
    if issubclass(cls, losskit.ComposedLoss):
        return cls.stopped
    if issubclass(cls, losskit.PairsLoss):
        return any(formula.stopped for formula in [*cls._compiled_formulas(), *cls._terms().values()])
    return getattr(cls, "_of_formula", False) and any(formula.stopped for formula in cls._compiled_formulas())


def variants(loss: type[PointwiseLoss]) -> list[dict[str, Any]]:
    """Settings worth testing beside the defaults: the proof's. Without a proof none; `test_truth` asks for one."""
    proof = proofs.pointwise().get(loss.name)
    return [dict(variant) for variant in proof.variants] if proof else []


def setups() -> list[Setup]:
    """Every built-in loss with its defaults and with every variant."""
    return [Setup(cls, params) for cls in built_in() for params in [{}, *variants(cls)]]


def everything(rest: str | None = None) -> list[Any]:
    """`setups` as pytest parameters; with a reason, all but the representatives full, see tiers.py."""
    from tiers import represented  # tools import this file, too, without pytest

    return represented(setups(), rest)


def names() -> list[str]:
    """The function names of all built-in losses, of every family."""
    return sorted(name for name, cls in losskit.list_losses().items() if cls.__module__.startswith("losskit."))
