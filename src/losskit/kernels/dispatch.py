"""Which implementation runs, and why: the only place that decides.

There are three: the fused kernels of the CPU (C++) and of the GPU (Triton), one pass for value and gradients, and the
eager formula, which runs everywhere and is never wrong, only slower. `run` first tries the CPU's kernel on the
arguments as they are; that call costs two microseconds of Python and no validation, because the kernel declines what
it does not understand. Only then are arguments validated, promoted and broadcast by the plan of the loss, once, for
all implementations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.jit._trace import TracerWarning

from losskit.errors import error
from losskit.kernels import fused, gpu, library, sharded
from losskit.kernels.eager import HALVES, autocast, result_dtype
from losskit.kernels.torch_internals import exporting, observed, tracing_state, transforms_active
from losskit.policy import state
from losskit.spaces import tell

if TYPE_CHECKING:
    from losskit.families.base import Family
    from losskit.traced import Formula

_PLAIN = frozenset({Tensor, torch.nn.Parameter})


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
    gradients = 15  # bits of the operands by which the kernel gives a gradient
    settles = False  # whether values are put onto a bound that they are beyond by a few ULP, unless checks are off
    direct = True  # the kernel can be tried on raw arguments
    key = ""  # what finds this plan again, in another process too

    def __init__(
        self, loss: type[Family], reduction: str, code: int, names: Sequence[str], numbers: Sequence[float]
    ) -> None:
        """code: from `fused.pack`; names: the tensors of a call, up to four; numbers: the parameters of the kernel."""
        self.loss, self.name, self.reduction, self.code, self.names = loss, loss.name, reduction, code, list(names)
        self.numbers = [float("nan"), 1.0, *numbers]
        self.on_device: dict[torch.device, Tensor] = {}  # the numbers of the formula, where a GPU reads them

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

    def refuse(self, operands: Sequence[Tensor], mask: Tensor | None) -> NoReturn:
        """Raise the error that names the first bad value."""
        raise NotImplementedError

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

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[sharded.Dims]:
        """For each dimension of the operands and the weight as given, which of the unreduced loss it is, or None."""
        raise NotImplementedError

    def class_dimension(self, ndim: int) -> int:
        """The dimension of the first operand by which it may be sharded where `eager_part` exists, -1 for none."""
        return -1

    def eager_part(self, arguments: Arguments, checks: str, part: sharded.Part) -> Tensor:
        """`eager` where this rank has a part of the classes."""
        raise NotImplementedError

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        """What the mean adds up in its denominator, without sample weights: weights, and what counts (None: all)."""
        weight = arguments.weight
        return [] if weight is None or not self.weight_in_mean else [weight], arguments.mask

    def spread(self, upstream: Tensor) -> Tensor:
        """A gradient by the unreduced losses, such that it broadcasts to the gradients by the operands."""
        return upstream.unsqueeze(-1)

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        """What `refuse` would have raised, by what a GPU kernel recorded: the operand (from 1) and its flat index."""
        raise NotImplementedError

    def fused(self, arguments: Arguments, result: torch.dtype | None = None) -> Tensor | None:
        """The loss from the kernel of the tensors' device, None where it declines."""
        if result is None and arguments.result is not None:
            result = autocast(arguments.result, arguments.operands[0].device)
        if gpu.takes(arguments.operands[0]):
            return gpu.attempt(self, arguments, result)
        numbers = self.numbers
        if arguments.normalizer is not None:
            numbers = [float(arguments.normalizer), *numbers[1:]]
        padded: list[Any] = [*arguments.operands, None, None, None]
        a, b, c, d = padded[:4]
        extras = arguments.weight, arguments.sample_weight, arguments.mask
        return fused.attempt(self, numbers, a, b, c, d, *extras, result)

    def of_saved(self, operands: Sequence[Tensor | None], *extras: Any) -> Arguments:
        """The arguments of `eager` from what a call of the kernel got."""
        return Arguments([x for x in operands if x is not None], *extras)

    @property
    def kernel(self) -> int:
        """Address of the formula's block functions, 0 if there are none."""
        formula = self.formula
        if formula is None:
            return 0
        return library.find(formula) if formula.kernel is None else formula.kernel

    @property
    def available(self) -> bool:
        """Whether the kernel can run; found or compiled when first asked for."""
        return library.loaded() if self.formula is None else bool(self.kernel)


OPEN = "open"  # in place of the value of a parameter that is a tensor of the call


