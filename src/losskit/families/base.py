"""The base of all families: it traces a declaration and gives it a functional form, `forward` and plans.

A family says what a formula speaks of (elements, rows of scores, embeddings, sequences). A declaration's `value` is
traced once per combination of its switches when the class is made; the trace is what is evaluated eagerly, printed
as C++ and differentiated (see `losskit.formula`). A call goes to `run` with the plan of the present parameters.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, fx
from torch.overrides import handle_torch_function, has_torch_function_variadic

from losskit.declaration import OPEN, Operand, Param
from losskit.display import Mathematics, Statistic, Writer, written_of
from losskit.draw import Draw
from losskit.errors import DeclarationError, LossError, error
from losskit.forms import (
    constructor_source,
    docstring,
    forward_source,
    function_source,
    misspelt,
    refuse_more,
    signature_source,
    strict,
)
from losskit.kernels.dispatch import call, run
from losskit.kernels.wire import MAX_DECLARED, MAX_OPERANDS
from losskit.loss import Loss, legacy_reduction
from losskit.names import check_argument
from losskit.plan import Plan
from losskit.plans import Plans, plan_of, present, tensors
from losskit.printing import run_source
from losskit.traced import Formula
from losskit_guide.card import Curve, Equation, Pairs, Rows, Variant

LONG = 150  # operations of a formula and its gradients, from which on other settings than the default are rare


class Formulas(dict[tuple[Any, ...], Formula]):
    """The formulas of a declaration, one for each setting of its switches; made anew in another process."""

    def __init__(self, loss: type[Family]) -> None:
        super().__init__()
        self.loss = loss

    def __missing__(self, setting: tuple[Any, ...]) -> Formula:
        formula = self[setting] = Formula(self.loss, dict(zip(self.loss._switches(), setting, strict=True)))
        return formula

    def all(self) -> list[Formula]:
        return [self[setting] for setting in itertools.product(*self.loss._settings().values())]

    def usual(self) -> list[Formula]:
        """Those at the default switches, and at each switch alone changed: 1 + n of the 2^n settings of n switches. Of
        words only the default, since nobody uses all of them; of long formulas, too.

        Their kernels are in the package's library; the others are compiled on first use, since switches multiply. A
        kernel in the library costs 0.9 s of processor time and 32 KB (22 kernels of today), and with the formulas of
        coming losses 1.4 s and 45 KB (67 kernels of 65 drafts): two types, three sets of gradients, three instruction
        sets. For 125 losses that makes 9 MB of the 10 MB that the library may have and 350 s, 3 minutes of two cores:

                                            processor time      machine code
            loops of today's 5 families         95 s              2.2 MB
            22 kernels of today's losses        20 s              0.7 MB
            67 kernels of coming losses         95 s              3.0 MB
            40 kernels of coming families       35 s              1.0 MB    an estimate, by margins and embeddings
            loops of 5 coming families         100 s              2.5 MB    an estimate, by today's
        """
        usual = self.loss._usual_setting()
        found = [usual]
        for i, (name, settings) in enumerate(self.loss._settings().items()):
            if name not in self.loss.params or self.loss.params[name].kind != "choice":
                found += [(*usual[:i], other, *usual[i + 1 :]) for other in settings if other != usual[i]]
        first, *others = (self[setting] for setting in found)
        return [first, *(formula for formula in others if first.operations <= LONG)]

    def __reduce__(self) -> Any:
        return Formulas, (self.loss,)


class Family(Loss, abstract=True):
    """Base of the families: what a declaration with a `value` becomes.

    A family gives `_plan_class`, the names of its calls' tensors (`_call_operands`) and, where a formula speaks of
    something else than these tensors, the names that it may use (`statistics`).
    """

    operands: ClassVar[dict[str, Operand]] = {}
    _statistics: ClassVar[tuple[Statistic, ...] | None] = None  # None: the formula's arguments are the operands
    _label: ClassVar[str] = "by hand"  # the family's name in words
    _usual_shape: ClassVar[tuple[int, ...]] = (1024, 1000)  # of the first operand, for examples and benchmarks
    _harmless: ClassVar[dict[str, float]] = {}  # values of statistics at which no formula has an infinite derivative
    _several: ClassVar[bool] = False  # whether a worked case is of several units
    _in_steps: ClassVar[bool] = False  # whether a kernel computes long functions in loops of their own
    _of_formula: ClassVar[bool] = True  # whether a declaration has a `value`
    _plan_class: ClassVar[Callable[..., Plan]]
    grad: ClassVar[Callable[..., Any] | None] = None
    value: ClassVar[Callable[..., Any]]
    functional: ClassVar[Callable[..., Tensor]]
    _plans: ClassVar[Plans]
    _formulas: ClassVar[Formulas]

    @classmethod
    def _declare(cls) -> None:
        cls._formulas, cls._plans = Formulas(cls), Plans()
        if cls._of_formula:
            cls._trace()
        sources = [function_source(cls), forward_source(cls), constructor_source(cls)]
        scope: dict[str, Any] = {
            "run": run, "call": call, "plan_of": plan_of, "Loss": cls, "legacy_reduction": legacy_reduction,
            "overridden": overridden, "refuse_more": refuse_more, "tensors": tensors, "present": present, "OPEN": OPEN,
            "has_torch_function_variadic": has_torch_function_variadic, "handle_torch_function": handle_torch_function,
            "Literal": Literal, "Tensor": Tensor, "LossError": LossError, "strict": strict, "misspelt": misspelt,
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
        taken = arguments_of(cls, "value")
        for name in dict.fromkeys([*taken, *cls.params, *cls.operands]):
            check_argument(cls, name)
        for name in taken:
            own = cls.__dict__.get(name)
            if name not in cls.params and isinstance(own, bool | int | float):
                raise DeclarationError(
                    f"{cls.__name__}: {name} is a parameter; write "
                    f"{name}: {type(own).__name__} = param(default={own!r}, doc=...)"
                )
            spoken = [statistic.name for statistic in cls._statistics or ()]
            if cls._statistics is not None and name not in cls.params and name not in spoken:
                known = ", ".join(spoken)
                raise DeclarationError(
                    f"{cls.__name__}: `value` may speak of {known} and its parameters, not of {name}"
                )
        for p in cls._formula_params():
            if p.tensor and cls._statistics is not None:
                raise DeclarationError(
                    f"{cls.__name__}: {p.name} must be float: only element-wise losses take a tensor for a number"
                )
        for name in cls.params:
            if name not in taken and name not in cls._family_params | cls._used_elsewhere():
                raise DeclarationError(f"{cls.__name__}: `value` does not take the parameter {name}")
        if cls.grad is not None and list(arguments_of(cls, "grad")) != list(taken):
            raise DeclarationError(f"{cls.__name__}: `grad` must take the arguments of `value`: {', '.join(taken)}")
        for formula in cls._formulas.all():
            if not 1 <= len(formula.operands) <= MAX_OPERANDS:
                raise DeclarationError(
                    f"{cls.__name__}: `value` must take 1 to {MAX_OPERANDS} tensors, got {len(formula.operands)}"
                )
            formula.gradients  # noqa: B018  # derives the gradients that `grad` does not give, or raises why it cannot
            if len(formula.numbers) > MAX_DECLARED:
                raise DeclarationError(
                    f"{cls.__name__}: a loss may have {MAX_DECLARED} numbers, got {len(formula.numbers)}"
                )

    def _planned(self, *present: bool) -> Plan:
        """What runs this loss with its present parameters; present: for each optional operand, whether it is there."""
        optional = len(self._optional_operands())
        if self._plan is None or optional:
            keys = [p.key(getattr(self, p.name)) for p in self._plan_params()]
            plan = plan_of(cast(Any, type(self).declared), str(self.reduction), *keys, *(present or [False] * optional))
            if torch.compiler.is_compiling():  # what is remembered here would compile the second call again
                return plan
            self.__dict__["_plan"] = plan
        return self.__dict__["_plan"]

    @classmethod
    def _in_books(cls) -> list[str]:
        """The formula of a loss that has no `value` over the formula language, as text; none if there is no such."""
        return []

    @classmethod
    def _unreduced(cls) -> str:
        """What reduction 'none' gives, in words."""
        raise NotImplementedError

    @classmethod
    def _signature(cls) -> str:
        """The functional form as it is called, with types."""
        return signature_source(cls, annotated=True).removeprefix("def ")

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        """The loss in the operands of a call, for people."""
        raise NotImplementedError

    @classmethod
    def _written(cls) -> tuple[list[Variant], list[dict[str, str]]]:
        """The formulas under each setting of the switches, and what their letters stand for."""
        return written_of(cls)

    @classmethod
    def _curve(cls) -> Curve | None:
        """The loss as a function of one number."""
        raise NotImplementedError

    @classmethod
    def _units(cls) -> Rows | Pairs | None:
        """How a row of class scores, or the pairs of a batch, become numbers of the formula; None for other losses."""
        return None

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        """Random operands that a call takes; the first has this shape."""
        raise NotImplementedError

    @classmethod
    def _means(cls) -> list[Equation]:
        """What the reductions make of the unreduced losses."""
        return [
            Equation("sum", r"L = \sum_i \ell_i", "L = Σᵢ ℓᵢ"),
            Equation("mean", r"L = \frac{1}{N} \sum_i \ell_i", "L = 1/N · Σᵢ ℓᵢ"),
        ]

    @classmethod
    def _compiled_formulas(cls) -> list[Formula]:
        """The formulas that the kernel evaluates, one for each setting of the switches."""
        return cls._formulas.all() if cls._of_formula else []

    @classmethod
    def _built_in_formulas(cls) -> list[Formula]:
        """Those whose kernels are in the package's library."""
        usual = cls._formulas.usual() if cls._of_formula else []
        return [formula for formula in cls._compiled_formulas() if formula in usual]

    @classmethod
    def _plan_params(cls) -> list[Param]:
        """The parameters that a plan fixes; `weight` is a tensor of the call."""
        return [p for p in cls.params.values() if p.name != "weight"]

    @classmethod
    def _formula_params(cls) -> list[Param]:
        """The parameters that the formula takes; the others belong to the family."""
        taken = inspect.signature(cls.value).parameters if cls._of_formula else {}
        return [p for p in cls.params.values() if p.name in taken]

    @classmethod
    def _settings(cls) -> dict[str, tuple[Any, ...]]:
        """What selects the formula, and what each may be: switches, words, whether a tensor is there."""
        own = {p.name: p.settings for p in cls._formula_params() if p.selects}
        spoken = cls._optional_operands() if cls._statistics is None else []  # statistics are there without an operand
        return own | dict.fromkeys(spoken, (False, True))

    @classmethod
    def _switches(cls) -> list[str]:
        """The names of what selects the formula."""
        return list(cls._settings())

    @classmethod
    def _usual_setting(cls) -> tuple[Any, ...]:
        """The setting at the defaults, without optional operands."""
        params = cls.params
        return tuple(
            params[x].setting(params[x].key(params[x].default)) if x in params else False for x in cls._switches()
        )

    @classmethod
    def _shown(cls, switches: dict[str, Any] | None = None) -> dict[str, bool | str]:
        """A setting, the usual one if none is given, as cards have it.

        What can be only one thing is left out; what may be missing is there or not.
        """
        switches = switches or dict(zip(cls._switches(), cls._usual_setting(), strict=True))
        several = [name for name, settings in cls._settings().items() if len(settings) > 1]
        there = [name for name in several if name in cls.params and cls.params[name].tensor]
        return {name: switches[name] is not None if name in there else switches[name] for name in several}

    @classmethod
    def _optional_operands(cls) -> list[str]:
        """The tensors that a call may leave out."""
        return [name for name in cls._call_operands() if name in cls.operands and cls.operands[name].optional]

    @classmethod
    def _operand_params(cls) -> list[Param]:
        """The parameters that a call takes as operands where they are tensors."""
        return [p for p in cls._formula_params() if p.kind == "tensor" or p.tensor]

    @classmethod
    def _formula_of(cls, parameters: dict[str, Any]) -> tuple[Formula, dict[str, float]]:
        """The formula that these parameters select, and the numbers that it takes."""
        params = cls.params
        setting = tuple(params[x].setting(parameters[x]) if x in params else parameters[x] for x in cls._switches())
        opened = [name for name, value in parameters.items() if value is OPEN and not params[name].tensor]
        if opened:
            formula = Formula(cls, dict(zip(cls._switches(), setting, strict=True)), opened)
        else:
            formula = cls._formulas[setting]
        for name in formula.unused:
            if parameters[name] is not OPEN and parameters[name] != params[name].default:
                cls._refuse_unused(name, parameters[name], setting)
        return formula, formula.kernel_values(parameters)

    @classmethod
    def _refuse_unused(cls, name: str, value: Any, setting: tuple[Any, ...]) -> None:
        """Refuse a number that has no effect because of a word, or of an operand that is not there."""
        for i, (switch, settings) in enumerate(cls._settings().items()):
            word = switch in cls.params and cls.params[switch].kind == "choice"
            keys = [(*setting[:i], other, *setting[i + 1 :]) for other in settings]
            others = [cls._formulas[key] for key in keys]
            if (word or switch not in cls.params) and any(name not in other.unused for other in others):
                why = f"with {switch}={setting[i]!r}" if word else f"without {switch}"
                expected = f"{cls.params[name].default!r} {why}"
                raise error("parameter", loss=cls.name, argument=name, expected=expected, got=repr(value))

    @classmethod
    def _used_elsewhere(cls) -> set[str]:
        """Parameters that a declaration uses outside of `value`."""
        return set()

    @classmethod
    def _made_slots(cls, prefix: str, class_name: str) -> list[str]:
        """What `run` is given beside the operands and tensor parameters, as source."""
        return []

    def _with_slots(self, operands: Sequence[Any]) -> list[Any]:
        """What `run` is given for these operands of a call."""
        return [*operands, *self._slot_params()]

    def _slot_params(self) -> list[Tensor]:
        """The parameters that `run` is given as operands."""
        return tensors(*(getattr(self, p.name) for p in self._operand_params()))


