"""What all families share: a declaration is traced, and gets its functional form, its `forward` and its plans.

A family says what a formula speaks of (elements, rows of scores, embeddings, sequences). A declaration's `value` is
traced once per combination of its switches when the class is made; the trace is what is evaluated eagerly, printed
as C++ and differentiated (see `losskit.formula`). A call goes to `run` with the plan of the present parameters.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, fx
from torch.overrides import handle_torch_function, has_torch_function_variadic

from losskit.calculus import Differentiable, derivative, guarded
from losskit.domains import Domain, real
from losskit.errors import DeclarationError
from losskit.forms import MAX_OPERANDS, constructor_source, docstring, forward_source, function_source
from losskit.formula import PLAIN
from losskit.graph import Expr, Trace
from losskit.kernels.dispatch import Plan, run
from losskit.kernels.torch_internals import constant
from losskit.loss import Loss, Operand, Param, validate
from losskit.printing import function, run_source
from losskit.reduction import check_reduction, legacy_reduction

MAX_PARAMETERS = 8  # of the fused kernels
# Words that are identifiers in Python but not where the formula is printed, and names of the calls' own arguments.
RESERVED = frozenset(
    "alignas asm auto bool case catch char const constexpr continue decltype default delete do double else "
    "enum explicit export extern float for friend function goto if inline int let lk long mask namespace new "
    "normalizer null operator private protected public reduction register return sample_weight self short "
    "signed sizeof static struct switch T template this throw try typedef typeof union unsigned using "
    "virtual void volatile while with".split()
)


class Formula:
    """A traced `value` and its gradients, for one setting of the switches."""

    def __init__(self, loss: type[Family], switches: dict[str, bool]) -> None:
        self.loss, self.switches = loss, switches
        taken = [name for name in inspect.signature(loss.value).parameters if name not in loss.params] + [
            p.name for p in loss._formula_params() if p.kind == "tensor" and switches[p.name]
        ]
        self.operands = taken
        self.numbers = [p.name for p in loss._formula_params() if p.kind in ("float", "int")]
        self.trace = Trace()
        self.value: Expr = self.traced(loss.value)

    def traced(self, function: Callable[..., Any]) -> Any:
        arguments: dict[str, Any] = {}
        for name in inspect.signature(self.loss.value).parameters:
            declared = self.loss.params.get(name)
            if declared is not None and declared.kind == "bool":
                arguments[name] = self.switches[name]
            elif declared is not None and declared.kind == "tensor" and not self.switches[name]:
                arguments[name] = None
            else:
                arguments[name] = self.trace.variable(name)
        try:
            result = function(**arguments)
        except (TypeError, AttributeError, ValueError) as problem:
            if isinstance(problem, DeclarationError):
                raise DeclarationError(f"{self.loss.__name__}.{function.__name__}: {problem}") from None
            raise DeclarationError(
                f"{self.loss.__name__}.{function.__name__} must use the primitives of losskit.formula: {problem}"
            ) from problem
        return tuple(map(self._lifted, result)) if isinstance(result, tuple) else self._lifted(result)

    def _lifted(self, result: Any) -> Expr | None:
        if isinstance(result, Expr) and result.is_condition:
            raise DeclarationError(f"{self.loss.__name__}.value must return a number, got a condition")
        return None if result is None else self.trace.lift(result)

    @cached_property
    def gradients(self) -> tuple[Expr, ...]:
        """The derivative by each operand: the author's where `grad` gives one, else derived."""
        given: tuple[Expr | None, ...] = ()
        if self.loss.grad is not None:
            result = self.traced(self.loss.grad)
            given = result if isinstance(result, tuple) else (result,)
            if len(given) > len(self.operands):
                raise DeclarationError(f"{self.loss.__name__}: `grad` returns more entries than there are operands")
        given = given + (None,) * (len(self.operands) - len(given))
        return tuple(
            own if own is not None else derivative(self.value, self.trace.variable(name))
            for name, own in zip(self.operands, given, strict=True)
        )

    @cached_property
    def declared(self) -> dict[str, Operand]:
        """How each operand was declared, under these switches; a tensor parameter broadcasts."""
        result = {}
        for name in self.operands:
            of_param = self.loss.params.get(name)
            if of_param is not None:
                result[name] = Operand(of_param.doc, of_param.domain, broadcast=True)
                continue
            operand = self.loss.operands.get(name, Operand(name))
            off = operand.unless and self.switches[operand.unless]
            result[name] = replace(operand, domain=real, hint="") if off else operand
        return result

    @cached_property
    def domains(self) -> list[Domain]:
        """What each operand may be, under these switches."""
        return [operand.domain for operand in self.declared.values()]

    def differentiable(self, numbers: dict[str, float]) -> Differentiable:
        """The formula with its parameters fixed."""
        fixed = Differentiable(self.value, self.operands, numbers, self.gradients)
        self.prepare(fixed)
        return fixed

    def prepare(self, formula: Differentiable) -> None:
        """Make what torch.compile cannot trace the making of."""
        formula.gradients()
        key = ("plain", formula.root)
        functions = self.trace.functions
        if key not in functions:
            harmless = {name: operand.domain.typical for name, operand in self.declared.items()} | self.loss.harmless
            root = guarded(formula.root, harmless)
            functions[key] = function(root, [*formula.operands, *formula.parameters], PLAIN)
        formula.plain_function = functions[key]

    @property
    def predictions(self) -> int:
        """Bits of the operands that models usually produce: all but the target and tensor parameters."""
        fixed = {"target", *self.loss.params}
        return sum(1 << i for i, name in enumerate(self.operands) if name not in fixed)


