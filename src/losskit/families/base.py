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
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, fx
from torch.overrides import handle_torch_function, has_torch_function_variadic

from losskit.calculus import Differentiable, derivative, guarded, number, parametric
from losskit.domains import Domain, real
from losskit.errors import DeclarationError, LossError, error
from losskit.forms import (
    MAX_OPERANDS,
    constructor_source,
    docstring,
    forward_source,
    function_source,
    misspelt,
    refuse_more,
    strict,
)
from losskit.formula import PRIMITIVES
from losskit.graph import ALIASES, Expr, Trace, spelling, topological
from losskit.kernels.dispatch import OPEN, Opened, Plan, run
from losskit.kernels.torch_internals import constant
from losskit.loss import Loss, Operand, Param, number_hint, validate
from losskit.printing import run_source
from losskit.reduction import check_reduction, legacy_reduction

MAX_PARAMETERS = 8  # of a declaration
KERNEL_NUMBERS = 16  # kMaxParameters of csrc/op.h: parameters, and what is computed from them
MAX_OPERATIONS = 1000  # of a formula: a kernel of more takes minutes to compile


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What an argument of a formula cannot be called, and why.
_CALLS = _words(
    "run plan plan_of Loss legacy_reduction self reduction size_average reduce sample_weight mask normalizer unknown "
    "more problem overridden refuse_more strict misspelt LossError has_torch_function_variadic handle_torch_function"
)
_CPP = _words(
    "alignas alignof and_eq asm atomic_cancel atomic_commit atomic_noexcept auto bitand bitor bool case catch "
    "char char16_t char32_t char8_t co_await co_return co_yield compl concept const const_cast consteval "
    "constexpr constinit decltype default delete do double dynamic_cast enum explicit export extern final float "
    "friend goto inline int long mutable namespace new noexcept not_eq nullptr operator or_eq override private "
    "protected public reflexpr register reinterpret_cast requires restrict short signed sizeof static "
    "static_assert static_cast struct switch synchronized template this thread_local throw typedef typeid "
    "typename typeof union unsigned using virtual void volatile wchar_t xor xor_eq linux unix i386 T std losskit "
    "block int8_t int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t size_t ptrdiff_t NAN INFINITY NULL "
    "EOF BUFSIZ MAXFLOAT SNAN SNANF SNANL BYTE_ORDER BIG_ENDIAN LITTLE_ENDIAN PDP_ENDIAN NFDBITS CHAR_BIT "
    "CHAR_MAX CHAR_MIN CLOCKS_PER_SEC MB_CUR_MAX MB_LEN_MAX OVERFLOW UNDERFLOW DOMAIN SING PLOSS TLOSS "
    "WCONTINUED WEXITED WEXITSTATUS WIFCONTINUED WIFEXITED WIFSIGNALED WIFSTOPPED WNOHANG WNOWAIT WSTOPPED "
    "WSTOPSIG WTERMSIG WUNTRACED alloca assert errno issubnormal math_errhandling offsetof signgam stderr stdin "
    "stdout va_arg va_copy va_end va_start htobe16 htobe32 htobe64 htole16 htole32 htole64 be16toh be32toh "
    "be64toh le16toh le32toh le64toh"
)
_MACROS = re.compile(
    r"(M|FP|FD|HUGE|MATH|DBL|FLT|LDBL|FLT\d+X?|CHAR|SCHAR|UCHAR|SHRT|USHRT|INT|UINT|LONG|ULONG|LLONG|ULLONG|"
    r"U?INT\d+|U?INT_\w+|U?INTMAX|U?INTPTR|PTRDIFF|SIZE|SSIZE|WCHAR|WINT|SIG|RAND|EXIT|LOSSKIT|TORCH|GLIBC|DECIMAL)_\w+|SNANF\w+"
)
_JAVASCRIPT = _words(
    "arguments async await boolean byte debugger enum eval export extends final finally function implements in "
    "instanceof interface let native new null package super switch synchronized this throws transient typeof undefined "
    "void yield NaN Infinity Math Number Object"
)
_TRITON = _words("tl lk libdevice triton")
RESERVED = _CALLS | _CPP | _JAVASCRIPT | _TRITON