def arguments_of(cls: type[Family], method: str) -> list[str]:
    """The arguments of `value` or `grad`, which are all named, in order."""
    function = getattr(cls, method)
    try:
        signature = inspect.signature(function).parameters
    except (TypeError, ValueError):
        raise DeclarationError(f"{cls.__name__}.{method} must be a function, got {function!r}") from None
    for argument in signature.values():
        kind = inspect.Parameter
        text = str(argument).split(":")[0]
        if argument.kind in (kind.VAR_POSITIONAL, kind.VAR_KEYWORD, kind.POSITIONAL_ONLY):
            raise DeclarationError(
                f"{cls.__name__}.{method} must name its operands and parameters, one argument each; got {text}"
            )
        if argument.default is not kind.empty:
            raise DeclarationError(
                f"{cls.__name__}.{method}: the argument {argument.name} cannot have a default; "
                f"a parameter is declared as {argument.name}: float = param(default={argument.default!r}, doc=...)"
            )
    return list(signature)


def overridden(loss: Family, operands: tuple[Any, ...], sample_weight: Any, mask: Any, normalizer: Any) -> Any:
    """A call that an operand or an active mode overrides: a leaf module of an fx graph, or the functional form."""
    extras = {"sample_weight": sample_weight, "mask": mask, "normalizer": normalizer}
    for x in operands:
        if isinstance(x, fx.Proxy):
            tracer: Any = x.tracer
            given = {key: value for key, value in extras.items() if value is not None}
            return tracer.create_proxy("call_module", tracer.path_of_module(loss), operands, given)
    cls = type(loss)
    fields = {name: getattr(loss, name) for name in cls.arguments.split() if name == "reduction" or name in cls.params}
    optional = cls._optional_operands()
    named = {name: x for name, x in zip(cls._call_operands(), operands, strict=True) if name in optional}
    return cls.functional(*operands[: len(operands) - len(named)], **named, **fields, **extras)