class Formulas(dict[tuple[bool, ...], Formula]):
    """The formulas of a declaration, one for each setting of its switches; of a class from another process, made anew."""

    def __init__(self, loss: type[Family]) -> None:
        super().__init__()
        self.loss = loss

    def __missing__(self, setting: tuple[bool, ...]) -> Formula:
        formula = self[setting] = Formula(self.loss, dict(zip(self.loss._switches(), setting, strict=True)))
        return formula

    def all(self) -> list[Formula]:
        switches = self.loss._switches()
        return [self[setting] for setting in itertools.product((False, True), repeat=len(switches))]

    def __reduce__(self) -> Any:
        return Formulas, (self.loss,)


class Plans(dict[tuple[Any, ...], Plan]):
    """The plans of a declaration by their parameters; they stay in the process."""

    def __reduce__(self) -> Any:
        return Plans, ()


class Family(Loss, abstract=True):
    """Base of the families: what a declaration with a `value` becomes.

    A family gives `plan_class`, the names of its calls' tensors (`call_operands`) and, where a formula speaks of
    something else than these tensors, the names that it may use (`statistics`).
    """

    operands: ClassVar[dict[str, Operand]] = {}
    statistics: ClassVar[tuple[str, ...] | None] = None  # None: the formula's arguments are the operands
    harmless: ClassVar[dict[str, float]] = {}  # values of statistics at which no formula has an infinite derivative
    of_formula: ClassVar[bool] = True  # whether a declaration has a `value`
    plan_class: ClassVar[Callable[..., Plan]]
    grad: ClassVar[Callable[..., Any] | None] = None
    value: ClassVar[Callable[..., Any]]
    functional: ClassVar[Callable[..., Tensor]]
    plans: ClassVar[Plans]
    formulas: ClassVar[Formulas]

    @classmethod
    def _declare(cls) -> None:
        cls.formulas, cls.plans = Formulas(cls), Plans()
        if cls.of_formula:
            cls._trace()
        sources = [function_source(cls), forward_source(cls), constructor_source(cls)]
        scope: dict[str, Any] = {
            "run": run, "plan_of": plan_of, "Loss": cls, "legacy_reduction": legacy_reduction, "overridden": overridden,
            "has_torch_function_variadic": has_torch_function_variadic, "handle_torch_function": handle_torch_function,
            "Literal": Literal, "Tensor": Tensor,
        }  # fmt: skip
        run_source("\n\n".join(sources), f"{cls.__module__}.{cls.__qualname__}", scope)
        cls.functional = staticmethod(scope[cls.name])
        made = {"__init__": scope["__init__"], "forward": scope["forward"]}
        for name, method in made.items():
            if name not in cls.__dict__:
                # Not by `__name__` in `scope`: Dynamo would look for the scope's names in that module.
                method.__module__, method.__qualname__ = cls.__module__, f"{cls.__qualname__}.{name}"
                setattr(cls, name, method)
        cls.functional.__module__ = cls.__module__
        if cls.about:
            cls.functional.__doc__ = docstring(cls, function=True)
            cls.__doc__ = docstring(cls, function=False)

    @classmethod
    def _trace(cls) -> None:
        if "value" not in cls.__dict__:
            raise DeclarationError(f"{cls.__name__}: a loss needs a formula: a static method `value`")
        for method in ("value", "grad"):
            if method in cls.__dict__ and not isinstance(cls.__dict__[method], staticmethod):
                raise DeclarationError(f"{cls.__name__}.{method} must be a @staticmethod")
        taken = inspect.signature(cls.value).parameters
        for name in taken:
            if name.endswith("_") or name in RESERVED:
                raise DeclarationError(
                    f"{cls.__name__}: an argument of `value` cannot be called {name} in C++ or JavaScript"
                )
            if cls.statistics is not None and name not in cls.params and name not in cls.statistics:
                known = ", ".join(cls.statistics)
                raise DeclarationError(
                    f"{cls.__name__}: `value` may speak of {known} and its parameters, not of {name}"
                )
        for name in cls.params:
            if name not in taken and name not in cls.family_params | cls._used_elsewhere():
                raise DeclarationError(f"{cls.__name__}: `value` does not take the parameter {name}")
        if cls.grad is not None and list(inspect.signature(cls.grad).parameters) != list(taken):
            raise DeclarationError(f"{cls.__name__}: `grad` must take the arguments of `value`: {', '.join(taken)}")
        for formula in cls.formulas.all():
            if not 1 <= len(formula.operands) <= MAX_OPERANDS:
                raise DeclarationError(
                    f"{cls.__name__}: `value` must take 1 to {MAX_OPERANDS} tensors, got {len(formula.operands)}"
                )
            formula.gradients  # noqa: B018  # derives what `grad` does not give, or says why it cannot
            if len(formula.numbers) > MAX_PARAMETERS:
                raise DeclarationError(
                    f"{cls.__name__}: a loss may have {MAX_PARAMETERS} numbers, got {len(formula.numbers)}"
                )

    def plan(self) -> Plan:
        """What runs this loss with its present parameters."""
        if self._plan is None:
            values = [(p, getattr(self, p.name)) for p in self._plan_params()]
            keys = [value is not None if p.kind == "tensor" else value for p, value in values]
            self.__dict__["_plan"] = plan_of(type(self).declared, str(self.reduction), *keys)
        return self.__dict__["_plan"]

    @classmethod
    def call_operands(cls) -> list[str]:
        """The tensors that a call takes, in order."""
        raise NotImplementedError

    @classmethod
    def unreduced(cls) -> str:
        """What reduction 'none' gives, in words."""
        raise NotImplementedError

    @classmethod
    def compiled_formulas(cls) -> list[Formula]:
        """The formulas that the kernel evaluates, one for each setting of the switches."""
        return cls.formulas.all() if cls.of_formula else []

    @classmethod
    def _plan_params(cls) -> list[Param]:
        """The parameters that a plan fixes; `weight` is a tensor of the call."""
        return [p for p in cls.params.values() if p.name != "weight"]

    @classmethod
    def _formula_params(cls) -> list[Param]:
        """The parameters that the formula takes; the others belong to the family."""
        taken = inspect.signature(cls.value).parameters if cls.of_formula else {}
        return [p for p in cls.params.values() if p.name in taken]

    @classmethod
    def _switches(cls) -> list[str]:
        """What selects the formula: boolean parameters, and whether a tensor parameter is there."""
        return [p.name for p in cls._formula_params() if p.kind in ("bool", "tensor")]

    @classmethod
    def formula_of(cls, parameters: dict[str, Any]) -> tuple[Formula, dict[str, float]]:
        """The formula that these parameters select, and the numbers that it takes."""
        formula = cls.formulas[tuple(parameters[name] for name in cls._switches())]
        return formula, {name: parameters[name] for name in formula.numbers}

    @classmethod
    def _used_elsewhere(cls) -> set[str]:
        """Parameters that a declaration uses outside of `value`."""
        return set()

    @classmethod
    def slots(cls, prefix: str, class_name: str) -> list[str]:
        """The tensors that `run` is given, as source; tensor parameters come after the operands of the call."""
        return cls.call_operands() + [prefix + p.name for p in cls._plan_params() if p.kind == "tensor"]

    def slot_params(self) -> list[Tensor]:
        """The tensor parameters that are there."""
        tensors = [getattr(self, p.name) for p in self._plan_params() if p.kind == "tensor"]
        return [x for x in tensors if x is not None]


