"""The formula of a declaration: its `value` and `grad`, traced for one setting of its switches.

The trace is what is evaluated eagerly, printed as C++ and Triton, and differentiated.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import Tensor

from losskit.calculus import Differentiable, derivative, guarded, number, parametric
from losskit.declaration import OPEN, POSITION, Operand
from losskit.domains import Domain, real
from losskit.errors import DeclarationError
from losskit.formula import PRIMITIVES
from losskit.graph import ALIASES, Expr, Trace, spelling, topological
from losskit.kernels.wire import MAX_PARAMETERS

MAX_OPERATIONS = 1000  # of a formula: a kernel of more takes minutes to compile


class Formula:
    """A traced `value` and its gradients, for one setting of the switches."""

    # What kernels know of this formula in this process; stored here, so that it is freed with the formula.
    kernel: int | None = None  # address of the compiled functions, 0 if there are none; see kernels/library.py
    why_no_kernel = ""
    triton: Any = None  # the functions of a GPU's kernel

    def __init__(self, loss: Any, switches: dict[str, Any], opened: Sequence[str] = ()) -> None:
        """switches: the setting of each of `loss._switches()`; opened: more numbers that are tensors of the call."""
        self.loss, self.switches = loss, switches
        of_call = [name for name in inspect.signature(loss.value).parameters if name not in loss.params]
        declared = loss._formula_params()
        tensors = [p.name for p in declared if switches.get(p.name) is (True if p.kind == "tensor" else OPEN)]
        opened = [*tensors, *opened]
        last = [POSITION] if POSITION in of_call else []
        self.operands = [x for x in of_call if switches.get(x, x != POSITION)] + opened + last
        of_formula = [p for p in declared if p.kind in ("float", "int") and switches.get(p.name, 0) is not None]
        numbers = {p.name: p for p in of_formula if p.name not in opened}
        self.numbers = list(numbers)
        self.trace = Trace({name: not p.domain.includes(0.0) for name, p in numbers.items()})
        value = self.traced(loss.value)
        if not isinstance(value, Expr):
            raise DeclarationError(f"{loss.__name__}.value must return one number, got {_told(value)}")
        self.value: Expr = value

    def __getstate__(self) -> dict[str, Any]:
        """Without addresses, which mean nothing in another process."""
        return {k: v for k, v in self.__dict__.items() if k not in ("kernel", "why_no_kernel", "triton")}

    def traced(self, function: Callable[..., Any]) -> Any:
        """What a function of the declaration returns for symbols, or the sentence that says what is wrong with it."""
        arguments: dict[str, Any] = {}
        for name in inspect.signature(self.loss.value).parameters:
            if name in self.operands or name in self.numbers:
                arguments[name] = self.trace.variable(name)
            else:
                declared = self.loss.params.get(name)
                switch = declared is not None and declared.kind in ("bool", "choice")
                arguments[name] = self.switches[name] if switch else None
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
    def unused(self) -> list[str]:
        """The numbers that say nothing under these switches."""
        used = {node.value for node in topological([self.value]) if node.op == "variable"}
        return [name for name in self.numbers if name not in used]

    @cached_property
    def gradients(self) -> tuple[Expr, ...]:
        """The derivative by each operand: the author's where `grad` gives one, else derived."""
        return tuple(
            self.trace.constant(0.0)
            if not operand.differentiable
            else derivative(self.value, self.trace.variable(name)) if own is None else own
            for (name, operand), own in zip(self.declared.items(), self._given, strict=True)
        )  # fmt: skip

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
        names = [name for name in self.operands if name not in self.loss.params and name != POSITION]
        names += [p.name for p in self.loss._operand_params() if p.name in (*self.operands, *self.numbers)]
        if len(given) > len(names):
            raise DeclarationError(f"{self.loss.__name__}: `grad` returns more entries than there are operands")
        by_name = dict(zip(names, given, strict=False))
        return tuple(by_name.get(name) for name in self.operands)

    @cached_property
    def hoisted(self) -> dict[Expr, str]:
        """The parts that depend on parameters alone and that rounding could spoil, with their names in kernels.

        They are computed once for a plan, in float64. A parameter times a power of two is exact anyway, so it stays.
        """
        parts = [x for x in parametric([self.value, *self.guarded]) if not x.is_condition and not _exact(x)]
        return {x: f"number{i}_" for i, x in enumerate(parts[: MAX_PARAMETERS - len(self.numbers)])}

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
        """How each operand was declared, under these switches; a component has its own domain."""
        parts = components(self.loss.operands)
        found = {}
        for name in self.operands:
            if name in parts:
                tensor, domain = parts[name]
                found[name] = replace(self.loss.operands[tensor], domain=domain, components={})
            else:
                found[name] = self._declared(name)
        return found

    @cached_property
    def tensors(self) -> dict[str, Operand]:
        """The tensors that a call has, by name: an operand each, or components of one."""
        parts = components(self.loss.operands)
        names = dict.fromkeys(parts[name][0] if name in parts else name for name in self.operands if name != POSITION)
        return {name: self._declared(name) for name in names}

    def _declared(self, name: str) -> Operand:
        """How an operand was declared, under these switches; a tensor parameter broadcasts."""
        of_param = self.loss.params.get(name)
        if of_param is not None:
            return Operand(of_param.doc, of_param.domain, broadcast=True)
        if name == POSITION:
            return Operand("Place of the element in its row, from 0 on.", broadcast=True, differentiable=False)
        constants = {x.name for x in self.loss._statistics or () if x.constant}
        operand: Operand = self.loss.operands.get(name, Operand(name, differentiable=name not in constants))
        off = operand.unless and self.switches[operand.unless]
        return replace(operand, domain=real, hint="", only_with="") if off else operand

    @property
    def operations(self) -> int:
        """How many operations value and gradients have together."""
        return len(topological([self.value, *self.gradients]))

    @property
    def stopped(self) -> bool:
        """Whether part of the value is a constant for differentiation: the gradient is not that of the value."""
        book = [self.traced(self.loss.textbook)] if self.loss.textbook else []
        return any(node.op == "stop" for node in topological([self.value, *book]))

    @cached_property
    def domains(self) -> list[Domain]:
        """The domain that each operand is meant to be in, under these switches."""
        return [operand.domain for operand in self.declared.values()]

    @property
    def required(self) -> list[Domain]:
        """The domain that each operand must be in; an advised domain refuses nothing."""
        return [real if advised else domain for domain, advised in zip(self.domains, self.advised, strict=True)]

    @cached_property
    def advised(self) -> list[bool]:
        """For each operand, whether a value outside its declared domain only warns."""
        return [x.advised(self.switches) for x in self.declared.values()]

    def differentiable(self, numbers: dict[str, float]) -> Differentiable:
        """The formula with its parameters fixed."""
        fixed = Differentiable(self.value, self.operands, numbers, self.guarded)
        self.prepare(fixed)
        return fixed

    def counts(self, numbers: dict[str, float]) -> Differentiable | None:
        """What the mean divides by, a number for each element, where the declaration says so."""
        return None if self.traced_counts is None else Differentiable(self.traced_counts, self.operands, numbers)

    @cached_property
    def traced_counts(self) -> Expr | None:
        """How often an element counts in the denominator of a mean, where the declaration says so."""
        return None if getattr(self.loss, "counts", None) is None else self.traced(self.loss.counts)

    def prepare(self, formula: Differentiable) -> None:
        """Make what torch.compile cannot trace the making of."""
        formula.prepare({name: operand.domain.typical for name, operand in self.declared.items()} | self.loss._harmless)

    @property
    def predictions(self) -> int:
        """Bits of the operands that models usually produce: all but the target and tensor parameters."""
        fixed = {"target", *self.loss.params, *(name for name, x in self.declared.items() if not x.differentiable)}
        fixed |= {name for name, (tensor, _) in components(self.loss.operands).items() if tensor == "target"}
        return sum(1 << i for i, name in enumerate(self.operands) if name not in fixed)


def hook(
    loss: Any, function: Callable[..., Any], operands: Sequence[str], parameters: dict[str, Any]
) -> Differentiable:
    """A formula of a declaration beside `value`, with its parameters fixed."""
    names = inspect.signature(function).parameters
    numbers = {name: parameters[name] for name in names if name not in operands}
    trace = Trace({name: not loss.params[name].domain.includes(0.0) for name in numbers})
    root = trace.lift(function(**{name: trace.variable(name) for name in names}))
    made = Differentiable(root, operands, numbers)
    made.prepare({})
    return made


def components(operands: Mapping[str, Operand]) -> dict[str, tuple[str, Domain]]:
    """The components of operands, as a formula calls them: whose they are, and their domains."""
    return {
        f"{name}_{part}": (name, domain)
        for name, operand in operands.items()
        for part, domain in operand.components.items()
    }


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
