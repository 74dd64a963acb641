"""The plan of a declaration with given parameters: made once, kept, and found again, also by torch.compile and ops."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from losskit.declaration import OPEN
from losskit.errors import error
from losskit.kernels.torch_internals import constant
from losskit.parameters import number_hint, validate
from losskit.plan import Opened, Plan
from losskit.reduction import check_reduction
from losskit.registry import get


class Plans(dict[tuple[Any, ...], Plan]):
    """The plans of a declaration by their parameters; they stay in the process."""

    def __reduce__(self) -> Any:
        return Plans, ()


def plan_of(loss: Any, *key: Any) -> Plan:
    """The plan of a loss with a reduction and these parameters, in the order of `loss.params` (without `weight`).

    After the parameters comes, for each optional operand, whether it is there.
    """
    if torch.compiler.is_compiling():
        # Dynamo can neither trace the construction of a plan nor use an object without a source. So the plan is built
        # while tracing, stored as an attribute, and read back by name. Its numbers become constants: another number
        # compiles again, another tensor does not.
        fixed = [OPEN if isinstance(value, Tensor) else _constant(value) for value in key[1:]]
        found: Plan = getattr(_plans, _stored(loss, key[0], *fixed))
        tensors = [value for value in key if isinstance(value, Tensor)]
        return Opened(found, tensors) if tensors else found
    plans: Plans = loss._plans
    try:
        return plans[key]
    except (KeyError, TypeError):  # unhashable: the new plan's validation says what is allowed
        reduction, *values = key
    if any(isinstance(value, Tensor) for value in values):  # found by what is in it, which may change
        return plan_of(loss, reduction, *_checked(loss, values).values())
    plan = _new_plan(loss, reduction, *values)
    if len(plans) >= 256:  # a parameter that changes with every step must not fill the memory
        plans.clear()
    plans[key] = plan
    return plan


def tensors(*parameters: Any) -> list[Tensor]:
    """The parameters that are tensors, which a call takes as operands."""
    return [x for x in parameters if isinstance(x, Tensor)]


def present(*operands: Any) -> list[Any]:
    """The optional operands that are there."""
    return [x for x in operands if x is not None]


def _constant(value: Any) -> Any:
    """A number that Dynamo may have made a symbol, as the number that it is now."""
    if isinstance(value, (int, float)):  # Dynamo of torch 2.10 knows no union here
        from torch.fx.experimental.symbolic_shapes import guard_scalar  # late: it imports sympy

        return guard_scalar(value)
    return value


def _new_plan(loss: Any, reduction: str, *values: Any) -> Plan:
    if not isinstance(reduction, str):
        check_reduction(loss.name, reduction, loss.reductions, number_hint(loss, reduction))
    check_reduction(loss.name, reduction, loss.reductions)
    checked = _checked(loss, values)
    plan = loss._plan_class(loss, reduction, checked)
    plan.key = json.dumps([loss.name, reduction, *checked.values()])  # an OPEN parameter is a string in it
    return plan


def _checked(loss: Any, values: Iterable[Any]) -> dict[str, Any]:
    """The parameters by name, validated; then, for each optional operand, whether it is there."""
    checked = dict[str, Any]()
    values = list(values)
    declared = loss._plan_params()
    for p, value in zip(declared, values, strict=False):
        if (
            value is OPEN
            and not p.tensor
            and (loss._statistics is not None or p.kind != "float" or p not in loss._formula_params())
        ):
            raise error("open", loss=loss.name, argument=p.name)
        if p.kind == "tensor" and not isinstance(value, bool):  # in a list: what is no tensor
            validate(loss.name, p, *value)
        checked[p.name] = value if p.kind == "tensor" or value is OPEN else validate(loss.name, p, value)
    return checked | dict(zip(loss._optional_operands(), values[len(declared) :], strict=True))


_plans = SimpleNamespace()  # of compiled calls


@constant
def _stored(loss: Any, *key: Any) -> str:
    """The name of a plan in `_plans`."""
    name = f"plan_{id(loss)}_{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
    if not vars(_plans).get(name):
        setattr(_plans, name, _new_plan(loss, *key))
    return name


def plan_by(key: str) -> Plan:
    """The plan whose `key` this is: how ops, which take no objects, are told of a loss and its parameters."""
    name, *values = json.loads(key)
    return plan_of(get(name), *values)