def check_argument(cls: type[Loss], name: str) -> None:
    """Refuse the name of an operand or a parameter that is no identifier wherever the formula is printed."""
    where = "in C++ or JavaScript"
    if name in _CALLS:
        where = "beside the call's own arguments"
    elif name in _TRITON:
        where = "in Triton"
    elif name in PRIMITIVES or name in ("inf", "nan", "derivative"):
        where = "where the formula language has a function of this name"
    elif not (name in RESERVED or name.endswith("_") or _MACROS.fullmatch(name) or re.match(r"__|_[A-Z]", name)):
        return
    raise DeclarationError(
        f"{cls.__name__}: an argument of `value` cannot be called {name} {where}; choose another name"
    )


class Formula:
    """A traced `value` and its gradients, for one setting of the switches."""

    # What kernels found out about it in this process. It lies here, so that it goes with the formula.
    kernel: int | None = None  # address of the compiled functions, 0 if there are none; see kernels/library.py
    why_no_kernel = ""
    triton: Any = None  # the functions of a GPU's kernel

    def __init__(self, loss: type[Family], switches: dict[str, bool], opened: Sequence[str] = ()) -> None:
        """opened: parameters that are tensors of the call, after the operands."""
        self.loss, self.switches = loss, switches
        taken = [name for name in inspect.signature(loss.value).parameters if name not in loss.params] + [
            p.name for p in loss._formula_params() if p.kind == "tensor" and switches[p.name]
        ]
        self.operands = [*taken, *opened]
        of_formula = [p for p in loss._formula_params() if p.kind in ("float", "int")]
        numbers = {p.name: p for p in of_formula if p.name not in opened}
        self.numbers = list(numbers)
        self.trace = Trace({name: not p.domain.includes(0.0) for name, p in numbers.items()})
        value = self.traced(loss.value)
        if not isinstance(value, Expr):
            raise DeclarationError(f"{loss.__name__}.value must return one number, got {_told(value)}")
        self.value: Expr = value

    def __getstate__(self) -> dict[str, Any]:
        """Addresses are worth nothing in another process."""
        return {k: v for k, v in self.__dict__.items() if k not in ("kernel", "why_no_kernel", "triton")}

    def traced(self, function: Callable[..., Any]) -> Any:
        """What a function of the declaration returns for symbols, or the sentence that says what is wrong with it."""
        arguments: dict[str, Any] = {}
        for name in inspect.signature(self.loss.value).parameters:
            declared = self.loss.params.get(name)
            if declared is not None and declared.kind == "bool":
                arguments[name] = self.switches[name]
            elif declared is not None and declared.kind == "tensor" and not self.switches[name]:
                arguments[name] = None
            else:
                arguments[name] = self.trace.variable(name)
        place = f"{self.loss.__name__}.{function.__name__}"
        try:
            result = function(**arguments)
            found = tuple(map(self._lifted, result)) if isinstance(result, tuple) else self._lifted(result)
        except DeclarationError as problem:
            raise DeclarationError(f"{place}: {problem}{_meant(problem)}") from None
        except Exception as problem:
            line = " ".join(str(problem).split())
            raise DeclarationError(
                f"{place} must use the primitives of losskit.formula: {line or type(problem).__name__}{_meant(problem)}"
            ) from problem
        operations = len(topological([x for x in (found if isinstance(found, tuple) else [found]) if x is not None]))
        if operations > MAX_OPERATIONS:
            raise DeclarationError(
                f"{place}: a formula may have {MAX_OPERATIONS} operations, got {operations}; sum over a dimension of "
                f"the operands instead, which the reduction does"
            )
        return found

    def _lifted(self, result: Any) -> Expr | None:
        if isinstance(result, Expr) and result.is_condition:
            raise DeclarationError("it must return a number, got a condition; write where(condition, 1.0, 0.0)")
        if isinstance(result, Tensor | list | dict | set) or callable(result):
            raise DeclarationError(f"it must return one number, got {_told(result)}")
        return None if result is None else self.trace.lift(result)

    @cached_property
    def gradients(self) -> tuple[Expr, ...]:
        """The derivative by each operand: the author's where `grad` gives one, else derived."""
        return tuple(
            own if own is not None else derivative(self.value, self.trace.variable(name))
            for name, own in zip(self.operands, self._given, strict=True)
        )

    @cached_property
    def guarded(self) -> tuple[Expr, ...]:
        """The derivatives as they are computed: derived ones are NaN where an operand is."""
        linear = -self.trace.variable("log_probability")  # the kernel of class scores knows this one
        return tuple(
            gradient if own is not None or self.value is linear else guarded(gradient, self.value, self.operands)
            for gradient, own in zip(self.gradients, self._given, strict=True)
        )

    @cached_property
    def _given(self) -> tuple[Expr | None, ...]:
        """What the author's `grad` gives for each operand."""
        given: tuple[Expr | None, ...] = ()
        if self.loss.grad is not None:
            result = self.traced(self.loss.grad)
            given = result if isinstance(result, tuple) else (result,)
            if len(given) > len(self.operands):
                raise DeclarationError(f"{self.loss.__name__}: `grad` returns more entries than there are operands")
        return given + (None,) * (len(self.operands) - len(given))

    @cached_property
    def hoisted(self) -> dict[Expr, str]:
        """The parts that only parameters decide and that rounding could spoil, and what kernels call them.

        They are computed once for a plan, in float64. A parameter times a power of two is exact where it stands.
        """
        parts = [x for x in parametric([self.value, *self.guarded]) if not x.is_condition and not _exact(x)]
        return {x: f"number{i}_" for i, x in enumerate(parts[: KERNEL_NUMBERS - len(self.numbers)])}

    @property
    def kernel_numbers(self) -> list[str]:
        """The numbers that kernels take: the parameters, and what is computed from them."""
        return [*self.numbers, *self.hoisted.values()]

    def kernel_values(self, parameters: dict[str, Any]) -> dict[str, float]:
        """The numbers that kernels take, by name."""
        own = {name: parameters[name] for name in self.numbers}
        return own | {name: number(x, own) for x, name in self.hoisted.items()}

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
            result[name] = replace(operand, domain=real, hint="", only_with="") if off else operand
        return result

    @cached_property
    def domains(self) -> list[Domain]:
        """What each operand is meant to be, under these switches."""
        return [operand.domain for operand in self.declared.values()]

    @property
    def required(self) -> list[Domain]:
        """What each operand must be: a domain that is only advised refuses nothing."""
        return [real if advised else domain for domain, advised in zip(self.domains, self.advised, strict=True)]

    @cached_property
    def advised(self) -> list[bool]:
        """Whether what is outside the declared domain of an operand is only warned of."""
        return [bool(x.only_with) and not self.switches[x.only_with] for x in self.declared.values()]

    def differentiable(self, numbers: dict[str, float]) -> Differentiable:
        """The formula with its parameters fixed."""
        fixed = Differentiable(self.value, self.operands, numbers, self.guarded)
        self.prepare(fixed)
        return fixed

    def prepare(self, formula: Differentiable) -> None:
        """Make what torch.compile cannot trace the making of."""
        formula.prepare({name: operand.domain.typical for name, operand in self.declared.items()} | self.loss._harmless)

    @property
    def predictions(self) -> int:
        """Bits of the operands that models usually produce: all but the target and tensor parameters."""
        fixed = {"target", *self.loss.params}
        return sum(1 << i for i, name in enumerate(self.operands) if name not in fixed)


