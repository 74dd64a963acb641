"""Which implementation runs, and why: the only place that decides.

There are two: the fused CPU kernel (one pass, value and gradients together) and the eager formula, which runs
everywhere and is never wrong, only slower. `run` first tries the kernel on the arguments as they are; that call
costs two microseconds of Python and no validation, because the kernel declines what it does not understand.
Only then are arguments validated, promoted and broadcast, here, once, for both implementations.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from losskit.calculus import Differentiable
from losskit.errors import error
from losskit.kernels import eager, fused, library
from losskit.kernels.eager import HALVES, autocast, compute_dtype, result_dtype
from losskit.policy import state

if TYPE_CHECKING:
    from losskit.families.pointwise import Formula

_PLAIN = frozenset({Tensor, torch.nn.Parameter})


class Plan:
    """A loss with its parameters fixed: what both implementations need to know, worked out once."""

    def __init__(self, formula: Formula, reduction: str, numbers: list[float]) -> None:
        loss = formula.loss
        self.formula, self.loss, self.name = formula, loss, loss.name
        parameters = dict(zip(formula.numbers, numbers, strict=True))
        self.differentiable = Differentiable(formula.value, formula.operands, parameters, formula.gradients)
        self.differentiable.gradients()  # made now: torch.compile cannot trace their making
        self.domains = formula.domains
        self.checked = [(i, domain) for i, domain in enumerate(formula.domains) if not domain.everything]
        self.batchmean = reduction == "batchmean"
        self.reduction = "mean" if self.batchmean else reduction
        self.rows = loss.rows
        self.weight_in_mean = loss.weight_in_mean
        self.numbers = [float("nan"), 1.0, *numbers]
        stretch = sum(1 << i for i, name in enumerate(formula.operands) if name in loss.params)
        self.code = fused.pack(self.reduction, loss.weight_in_mean, loss.rows, stretch)
        # The kernel can be tried on raw arguments, unless they need work first.
        self.direct = not (self.batchmean or (self.rows and self.reduction == "none"))

    def elementwise(self) -> Plan:
        """The same formula without the mean over rows."""
        plan = copy.copy(self)
        plan.rows = False
        return plan

    @property
    def kernel(self) -> int:
        """Address of the fused kernel, 0 if there is none; found or compiled when first asked for."""
        return library.find(self.formula)


def run(
    plan: Plan,
    a: Any,
    b: Any,
    c: Any,
    d: Any,
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | float | None,
) -> Tensor:
    """The loss of operands `a` to `d` (None where the formula takes fewer)."""
    if (
        plan.direct
        and weight is None
        and sample_weight is None
        and mask is None
        and normalizer is None
        and type(a) in _PLAIN
        and (b is None or type(b) in _PLAIN)
        and (c is None or type(c) in _PLAIN)
        and (d is None or type(d) in _PLAIN)
        and a.is_cpu
        and not torch.compiler.is_compiling()
        and not _transformed()
        and plan.kernel
    ):
        result = fused.attempt(plan, plan.numbers, a, b, c, d, None, None, None)
        if result is not None:
            return result
    operands = (a, b, c, d)[: len(plan.formula.operands)]
    return _general(plan, operands, weight, sample_weight, mask, normalizer)


def _transformed() -> bool:
    """Whether tensors are more than they seem: torch.func, forward AD, dispatch modes."""
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    )


class Arguments(NamedTuple):
    """The tensors of a call, validated: operands of one shape, extras that broadcast to it."""

    operands: list[Tensor]
    weight: Tensor | None
    sample_weight: Tensor | None
    mask: Tensor | None
    normalizer: Tensor | float | None


def _general(
    plan: Plan,
    operands: Sequence[Any],
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | float | None,
) -> Tensor:
    args = validated(plan, operands, weight, sample_weight, mask, normalizer)
    if why_eager(plan, args) is None:
        result = _fused(plan, args)
        if result is not None:
            return result
    return eager.run(plan, *args)


def _fused(plan: Plan, args: Arguments) -> Tensor | None:
    numbers = plan.numbers
    if args.normalizer is not None:
        numbers = [float(args.normalizer), *numbers[1:]]
    padded: list[Any] = [*args.operands, None, None, None]
    a, b, c, d = padded[:4]
    extras = args.sample_weight, args.mask
    if plan.rows:
        extras = _per_row(args.sample_weight), _per_row(args.mask)
    if not (plan.rows and plan.reduction == "none"):
        return fused.attempt(plan, numbers, a, b, c, d, args.weight, *extras)
    # A row's loss is the mean of its elements: take them in the compute type, so that there is one rounding.
    dtype = result_dtype(args.operands)
    wide = compute_dtype(args.operands)
    elements = fused.attempt(plan, numbers, a, b, c, d, args.weight, *extras, result=wide)
    # Summed in double: torch's sum depends on the number of threads, which the rounding then hides.
    mean = None if elements is None else elements.mean(-1, dtype=torch.float64)
    return None if mean is None else mean.to(autocast(dtype, mean.device))


def _per_row(x: Tensor | None) -> Tensor | None:
    return x if x is None or x.ndim == 0 else x.unsqueeze(-1)


def why_eager(plan: Plan, args: Arguments) -> str | None:
    """The reason why the eager formula runs, or None: the fused kernel does."""
    tensors = [*args.operands, *(x for x in args[1:4] if x is not None)]
    if torch.compiler.is_compiling():
        return "torch.compile traces the formula, so that Inductor can fuse it with its surroundings"
    if any(type(x) not in _PLAIN for x in tensors):
        return "an argument is a tensor subclass"
    if _transformed():
        return "a torch.func transform, forward-mode AD or a dispatch mode is active"
    if not args.operands[0].is_cpu:
        return f"there is no fused kernel for {args.operands[0].device.type} tensors"
    extras = [x for x in args[1:] if isinstance(x, Tensor)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in extras):
        return "a gradient by a weight or the normalizer is wanted"
    if args.operands[0].ndim > fused.MAX_DIMS:
        return f"the fused kernel takes at most {fused.MAX_DIMS} dimensions"
    if not plan.kernel:
        return library.why_missing(plan.formula)
    return None


# ---------------------------------------------------------------------------------------------------------
# Validation: one sentence for each mistake, before anything is computed


def validated(
    plan: Plan,
    operands: Sequence[Any],
    weight: Tensor | None,
    sample_weight: Tensor | None,
    mask: Tensor | None,
    normalizer: Tensor | float | None,
) -> Arguments:
    """The arguments of a call with numbers made tensors, shapes matched and dtypes promoted."""
    names = plan.formula.operands
    first = operands[0]
    for name, x in zip(names, operands, strict=True):
        declared = plan.formula.declared[name]
        if not (declared.broadcast and isinstance(x, int | float) and not isinstance(x, bool)):
            _check_tensor(plan.name, name, x, names[0], first)
    if not first.is_floating_point():
        raise error("not_floating", loss=plan.name, argument=names[0], got=first.dtype)
    if plan.rows and first.ndim == 0:
        raise error("no_class_dimension", loss=plan.name, argument=names[0])
    tensors = [
        x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=first.dtype, device=first.device) for x in operands
    ]
    shaped = _match_shapes(plan, names, tensors)
    shape = shaped[0].shape
    loss_shape = shape[:-1] if plan.rows else shape
    extras = {"weight": (weight, shape), "sample_weight": (sample_weight, loss_shape), "mask": (mask, loss_shape)}
    for name, (x, target_shape) in extras.items():
        if x is None:
            continue
        _check_tensor(plan.name, name, x, names[0], first)
        if not _broadcasts(x.shape, target_shape):
            raise error(
                "not_broadcastable", loss=plan.name, argument=name, got=tuple(x.shape), expected=tuple(target_shape),
                hint=_shape_hint(name, x.shape, target_shape),
            )  # fmt: skip
    if mask is not None and mask.dtype != torch.bool:
        raise error("mask_dtype", loss=plan.name, got=mask.dtype)
    if plan.batchmean and normalizer is None:
        normalizer = float(shape[0]) if shape else 1.0
    if normalizer is not None:
        _check_normalizer(plan.name, normalizer)
    return Arguments(shaped, weight, sample_weight, mask, normalizer)


def _check_tensor(loss: str, name: str, x: Any, first_name: str, first: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise error("not_a_tensor", loss=loss, argument=name, got=type(x).__name__)
    if x.layout != torch.strided:
        raise error("not_strided", loss=loss, argument=name, got=str(x.layout))
    if x.is_complex():
        raise error("complex", loss=loss, argument=name, got=x.dtype)
    if x.device != first.device and x.ndim > 0:
        raise error("device", loss=loss, argument=name, got=x.device, first=first_name, expected=first.device)


def _check_normalizer(loss: str, normalizer: Any) -> None:
    if isinstance(normalizer, Tensor):
        if normalizer.numel() == 1 and not normalizer.is_complex():
            return
        raise error("normalizer", loss=loss, got=f"a tensor of shape {tuple(normalizer.shape)}")
    if isinstance(normalizer, bool) or not isinstance(normalizer, int | float) or not normalizer >= 0:
        raise error("normalizer", loss=loss, got=repr(normalizer))


def _match_shapes(plan: Plan, names: Sequence[str], tensors: list[Tensor]) -> list[Tensor]:
    shape = tensors[0].shape
    matched = [tensors[0]]
    for name, x in zip(names[1:], tensors[1:], strict=True):
        declared = plan.formula.declared[name]
        if declared.per_row and x.ndim > 0 and x.shape != shape and x.shape == shape[:-1]:
            x = x.unsqueeze(-1)
        if x.shape != shape and state.checks != "off":
            free = declared.broadcast and (name in plan.loss.params or x.ndim in (0, len(shape)))
            if not (free and _broadcasts(x.shape, shape)):
                kind = "not_broadcastable" if declared.broadcast else "shapes"
                raise error(
                    kind, loss=plan.name, first=names[0], argument=name, expected=tuple(shape), got=tuple(x.shape),
                    hint=_shape_hint(name, x.shape, shape),
                )  # fmt: skip
            x = x.expand(shape)
        matched.append(x)
    return list(torch.broadcast_tensors(*matched)) if state.checks == "off" else matched


def _broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    if len(shape) > len(to):
        return False
    return all(own in (1, full) for own, full in zip(reversed(shape), reversed(to), strict=False))


def _shape_hint(name: str, got: Sequence[int], expected: Sequence[int]) -> str:
    """The call that would make the shapes fit, where one clearly would."""
    got, expected = tuple(got), tuple(expected)
    for dim in range(len(expected)):
        if expected[:dim] + expected[dim + 1 :] == got and expected[dim] == 1:
            return f" Did you mean {name}.unsqueeze({dim})?"
        if expected[:dim] + expected[dim + 1 :] == got:
            return (
                f" Did you mean {name}.unsqueeze({dim}), one for each along dimension {dim}?"
                if name != "target"
                else ""
            )
    for dim in range(len(got)):
        if got[:dim] + got[dim + 1 :] == expected and got[dim] == 1:
            return f" Did you mean {name}.squeeze({dim})?"
    return ""


# ---------------------------------------------------------------------------------------------------------
# Introspection


class Choice(NamedTuple):
    """What would run: "fused CPU kernel" or "eager formula", and the reason."""

    implementation: str
    reason: str

    def __str__(self) -> str:
        return f"{self.implementation}: {self.reason}"


def why(loss: Any, *operands: Tensor, weight: Tensor | None = None, sample_weight: Tensor | None = None,
        mask: Tensor | None = None, normalizer: Tensor | float | None = None) -> Choice:  # fmt: skip
    """Which implementation a call of a loss (an instance) with these arguments runs, and why.

    >>> import losskit, torch
    >>> print(losskit.why(losskit.MSELoss(), torch.zeros(3), torch.zeros(3)))
    fused CPU kernel: one pass over float32 operands, the gradient written in forward
    """
    plan = loss.plan()
    extra = [getattr(loss, name) for name in plan.formula.operands if name in plan.loss.params]
    weight = getattr(loss, "weight", None) if weight is None else weight
    args = validated(plan, [*operands, *extra], weight, sample_weight, mask, normalizer)
    reason = why_eager(plan, args)
    if reason is not None:
        return Choice("eager formula", reason)
    dtypes = " and ".join(dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in args.operands))
    wide = ", computed in float32 and rounded once" if result_dtype(args.operands) in HALVES else ""
    when = "in backward" if plan.reduction == "none" else "in forward"
    return Choice("fused CPU kernel", f"one pass over {dtypes} operands{wide}, the gradient written {when}")
