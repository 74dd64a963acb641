"""What a declaration consists of, besides its formula: parameters, operands, worked cases, deviations from torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from losskit.domains import Domain, real


@dataclass(frozen=True)
class Param:
    """A declared parameter of a loss; see `param`."""

    default: Any
    domain: Domain
    doc: str
    name: str = ""
    kind: str = ""  # "float", "int", "bool" or "tensor"


def param(*, default: Any, domain: Domain = real, doc: str) -> Any:
    """Declare a parameter: a constructor argument, an attribute, an argument of `value`.

    Annotate it with `float`, `int`, `bool` (a switch that `value` may branch on) or `Tensor | None`.

    Args:
        default: The value when the user gives none.
        domain: The allowed values; `losskit.domains` has the usual ones.
        doc: What it means, in one sentence.
    """
    return Param(default=default, domain=domain, doc=doc)


@dataclass(frozen=True)
class Operand:
    """A tensor that a loss is called with.

    domain: its allowed values, unless the switch named by `unless` is on. Where `only_with` names a switch that is
        off, the loss is defined outside the domain too, and only warns.
    broadcast: whether dimensions of size 1 stretch to the shape of the first operand.
    per_row: whether a missing last dimension means one value for each row.
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
    hint: str = ""
    kind: str = ""
    type: str = "Tensor"


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


# What the built-in losses are for; the first three have continuous outputs, the others discrete ones.
TASKS = (
    "regression", "likelihood", "divergence",
    "binary", "multi-class", "multi-label", "ranking", "metric learning", "sequence",
)  # fmt: skip