def _exact(node: Expr) -> bool:
    """Whether a number is a parameter, or one times a power of two."""
    if node.op == "neg":
        return _exact(node.args[0])
    if node.op in ("mul", "div"):
        factor, other = node.args if node.op == "mul" and node.args[0].op == "constant" else node.args[::-1]
        return factor.op == "constant" and abs(math.frexp(factor.value)[0]) == 0.5 and _exact(other)
    return node.op == "variable"


def _told(result: Any) -> str:
    """What a function returned, in words."""
    if result is None:
        return "nothing: end it with `return`"
    if isinstance(result, tuple | list):
        return f"{len(result)} in a {type(result).__name__}; the gradients go into `grad`"
    return f"a {type(result).__module__}.{type(result).__name__}".replace("builtins.", "")


def _meant(problem: Exception) -> str:
    """What an author probably wanted to write, from where a formula failed and what its line calls."""
    name = getattr(problem, "name", None) if isinstance(problem, NameError | AttributeError) else None
    if isinstance(problem, ImportError):
        name = next(iter(re.findall(r"import name '(\w+)'", str(problem))), None)
    if "; write" in str(problem):
        return ""
    if name:
        return f"; {spelling(name)}"
    trace = problem.__traceback__
    frames = []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    own = [frame for frame in frames if not str(frame.f_globals.get("__name__", "")).startswith("losskit.")]
    if not own or not isinstance(own[-1].f_globals, dict):
        return ""
    code = own[-1].f_code
    foreign = [own[-1].f_globals.get(x) for x in code.co_names]
    modules = {getattr(x, "__name__", "").split(".")[0] for x in foreign if inspect.ismodule(x)}
    known = PRIMITIVES.keys() | ALIASES.keys()
    used = [x for x in code.co_names if x in known and (modules or x in ("max", "min"))]
    return "; " + "; ".join(map(spelling, used)) if used else ""