class Opened(Plan):
    """A plan with parameters that are tensors, in a compiled function: a new value needs no new graph."""

    direct = False

    def __init__(self, plan: Plan, tensors: Sequence[Tensor]) -> None:
        self.plan, self.tensors = plan, tensors


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
    """The loss of operands `a` to `d` (None where the family takes fewer)."""
    if (
        plan.direct
        and sample_weight is None
        and mask is None
        and normalizer is None
        and type(a) in _PLAIN
        and (b is None or type(b) in _PLAIN)
        and (c is None or type(c) in _PLAIN)
        and (d is None or type(d) in _PLAIN)
        and (weight is None or (type(weight) in _PLAIN and not weight.requires_grad))
        and a.is_cpu
        and not gpu.interpreted
        and not torch.compiler.is_compiling()
        and (not state.nan_asked or state.nan == "pass")
        and not observed()
        and plan.available
    ):
        result = fused.attempt(plan, plan.numbers, a, b, c, d, weight, None, None)
        if result is not None:
            return result
    if isinstance(plan, Opened):
        own = len(plan.plan.names) - len(plan.tensors)
        a, b, c, d = [*(a, b, c, d)[:own], *plan.tensors, None, None, None][:4]
        return run(plan.plan, a, b, c, d, weight, sample_weight, mask, normalizer)
    if sharded.involved(a, b, c, d, weight, sample_weight, mask, normalizer):
        return sharded.run(plan, (a, b, c, d)[: len(plan.names)], weight, sample_weight, mask, normalizer)
    if not torch.compiler.is_compiling() and tracing_state() is not None:
        with warnings.catch_warnings():
            # Every look at a shape warns that it becomes a constant of the trace, which it may.
            warnings.simplefilter("ignore", TracerWarning)
            args = plan.validated((a, b, c, d)[: len(plan.names)], weight, sample_weight, mask, normalizer)
            return plan.eager(args, state.checks)
    args = plan.validated((a, b, c, d)[: len(plan.names)], weight, sample_weight, mask, normalizer)
    if state.nan == "raise" and _visible(args):
        refuse_nan(plan, args)
    if why_eager(plan, args) is None:
        result = plan.fused(args)
        if result is not None:
            return result
    elif state.checks != "off" and args.operands[0].is_cpu and _visible(args):
        tell(plan.spaces(args.operands, args.mask))
    return plan.eager(args, state.checks)


def _visible(args: Arguments) -> bool:
    """Whether the numbers of the tensors are there to be looked at: nothing traces or transforms the call."""
    if torch.compiler.is_compiling() or observed():
        return False
    return all(type(x) in _PLAIN and not x.is_meta for x in [*args.operands, *args[1:4]] if x is not None)


def refuse_nan(plan: Plan, args: Arguments) -> None:
    """Raise where a number that counts is NaN, under `checks(nan="raise")`."""
    tensors = [*args.operands, args.weight, args.sample_weight]
    names = [*plan.names[: len(args.operands)], "weight", "sample_weight"]
    for name, x, counts in zip(names, tensors, [*plan.counting(args), None, None], strict=True):
        if x is None or not x.is_floating_point():
            continue
        nan = x.detach().isnan()
        if counts is not None:
            nan = nan & counts.to(nan.device)
        if bool(nan.any()):
            index = tuple(int(i) for i in nan.nonzero()[0])
            raise error("not_a_number", loss=plan.name, argument=name, index=index, count=int(nan.sum()))


def why_eager(plan: Plan, args: Arguments) -> str | None:
    """The reason why the eager formula runs, or None: the fused kernel does."""
    tensors = [*args.operands, *(x for x in args[1:4] if x is not None)]
    on_gpu = gpu.takes(args.operands[0])
    if torch.compiler.is_compiling():
        if exporting():
            return "an exported graph consists of torch's own operators"
        if not on_gpu or plan.op == "pointwise" or transforms_active():
            return "torch.compile traces the formula, so that Inductor can fuse it with its surroundings"
    elif any(type(x) not in _PLAIN for x in tensors):
        return "an argument is a tensor subclass"
    elif observed():
        return "torch.func, forward-mode AD, a dispatch mode or torch.jit.trace is active"
    if not on_gpu and not args.operands[0].is_cpu:
        return f"there is no fused kernel for {args.operands[0].device.type} tensors"
    extras = [x for x in args[1:] if isinstance(x, Tensor)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in extras):
        return "a gradient by a weight or the normalizer is wanted"
    if not on_gpu and args.operands[0].ndim > fused.MAX_DIMS:
        return f"the fused kernel takes at most {fused.MAX_DIMS} dimensions"
    if torch.is_grad_enabled() and any(x.requires_grad and not plan.gradients >> i & 1 for i, x in enumerate(args[0])):
        return "a gradient by an operand is wanted that the kernel does not give"
    if on_gpu:
        return gpu.why_not(plan, args)
    if not plan.available:
        return library.why_missing(plan.formula)
    return None


