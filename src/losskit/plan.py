"""The contract between families and kernels: a loss with its parameters fixed, and the validated arguments of a call.

A family says in its plan how arguments are validated, what the loss is in ordinary torch operations, and how a bad
value is told. The kernels ask for nothing else, and know neither families nor losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

import torch
from torch import Tensor

from losskit.errors import error
from losskit.kernels.wire import MAX_OPERANDS
from losskit.loss import Loss
from losskit.traced import Formula

Found = tuple[int, int, float]  # a bad value, as kernels record it: see `Plan.sighted`
Dims = tuple[int | None, ...]  # for each dimension of a tensor, which of the unreduced loss it is, or None


class Arguments(NamedTuple):
    """The tensors of a call, validated, in the shapes that both implementations take."""

    operands: list[Tensor]
    weight: Tensor | None
    sample_weight: Tensor | None
    mask: Tensor | None
    normalizer: Tensor | float | None
    result: torch.dtype | None = None  # the dtype of the loss, where it is not that of the operands


class Plan:
    """A loss with its parameters fixed: what both implementations need to know, worked out once.

    A family derives from it and says how arguments are validated, what the loss is in ordinary torch operations, and
    how a bad value is told.
    """

    op: ClassVar[str]  # the op of the family's kernel, in the namespace losskit

    formula: Formula | None = None  # what the family's kernel evaluates, where it takes a formula
    weight_in_mean = False  # whether `weight` counts in the denominator of the mean
    gradients = (1 << MAX_OPERANDS) - 1  # bits of the operands by which the kernel gives a gradient
    telling = MAX_OPERANDS  # how many operands tell the dtype of the loss; those after them are made of parameters
    settles = False  # whether values are put onto a bound that they are beyond by a few ULP, unless checks are off
    constants = 0  # bits of the operands by which there is no gradient
    ignores = True  # some rows may be left out, although nothing masks them
    direct = True  # the kernel can be tried on raw arguments
    recorded = True  # a call on a GPU can be repeated from raw arguments
    # Where there is no kernel: the loss of operands without weight and extras by a shorter way, or None.
    at_once: Callable[[Sequence[Any]], Tensor | None] | None = None
    no_kernel = ""  # why the family has no kernel, where it has none
    late = False  # with reduction 'none' the CPU's kernel, too, gives gradients in backward
    native: Any = None  # the calls of the kernel by the node in C++; see `kernels.node`
    repeats: Any = None  # the calls on a GPU that the node repeats
    key = ""  # what finds this plan again, in another process too
    # The violations that torch's function of this name refuses, too; None: torch has none, and all are refused.
    refused_by_torch: frozenset[int] | None = None
    shapes_of_torch = False  # whether that function refuses shapes that do not match

    def __init__(self, loss: Any, reduction: str, code: int, names: Sequence[str], numbers: Sequence[float]) -> None:
        """loss: the declaration; code: from `fused.pack`; names: of the tensors; numbers: from `Op.given`."""
        self.loss, self.name, self.reduction, self.code, self.names = loss, loss.name, reduction, code, list(names)
        self.numbers = list(numbers)
        if issubclass(loss, Loss) and loss._of_torch():
            self.refused_by_torch = frozenset(i for i, name in enumerate(names, 1) if name in loss.refused_by_torch)
            self.shapes_of_torch = "shapes" in loss.refused_by_torch
        self.on_device: dict[torch.device, Tensor] = {}  # the numbers of the formula, where a GPU reads them
        self.templates: dict[Any, Any] = {}  # of calls on a GPU, by what their tensors are like

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        """The arguments of a call with numbers made tensors, shapes matched and dtypes promoted; or the error."""
        raise NotImplementedError

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        """The loss in ordinary torch operations, differentiable to any order."""
        raise NotImplementedError

    def _wrong(self, argument: str, expected: str, got: Any, hint: str = "") -> Exception:
        """The error for an argument of another shape, dtype or value than it may have."""
        return error("parameter", loss=self.name, argument=argument, expected=expected, got=got, hint=hint)

    def refuse(self, operands: Sequence[Tensor], mask: Tensor | None, found: Found | None = None) -> NoReturn:
        """Raise the error that names the first bad value: what the CPU kernel found, or what is looked for here."""
        raise self.sighted(self.shapes(operands), *(found or self.find(operands, mask)))

    def checks(self, mode: str) -> str:
        """The mode of the checks of values: "off" where torch's function checks none and decides."""
        return "off" if mode == "torch" and self.refused_by_torch == frozenset() else mode

    def strict(self, mode: str) -> bool:
        """Whether shapes must match; else they broadcast."""
        return mode != "off" and (mode != "torch" or self.refused_by_torch is None or self.shapes_of_torch)

    def refuses(self, violation: int, mode: str) -> bool:
        """Whether a bad value is an error."""
        return mode != "torch" or self.refused_by_torch is None or violation in self.refused_by_torch

    def find(self, operands: Sequence[Tensor], mask: Tensor | None) -> Found:
        """The first bad value. For the eager formula, which knows only that there is one."""
        raise NotImplementedError

    def shapes(self, operands: Sequence[Tensor]) -> tuple[int, ...]:
        """What `sighted` has to know of the operands' shapes."""
        return tuple(operands[0].shape)

    def spaces(self, operands: Sequence[Tensor], mask: Tensor | None) -> list[Exception]:
        """Warnings about operands that are nearly certainly not what the loss takes."""
        return []

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        """Which numbers of each operand count, None where all of them do."""
        mask = arguments.mask
        of_rows = None if mask is None else mask.unsqueeze(-1) if mask.ndim else mask
        return [of_rows if x.ndim > len(self.unreduced_shape(arguments.operands)) else mask for x in arguments.operands]

    def unreduced_shape(self, operands: Sequence[Tensor]) -> Sequence[int]:
        """The shape of the loss with reduction 'none'."""
        return operands[0].shape[:-1]

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        """For each dimension of the operands and the weight as given, which of the unreduced loss it is, or None."""
        raise NotImplementedError

    def class_dimension(self, ndim: int) -> int:
        """The dimension of the first operand by which it may be sharded where `eager_part` exists, -1 for none."""
        return -1

    def eager_part(self, arguments: Arguments, checks: str, part: Any) -> Tensor:
        """`eager` where this rank has a part of the classes."""
        raise NotImplementedError

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        """What the mean adds up in its denominator, without sample weights: weights, and what counts (None: all)."""
        weight = arguments.weight
        return [] if weight is None or not self.weight_in_mean else [weight], arguments.mask

    def spread(self, upstream: Tensor, ndim: int) -> Tensor:
        """A gradient by the unreduced losses that broadcasts to one by an operand of `ndim` dimensions."""
        return upstream.unsqueeze(-1)

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        """The error for a bad value: `operand` counts from 1 or names the violation, `place` is the flat index."""
        raise NotImplementedError

    def fused(self, kernel: Kernel, arguments: Arguments, result: torch.dtype | None = None) -> Tensor | None:
        """The loss from the kernel of the tensors' device, in the dtype `result`; None where the kernel declines."""
        return kernel(self, arguments, result)

    def passes(self, arguments: Arguments) -> str:
        """How the kernel goes over the operands, in words."""
        return "one pass"

    def eagerly(self, arguments: Arguments) -> str:
        """What else is worth knowing of the eager formula's way, in words."""
        return ""

    def of_saved(self, operands: Sequence[Tensor | None], *extras: Any) -> Arguments:
        """The arguments of `eager` from what a call of the kernel got."""
        return Arguments([x for x in operands if x is not None], *extras)


Kernel = Callable[[Plan, Arguments, torch.dtype | None], Tensor | None]  # a call of it


class Opened(Plan):
    """A plan with parameters that are tensors, in a compiled function: a new value needs no new graph."""

    direct = False

    def __init__(self, plan: Plan, tensors: Sequence[Tensor]) -> None:
        self.plan, self.tensors = plan, tensors