class Formulas(dict[tuple[bool, ...], Formula]):
    """The formulas of a declaration, one for each setting of its switches; made anew in another process."""

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

    A family gives `_plan_class`, the names of its calls' tensors (`_call_operands`) and, where a formula speaks of
    something else than these tensors, the names that it may use (`statistics`).
    """

    operands: ClassVar[dict[str, Operand]] = {}
    _statistics: ClassVar[tuple[str, ...] | None] = None  # None: the formula's arguments are the operands
    _harmless: ClassVar[dict[str, float]] = {}  # values of statistics at which no formula has an infinite derivative
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
            "run": run, "plan_of": plan_of, "Loss": cls, "legacy_reduction": legacy_reduction, "overridden": overridden,
            "refuse_more": refuse_more,
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
        taken = _arguments(cls, "value")
        for name in dict.fromkeys([*taken, *cls.params, *cls.operands]):
            check_argument(cls, name)
        for name in taken:
            own = cls.__dict__.get(name)
            if name not in cls.params and isinstance(own, bool | int | float):
                raise DeclarationError(
                    f"{cls.__name__}: {name} is a parameter; write "
                    f"{name}: {type(own).__name__} = param(default={own!r}, doc=...)"
                )
            if cls._statistics is not None and name not in cls.params and name not in cls._statistics:
                known = ", ".join(cls._statistics)
                raise DeclarationError(
                    f"{cls.__name__}: `value` may speak of {known} and its parameters, not of {name}"
                )
        for name in cls.params:
            if name not in taken and name not in cls._family_params | cls._used_elsewhere():
                raise DeclarationError(f"{cls.__name__}: `value` does not take the parameter {name}")
        if cls.grad is not None and list(_arguments(cls, "grad")) != list(taken):
            raise DeclarationError(f"{cls.__name__}: `grad` must take the arguments of `value`: {', '.join(taken)}")
        for formula in cls._formulas.all():
            if not 1 <= len(formula.operands) <= MAX_OPERANDS:
                raise DeclarationError(
                    f"{cls.__name__}: `value` must take 1 to {MAX_OPERANDS} tensors, got {len(formula.operands)}"
                )
            formula.gradients  # noqa: B018  # derives what `grad` does not give, or says why it cannot
            if len(formula.numbers) > MAX_PARAMETERS:
                raise DeclarationError(
                    f"{cls.__name__}: a loss may have {MAX_PARAMETERS} numbers, got {len(formula.numbers)}"
                )

    def _planned(self) -> Plan:
        """What runs this loss with its present parameters."""
        if self._plan is None:
            values = [(p, getattr(self, p.name)) for p in self._plan_params()]
            keys = [value is not None if p.kind == "tensor" else value for p, value in values]
            plan = plan_of(cast(Any, type(self).declared), str(self.reduction), *keys)
            if isinstance(plan, Opened):  # with tensors of this call
                return plan
            self.__dict__["_plan"] = plan
        return self.__dict__["_plan"]

    @classmethod
    def _unreduced(cls) -> str:
        """What reduction 'none' gives, in words."""
        raise NotImplementedError

    @classmethod
    def _compiled_formulas(cls) -> list[Formula]:
        """The formulas that the kernel evaluates, one for each setting of the switches."""
        return cls._formulas.all() if cls._of_formula else []

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
    def _switches(cls) -> list[str]:
        """What selects the formula: boolean parameters, and whether a tensor parameter is there."""
        return [p.name for p in cls._formula_params() if p.kind in ("bool", "tensor")]

    @classmethod
    def _formula_of(cls, parameters: dict[str, Any]) -> tuple[Formula, dict[str, float]]:
        """The formula that these parameters select, and the numbers that it takes."""
        opened = [name for name, value in parameters.items() if value is OPEN]
        if opened:
            formula = Formula(cls, {name: parameters[name] for name in cls._switches()}, opened)
        else:
            formula = cls._formulas[tuple(parameters[name] for name in cls._switches())]
        return formula, formula.kernel_values(parameters)

    @classmethod
    def _used_elsewhere(cls) -> set[str]:
        """Parameters that a declaration uses outside of `value`."""
        return set()

    @classmethod
    def _slots(cls, prefix: str, class_name: str) -> list[str]:
        """The tensors that `run` is given, as source; tensor parameters come after the operands of the call."""
        return cls._call_operands() + [prefix + p.name for p in cls._plan_params() if p.kind == "tensor"]

    def _slot_params(self) -> list[Tensor]:
        """The tensor parameters that are there."""
        tensors = [getattr(self, p.name) for p in self._plan_params() if p.kind == "tensor"]
        return [x for x in tensors if x is not None]


def _arguments(cls: type[Family], method: str) -> list[str]:
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


def plan_of(loss: type[Family], reduction: str, *values: Any) -> Plan:
    """The plan of a loss with these parameters, in the order of `loss.params` (without `weight`)."""
    if torch.compiler.is_compiling():
        # Dynamo cannot trace the making of a plan, nor call into one that has no place: it is made while tracing, and
        # found by name. Its numbers become constants, so that another number compiles again; a tensor does not.
        fixed = [OPEN if isinstance(value, Tensor) else _constant(value) for value in values]
        found: Plan = getattr(_plans, _stored(loss, reduction, *fixed))
        tensors = [value for value in values if isinstance(value, Tensor)]
        return Opened(found, tensors) if tensors else found
    key = (reduction, *values)
    try:
        plan = loss._plans.get(key)
    except TypeError:  # unhashable: the new plan's validation says what is allowed
        plan = None
    if plan is not None:
        return plan
    if any(isinstance(value, Tensor) for value in values):  # found by what is in it, which may change
        return plan_of(loss, reduction, *_checked(loss, values).values())
    plan = _new_plan(loss, reduction, *values)
    if len(loss._plans) >= 256:  # a parameter that changes with every step must not fill the memory
        loss._plans.clear()
    loss._plans[key] = plan
    return plan


def _constant(value: Any) -> Any:
    """A number that Dynamo may have made a symbol, as the number that it is now."""
    if isinstance(value, (int, float)):  # Dynamo of torch 2.10 knows no union here
        from torch.fx.experimental.symbolic_shapes import guard_scalar  # late: it imports sympy

        return guard_scalar(value)
    return value


def _new_plan(loss: type[Family], reduction: str, *values: Any) -> Plan:
    if not isinstance(reduction, str):
        check_reduction(loss.name, reduction, loss.reductions, number_hint(loss, reduction))
    check_reduction(loss.name, reduction, loss.reductions)
    checked = _checked(loss, values)
    plan = loss._plan_class(loss, reduction, checked)
    plan.key = json.dumps([loss.name, reduction, *checked.values()])  # an OPEN parameter is a string in it
    return plan


def _checked(loss: type[Family], values: Iterable[Any]) -> dict[str, Any]:
    """The parameters by name, validated."""
    checked = dict[str, Any]()
    for p, value in zip(loss._plan_params(), values, strict=True):
        if value is OPEN and (loss._statistics is not None or p.kind != "float" or p not in loss._formula_params()):
            raise error("open", loss=loss.name, argument=p.name)
        checked[p.name] = value if p.kind == "tensor" or value is OPEN else validate(loss.name, p, value)
    return checked


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
            tracer: Any = x.tracer
            given = {key: value for key, value in extras.items() if value is not None}
            return tracer.create_proxy("call_module", tracer.path_of_module(loss), operands, given)
    cls = type(loss)
    fields = {name: getattr(loss, name) for name in cls.arguments.split() if name == "reduction" or name in cls.params}
    return cls.functional(*operands, **fields, **extras)