# ---------------------------------------------------------------------------------------------------------
# Validation: one sentence for each mistake, before anything is computed. What all families need.


def check_tensor(loss: str, name: str, x: Any, first_name: str, first: Any) -> None:
    """Refuse what is not a dense, real tensor on the device of the first operand."""
    if not isinstance(x, Tensor):
        raise error("not_a_tensor", loss=loss, argument=name, got=type(x).__name__, hint=_tensor_hint(name, x))
    if x.layout != torch.strided:
        raise error("not_strided", loss=loss, argument=name, got=str(x.layout))
    if x.is_complex():
        raise error("complex", loss=loss, argument=name, got=x.dtype)
    if x.device != first.device and x.ndim > 0:
        raise error("device", loss=loss, argument=name, got=x.device, first=first_name, expected=first.device)


def _tensor_hint(name: str, x: Any) -> str:
    """How what is no tensor becomes one: an array, a number, a list, or what a model returned."""
    if isinstance(x, list | tuple | dict) and x:
        key = next(iter(x)) if isinstance(x, dict) else 0
        if isinstance(x[key], Tensor):
            return f" Did you mean {name}[{key!r}]?" if len(x) == 1 or isinstance(x, tuple | dict) else (
                f" Use torch.stack({name})."
            )  # fmt: skip
    if isinstance(x, list | tuple | Real) or callable(getattr(type(x), "__array__", None)):
        return f" Use torch.as_tensor({name})."
    return ""


def check_floating(loss: str, name: str, x: Tensor, target: Any = None, scores: str = "") -> None:
    """Refuse integers where a gradient may be wanted; `scores`: what a floating `target` would be if it were x."""
    if not x.is_floating_point():
        swapped = scores and isinstance(target, Tensor) and target.is_floating_point()
        hint = swapped_hint(name, scores) if swapped else f" Use {name}.float()."
        raise error("not_floating", loss=loss, argument=name, got=x.dtype, hint=hint)


def swapped_hint(name: str, scores: str = "scores") -> str:
    """The way out where operands seem to have changed places."""
    return f" {name.capitalize()} looks like labels and target like {scores}: are the two swapped?"


def check_per_class(plan: Plan, name: str, x: Any, input: Tensor, classes: int) -> None:
    """Refuse what is not a vector with an entry for each class."""
    check_tensor(plan.name, name, x, plan.names[0], input)
    if x.shape != (classes,):
        raise error("per_class", loss=plan.name, argument=name, classes=classes, got=tuple(x.shape))


def class_weight(plan: Plan, weight: Tensor | None, input: Tensor, classes: int) -> Tensor | None:
    """Class weights, integers made floating; refused where they are less precise than the input."""
    if weight is None:
        return None
    check_per_class(plan, "weight", weight, input, classes)
    if weight.dtype in HALVES and input.dtype not in HALVES:
        raise error("weight_dtype", loss=plan.name, got=weight.dtype, expected=input.dtype)
    return weight if weight.is_floating_point() else weight.to(input.dtype)


def check_extras(
    plan: Plan,
    first: Tensor,
    loss_shape: Sequence[int],
    weight: Any,
    weight_shape: Sequence[int],
    sample_weight: Any,
    mask: Any,
    normalizer: Any,
) -> Tensor | float | None:
    """Refuse weights and masks that do not broadcast, and normalizers that are no numbers; gives the normalizer."""
    extras = {
        "weight": (weight, weight_shape), "sample_weight": (sample_weight, loss_shape), "mask": (mask, loss_shape)
    }  # fmt: skip
    for name, (x, shape) in extras.items():
        if x is None:
            continue
        check_tensor(plan.name, name, x, plan.names[0], first)
        if not broadcasts(x.shape, shape):
            raise error(
                "not_broadcastable", loss=plan.name, argument=name, got=tuple(x.shape), expected=tuple(shape),
                hint=shape_hint(name, x.shape, shape),
            )  # fmt: skip
    if mask is not None and mask.dtype != torch.bool:
        raise error("mask_dtype", loss=plan.name, got=mask.dtype)
    return None if normalizer is None else _check_normalizer(plan.name, normalizer)


