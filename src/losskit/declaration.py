"""What a declaration consists of, besides its formula: parameters, operands, cases, deviations from torch, peers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from losskit.domains import Domain, real
from losskit.errors import DeclarationError

REQUIRED: Any = inspect.Parameter.empty  # in place of the default of a parameter that has none
POSITION = "position"  # the argument of a formula that is the place of an element in its row, from 0 on
OPEN = "a tensor of the call"  # in place of the value of a parameter that is a tensor of the call


@dataclass(frozen=True)
class Param:
    """A declared parameter of a loss; see `param`."""

    default: Any
    domain: Domain
    doc: str
    choices: tuple[str, ...] = ()
    name: str = ""
    kind: str = ""  # "float", "int", "bool", "tensor" or "choice"
    tensor: bool = False  # whether a number may be a tensor, too
    none: bool = False  # whether it may be None

    @property
    def required(self) -> bool:
        """Whether there is no default."""
        return self.default is REQUIRED

    @property
    def selects(self) -> bool:
        """Whether it selects the formula: a switch, a word, or something that may be missing."""
        return self.kind in ("bool", "tensor", "choice") or self.tensor or self.none

    @property
    def settings(self) -> tuple[Any, ...]:
        """What it may be for a formula. A number is False, a missing one None; a tensor for it changes nothing."""
        if self.kind == "choice":
            return self.choices
        if self.kind == "bool":
            return False, True
        if self.kind == "tensor":
            return (False, True) if self.none else (True,)
        return (False, None) if self.none else (False,)

    def key(self, value: Any) -> Any:
        """What a plan knows of a value: of a tensor, that it is there."""
        if self.kind == "tensor":
            return value is not None
        return OPEN if self.tensor and isinstance(value, Tensor) else value

    def setting(self, key: Any) -> Any:
        """What a value is for the formula, by the value's key."""
        return key if self.kind not in ("float", "int") or key is None or key is OPEN else False


def param(*, default: Any = REQUIRED, domain: Domain = real, doc: str, choices: Sequence[str] = ()) -> Any:
    """Declare a parameter: a constructor argument, an attribute, an argument of `value`.

    Annotate it with

    - `float` or `int`;
    - `float | Tensor`, in element-wise losses: a number, or a tensor that broadcasts to the operands. So there may be
      one number for each class, it may be learned, and it may change with every step of a compiled function;
    - `bool`: a switch that `value` may branch on;
    - `str`, with `choices`: one of these words, which `value` may compare;
    - `Tensor`.

    `| None` after a tensor or an `int` says that it may be missing; `value` then gets None, and may branch on that.

    Args:
        default: The value when the user gives none. Without it, the user has to give one.
        domain: The allowed values; `losskit.domains` has the usual ones.
        doc: What it means, in one sentence.
        choices: The words that a `str` may be.
    """
    return Param(default=default, domain=domain, doc=doc, choices=tuple(choices))


@dataclass(frozen=True)
class Operand:
    """A tensor that a loss is called with.

    domain: its allowed values, unless the switch named by `unless` is on. Where `only_with` names a switch that is
        off, the loss is defined outside the domain too, and only warns.
    broadcast: whether dimensions of size 1 stretch to the shape of the first operand.
    per_row: whether a missing last dimension means one value for each row.
    optional: whether a call may leave it out, or give None; `value` then gets None, and may branch on that.
    places: not None: it is a place in the row, from 0 to the last one, or `places` beyond it. Of K ordered classes,
        which K - 1 questions are about, the last one is 1 beyond.
    differentiable: whether there is a gradient by it; for labels, and for what the formula takes as given.
    components: the numbers that stand next to each other in its last dimension, and their domains. Each is an argument
        of the formula: `input` with the components x and y is `input_x` and `input_y`.
    shape: in composed losses, its shape in letters, "(N, C, ...) or (C,)": see `losskit.ComposedLoss`.
    index: in composed losses, not "": its numbers are integers, places along the dimension of this letter; lengths,
        where `places` is 1.
    boolean: in composed losses, whether it is a mask.
    hint: the way out when a value is refused.
    kind: what the numbers are, where plots and comparisons need to know: "logit", "distance".
    type: what a caller may pass, where it is more than a tensor.
    """

    doc: str
    domain: Domain = real
    unless: str = ""
    only_with: str = ""
    broadcast: bool = False
    per_row: bool = False
    optional: bool = False
    places: int | None = None
    differentiable: bool = True
    components: Mapping[str, Domain] = field(default_factory=dict)
    shape: str = ""
    index: str = ""
    boolean: bool = False
    hint: str = ""
    kind: str = ""
    type: str = "Tensor"

    def advised(self, switches: Mapping[str, Any]) -> bool:
        """Whether a value outside the domain only warns."""
        return bool(self.only_with) and not switches[self.only_with]


@dataclass(frozen=True)
class Case:
    """A worked example: arguments, the summed loss, the gradient of the first operand, and who says so.

    Lists stand for tensors; where the loss is element-wise, so do numbers.
    """

    arguments: Mapping[str, Any]
    value: float
    grad: Any
    source: str

    def __init__(self, *, value: float, source: str, grad: Any = None, **arguments: Any) -> None:
        for name, given in (("arguments", arguments), ("value", value), ("grad", grad), ("source", source)):
            object.__setattr__(self, name, given)


@dataclass(frozen=True)
class Deviation:
    """A place where losskit differs from torch on purpose: the case, both results, and the reason.

    `arguments` are those of the function form, numbers standing for one-element tensors of `dtype`, lists for tensors.
    `of` names the result that differs: the value, or the first entry of the gradient of an operand.
    """

    reason: str
    arguments: Mapping[str, Any]
    torch: float
    losskit: float
    of: str = "value"
    dtype: str = "float32"


@dataclass(frozen=True)
class Peer:
    """The same loss in another library: the call there, the call here, and whether both give the same.

    library: its name on PyPI.
    there: the call of that library, as its user writes it, with the operands and parameters of this loss as names.
    here: the call of losskit.functional that does the same; by default the operands and nothing else.
    agrees: the largest relative difference allowed of values and gradients. What computes in float32 has 1e-6.
    differs: the relative difference of the values where they do differ, to one digit; `why` has the reason.
    gradient_differs: the same of the gradients.
    why: what a user has to know: a factor, another default, another name.
    given: operands that must be something special; lists and numbers stand for tensors, others are drawn.
    """

    library: str
    there: str
    here: str = ""
    agrees: float = 1e-12
    differs: float = 0.0
    gradient_differs: float = 0.0
    why: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.differs or self.gradient_differs) and not self.why:
            raise DeclarationError(f"a peer that differs needs a `why`: {self.there}")


# What the built-in losses are for; the first three have continuous outputs, the others discrete ones.
TASKS = (
    "regression", "likelihood", "divergence",
    "binary", "multi-class", "multi-label", "ordinal", "survival", "ranking", "metric learning", "detection",
    "segmentation", "images", "preference", "sequence",
)  # fmt: skip