def plan_of(loss: type[Family], reduction: str, *values: Any) -> Plan:
    """The plan of a loss with these parameters, in the order of `loss.params` (without `weight`)."""
    if torch.compiler.is_compiling():
        # Dynamo cannot trace the making of a plan, nor call into one that has no place: it is made while tracing, and
        # found by name. Its numbers become constants, so that another number compiles again.
        return getattr(_plans, _stored(loss, reduction, *[_constant(value) for value in values]))
    key = (reduction, *values)
    try:
        plan = loss.plans.get(key)
    except TypeError:  # unhashable: the new plan's validation says what is allowed
        plan = None
    if plan is not None:
        return plan
    plan = _new_plan(loss, reduction, *values)
    if any(isinstance(value, Tensor) for value in values):  # equal to none but itself, and may change
        return plan_of(loss, reduction, *plan.parameters)
    if len(loss.plans) >= 256:  # a parameter that changes with every step must not fill the memory
        loss.plans.clear()
    loss.plans[key] = plan
    return plan


def _constant(value: Any) -> Any:
    """A number that Dynamo may have made a symbol, as the number that it is now."""
    if isinstance(value, (int, float)):  # Dynamo of torch 2.10 knows no union here
        from torch.fx.experimental.symbolic_shapes import guard_scalar  # late: it imports sympy

        return guard_scalar(value)
    return value