def _check_normalizer(loss: str, normalizer: Any) -> Tensor | float:
    if isinstance(normalizer, Tensor):
        if normalizer.numel() == 1 and not normalizer.is_complex():
            return normalizer
        raise error("normalizer", loss=loss, got=f"a tensor of shape {tuple(normalizer.shape)}")
    if isinstance(normalizer, torch.SymInt | torch.SymFloat):
        return normalizer  # type: ignore[return-value]  # a number, in graphs
    if isinstance(normalizer, int | float) and not isinstance(normalizer, bool) and normalizer >= 0:
        return normalizer
    if isinstance(normalizer, Real) and not isinstance(normalizer, bool) and float(normalizer) >= 0:
        return float(normalizer)  # NumPy's scalars are Real
    raise error("normalizer", loss=loss, got=repr(normalizer))


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether a tensor of one shape stretches to another."""
    if len(shape) > len(to):
        return False
    return all(own in (1, full) for own, full in zip(reversed(shape), reversed(to), strict=False))


def shape_hint(name: str, got: Sequence[int], expected: Sequence[int]) -> str:
    """The call that would make the shapes fit, where one clearly would."""
    got, expected = tuple(got), tuple(expected)
    for dim in range(len(expected)):
        if expected[:dim] + expected[dim + 1 :] == got and expected[dim] == 1:
            return f" Did you mean {name}.unsqueeze({dim})?"
    for dim in range(len(got)):
        if got[:dim] + got[dim + 1 :] == expected and got[dim] == 1:
            return f" Did you mean {name}.squeeze({dim})?"
    if name in ("weight", "sample_weight", "mask") and 0 < len(got) < len(expected):
        if got == expected[: len(got)]:
            more = len(expected) - len(got)
            call = f"unsqueeze({len(got)})" if more == 1 else f"reshape{got + (1,) * more}"
            return f" Did you mean {name}.{call}, one for each row?"
        for dim in range(1, len(expected) - 1):
            if expected[:dim] + expected[dim + 1 :] == got:
                return f" Did you mean {name}.unsqueeze({dim}), the same along dimension {dim}?"
    elif name == "target":
        stretches = math.prod(got) == 1 or len(got) == len(expected)
        if got != expected and stretches and broadcasts(got, expected):
            return f" Did you mean target.expand({', '.join(map(str, expected))})?"
    else:
        for dim in range(len(expected)):
            if expected[:dim] + expected[dim + 1 :] == got:
                return f" Did you mean {name}.unsqueeze({dim}), one for each along dimension {dim}?"
    return ""


def unravel(index: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The index of an element whose place in the flattened tensor is known."""
    return tuple(int(i) for i in torch.unravel_index(torch.tensor(index), tuple(shape))) if shape else ()


# ---------------------------------------------------------------------------------------------------------
# Introspection


class Choice(NamedTuple):
    """What would run: "fused CPU kernel", "fused GPU kernel" or "eager formula", and the reason."""

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
    plan = loss._planned()
    weight = getattr(loss, "weight", None) if weight is None else weight
    given = [*operands, *loss._slot_params()]
    together = ""
    if sharded.involved(*given, weight, sample_weight, mask, normalizer):
        reason, together = sharded.why(plan, given, weight, sample_weight, mask, normalizer)
        together = f"; {together}"
        args = sharded.layout_of(plan, given, weight, sample_weight, mask, normalizer).whole
    else:
        args = plan.validated(given, weight, sample_weight, mask, normalizer)
        reason = why_eager(plan, args)
    if reason is not None:
        return Choice("eager formula", reason + together)
    dtypes = " and ".join(dict.fromkeys(str(x.dtype).removeprefix("torch.") for x in args.operands))
    wide = ", computed in float32 and rounded once" if result_dtype(args.operands) in HALVES else ""
    when = "in backward" if plan.reduction == "none" and gpu.takes(args.operands[0]) else "in forward"
    kernel = "fused GPU kernel" if gpu.takes(args.operands[0]) else "fused CPU kernel"
    return Choice(kernel, f"one pass over {dtypes} operands{wide}, the gradient written {when}{together}")