def _new_plan(loss: type[Family], reduction: str, *values: Any) -> Plan:
    check_reduction(loss.name, reduction, loss.reductions)
    checked = dict[str, Any]()
    for p, value in zip(loss._plan_params(), values, strict=True):
        checked[p.name] = value if p.kind == "tensor" else validate(loss.name, p, value)
    plan = loss.plan_class(loss, reduction, checked)
    plan.parameters = list(checked.values())
    plan.key = json.dumps([loss.name, reduction, *plan.parameters])
    return plan


_plans = SimpleNamespace()  # of compiled calls


@constant
def _stored(loss: type[Family], *key: Any) -> str:
    """The name of a plan in `_plans`."""
    name = f"plan_{id(loss)}_{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"
    if not vars(_plans).get(name):
        setattr(_plans, name, _new_plan(loss, *key))
    return name


def overridden(loss: Family, operands: tuple[Any, ...], sample_weight: Any, mask: Any, normalizer: Any) -> Any:
    """A call whose operands, or an active mode, override functions: a leaf of an fx graph, or the functional form."""
    extras = {"sample_weight": sample_weight, "mask": mask, "normalizer": normalizer}
    for x in operands:
        if isinstance(x, fx.Proxy):
            name = x.tracer.path_of_module(loss)
            given = {key: value for key, value in extras.items() if value is not None}
            return x.tracer.create_proxy("call_module", name, operands, given)
    cls = type(loss)
    fields = {name: getattr(loss, name) for name in cls.arguments.split() if name == "reduction" or name in cls.params}
    return cls.functional(*operands, **fields, **extras)
