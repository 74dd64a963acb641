"""What a declaration is printed into: the functional form, the constructor, `forward`, and the docstring of all three.

The forms are source code with true signatures, which Python's own tools, type checkers and torch.compile read.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from losskit.declaration import Operand, Param
from losskit.errors import error
from losskit.loss import Loss, suggestion

Function = TypeVar("Function", bound=Callable[..., Any])

_EXTRAS = {"sample_weight": "Tensor | None", "mask": "Tensor | None", "normalizer": "Tensor | float | None"}
_EXTRA_DOCS = {
    "sample_weight": "Weight of each unreduced loss; broadcasts to it. The mean divides by the sum of weights.",
    "mask": "Boolean, True = counts; masked elements are exact zeros, also from NaN.",
    "normalizer": 'Denominator of "mean": a number or a tensor with one element.',
}
_TYPES = {"size_average": "bool | None", "reduce": "bool | None", "weight": "Tensor | None", "tensor": "Tensor"}


# -- signatures -------------------------------------------------------------------------------------------


def _type(loss: type[Loss], name: str) -> str:
    if name == "reduction":
        return f"Literal[{', '.join(map(repr, loss.reductions))}]"
    if name not in loss.params:
        return _TYPES[name]
    p = loss.params[name]
    own = f"Literal[{', '.join(map(repr, p.choices))}]" if p.kind == "choice" else _TYPES.get(p.kind, p.kind)
    return f"{own}{' | Tensor' if p.tensor else ''}{' | None' if p.none else ''}"


def _operand_type(loss: Any, name: str) -> str:
    # torch takes a Python number as variance; so does every operand that may broadcast, except the target.
    operand = loss.operands.get(name, Operand(name))
    own = "Tensor | float" if operand.broadcast and name != "target" else operand.type
    return f"{own} | None = None" if operand.optional else own


def _with_default(loss: Any, name: str, type: str = "") -> str:
    """An argument of a signature: with its type, if that is told, and its default, if there is one."""
    typed = f"{name}: {type}" if type else name
    if name in loss.params and loss.params[name].required:
        return typed
    return f"{typed}{' = ' if type else '='}{loss._default(name)!r}"


def _slots(loss: Any, prefix: str, class_name: str) -> str:
    """The tensors that `run` is given, as source: those of the call, then the parameters that are tensors now."""
    optional = loss._optional_operands()
    slots = [name for name in loss._call_operands() if name not in optional]
    slots += [f"*present({', '.join(optional)})"] if optional else []
    slots += loss._made_slots(prefix, class_name)
    parameters = [prefix + p.name for p in loss._operand_params()]
    slots += [f"*tensors({', '.join(parameters)})"] if parameters else []
    return f"({', '.join(slots)}{'' if len(slots) > 1 else ','})"


def signature_source(loss: Any, annotated: bool, unknown: str = "") -> str:
    """The first line of the functional form; unknown: what takes arguments that it does not have."""
    names = loss.arguments.split()
    typed = [f"{name}: {_operand_type(loss, name)}" for name in loss._call_operands()]
    signature = typed if annotated else _bare(loss)
    signature += [_with_default(loss, name, _type(loss, name) if annotated else "") for name in names]
    signature.sort(key=lambda text: "=" in text)  # an operand that may be missing follows what must be given
    signature += ["*", *(f"{name}: {kind} = None" if annotated else f"{name}=None" for name, kind in _EXTRAS.items())]
    signature += [unknown] if unknown else []
    return f"def {loss.name}({', '.join(signature)}){' -> Tensor' if annotated else ''}"


def _key(p: Param) -> str:
    """What a plan is found by, as source: `Param.key`, which torch.compile would have to trace.

    A value that should be a tensor, and is none, is put into a list. No plan is stored under a list, so a new plan is
    made, and its validation refuses the value.
    """
    if p.kind == "tensor":
        return f"{p.name} is not None and (isinstance({p.name}, Tensor) or [{p.name}])"
    return f"OPEN if isinstance({p.name}, Tensor) else {p.name}" if p.tensor else p.name


def _bare(loss: Any) -> list[str]:
    """The operands of a call, without types."""
    optional = loss._optional_operands()
    return [f"{name}=None" if name in optional else name for name in loss._call_operands()]


def function_source(loss: Any, class_name: str = "Loss", annotated: bool = False) -> str:
    """The functional form as Python source."""
    names, operands = loss.arguments.split(), loss._call_operands()
    own = [p.name for p in loss.params.values() if p.name in names and (p.kind == "tensor" or p.tensor)]
    tensors = list(dict.fromkeys([*operands, *own, *(name for name in names if name == "weight")]))
    optional = loss._optional_operands()
    passed = [name for name in operands if name not in optional]
    passed += [f"{name}={name}" for name in [*optional, *names, *_EXTRAS]]
    weight = "weight" if "weight" in names else "None"
    given = ["reduction", *map(_key, loss._plan_params()), *(f"{name} is not None" for name in optional)]
    slots = f"{_slots(loss, '', class_name)}, {weight}, sample_weight, mask, normalizer"
    calls = (  # tensors that are made from parameters come after the plan, which checks these
        [f"        plan = plan_of({class_name}, {', '.join(given)})", f"        return run(plan, {slots})"]
        if loss._made_slots("", class_name)
        else [f"        return call({class_name}, ({', '.join(given)}{',' * (len(given) == 1)}), {slots})"]
    )
    legacy = [
        "    if size_average is not None or reduce is not None:",
        f"        reduction = legacy_reduction({loss.name!r}, size_average, reduce, reduction)",
    ]
    return "\n".join([
        # No value is a NoReturn: a type checker refuses what the call would.
        "@strict", f"{signature_source(loss, annotated, '**unknown: NoReturn' if annotated else '**unknown')}:",
        f"    if has_torch_function_variadic({', '.join(tensors)}):",
        f"        return handle_torch_function({loss.name}, ({', '.join(tensors)},), {', '.join(passed)}, **unknown)",
        "    if unknown:",
        f"        raise misspelt({class_name}, unknown)",
        *(legacy if "size_average" in names else []),
        "    try:",
        *calls,
        *_RAISED,
    ])  # fmt: skip


# Raised again here, its sentence stands right below the caller's line and not under the frames within.
_RAISED = ["    except LossError as problem:", "        raise problem.with_traceback(None) from None"]


def forward_source(loss: Any) -> str:
    """`forward` as Python source; ONNX's exporter of traced graphs gives a None by position for each of the extras."""
    operands = ", ".join(loss._call_operands())
    there = ", ".join(f"{name} is not None" for name in loss._optional_operands())
    weight = "self.weight" if "weight" in loss.params else "None"
    extras = "sample_weight, mask, normalizer"
    return "\n".join([
        "@strict",
        f"def forward(self, {', '.join(_bare(loss))}, *more, sample_weight=None, mask=None, normalizer=None, "
        "**unknown):",
        "    if more or unknown:",
        "        refuse_more(self, more, unknown)",
        f"    if has_torch_function_variadic({operands}):",
        f"        return overridden(self, ({operands},), {extras})",
        "    try:",
        f"        plan = self._planned({there})" if there else "        plan = self._plan or self._planned()",
        f"        return run(plan, {_slots(loss, 'self.', 'Loss')}, {weight}, {extras})",
        *_RAISED,
    ])  # fmt: skip


def strict(function: Function) -> Function:
    """The function, shown without the arguments that let it say what was meant."""
    signature = inspect.signature(function)
    hidden = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    shown = [p for p in signature.parameters.values() if p.kind not in hidden]
    vars(function)["__signature__"] = signature.replace(parameters=shown)
    return function


def misspelt(loss: Any, unknown: Iterable[str], method: bool = False) -> Exception:
    """The error about arguments that a call does not have; method: the call is that of an instance."""
    name = next(iter(unknown))
    arguments = loss.arguments.split()
    of_call = [*loss._call_operands(), *_EXTRAS]
    hint = suggestion(f"'{name}'", of_call if method else [*of_call, *arguments])
    if method and name in arguments:
        hint = f" It is an argument of the constructor: {loss.__name__}({name}=...)."
    title = loss.__name__ if method else loss.name
    return error("arguments", loss=title, problem=f"got an unexpected keyword argument {name!r}", hint=hint)


def refuse_more(loss: Loss, more: Sequence[Any], unknown: Mapping[str, Any]) -> None:
    """Refuse arguments that the call of an instance does not have."""
    cls: Any = type(loss)
    if unknown:
        raise misspelt(cls, unknown, method=True)
    if any(x is not None for x in more):
        names = cls._call_operands()
        raise error("by_keyword", loss=cls.__name__, expected=", ".join(names), got=len(names) + len(more))


def constructor_source(loss: type[Loss]) -> str:
    """`__init__` as Python source; annotations are objects, which tools that build losses from configurations read."""
    names = [name for name in loss.arguments.split() if name != "weight" or "weight" in loss.params]
    signature = ", ".join(_with_default(loss, name, _type(loss, name)) for name in names)
    given = ", ".join(f"{name!r}: {name}" for name in names)
    return f"def __init__(self, {signature}) -> None:\n    self._set_up({{{given}}})"


# -- docstrings -------------------------------------------------------------------------------------------


def operand_doc(loss: Any, name: str) -> str:
    """What an operand means, which shape it may have, which values are refused."""
    undeclared = Operand("True values." if name == "target" else "Predictions.")
    operand, first = loss.operands.get(name, undeclared), loss._call_operands()[0]
    text = operand.doc
    if name != first and _of_elements(loss):
        text += f" Of the shape of {first}{', or with dimensions of size 1' if operand.broadcast else ''}."
    if operand.per_row:
        text += " One for each row, or a number, will do."
    if operand.only_with:
        text += f" Should be {operand.domain.description}, and must be with {operand.only_with}."
    elif not operand.domain.everything:
        text += f" Must be {operand.domain.description}{f', unless {operand.unless}' if operand.unless else ''}."
    return text


def argument_doc(loss: type[Loss], name: str) -> str:
    """What a parameter means, and its range."""
    if name in loss.params:
        declared = loss.params[name]
        limited = not declared.domain.everything and declared.kind == "float"
        return declared.doc + (f" {declared.domain.description.capitalize()}." if limited else "")
    if name == "reduction":
        return "One of " + ", ".join(map(repr, loss.reductions)) + "."
    if name == "weight":
        denominator = "the sum of the weights" if getattr(loss, "weight_in_mean", False) else "the number of elements"
        return f"Weight of each element; broadcasts to the input. The mean divides by {denominator}."
    return "Deprecated, use reduction."


def docstring(loss: Any, *, function: bool) -> str:
    """The author's docstring, then arguments, results, errors, an example and the source of the formula."""
    operands = {name: operand_doc(loss, name) for name in loss._call_operands()}
    arguments = {name: argument_doc(loss, name) for name in loss.arguments.split() if function or name in _fields(loss)}
    dtype = "Its dtype is that of the operands, promoted; halves are computed in float32 and rounded once."
    called = [f"{name}: {text}" for name, text in operands.items()]
    extras = [f"{name}: {text}" for name, text in _EXTRA_DOCS.items()]
    described = [f"{name}: {text}" for name, text in arguments.items()]
    sections = (
        {"Args": [*called, *described, *extras]} if function else {"Args": described, "Called with": called + extras}
    )
    sections |= {
        "Formula": _formula(loss),
        "Returns": [f"A scalar; with 'none' {loss._unreduced()}. {dtype}"],
        "Raises": [
            "TypeError: An argument is not a tensor, or of a dtype that makes no sense.",
            "ValueError: Shapes do not match, or a value is outside its range; see `losskit.checks`.",
        ],
        "Example": _example(loss, function),
    }
    lines = [loss.about]
    for title, entries in sections.items():
        if not entries:
            continue
        lines += ["", f"{title}:"]
        width = 1000 if title in ("Example", "Formula") else 112  # code is not wrapped
        lines += [textwrap.fill(e, width, initial_indent="    ", subsequent_indent="        ") for e in entries]
    return "\n".join([*lines, *(["", f"Source: {loss.reference}"] if loss.reference else [])])


def _fields(loss: type[Loss]) -> list[str]:
    """The arguments of the constructor that are not deprecated."""
    names = [name for name in loss.arguments.split() if name not in ("size_average", "reduce")]
    return [name for name in names if name == "reduction" or name in loss.params]


def _of_elements(loss: Any) -> bool:
    return getattr(loss, "_of_formula", False) and loss._statistics is None


def _formula(loss: Any) -> list[str]:
    """The formula of an element, a row or a pair, as books have it, with all switches at their defaults."""
    if not loss._of_formula:
        return loss._in_books()
    from losskit.printing import print_expr

    formula = loss._formulas[loss._usual_setting()]
    book = formula.traced(loss.textbook) if loss.textbook else formula.value
    return [print_expr(book, "python")]


def _example(loss: Any, function: bool) -> list[str]:
    """The first worked case as a doctest; of a loss outside of the package none, since doctests would lack its name."""
    if not loss.cases or not loss.__module__.startswith("losskit."):
        return []
    case, names = loss.cases[0], loss._call_operands()
    tensor = "torch.tensor([{}])" if _of_elements(loss) else "torch.tensor({})"
    operands = ", ".join(tensor.format(value) for name, value in case.arguments.items() if name in names)
    given = {name: value for name, value in case.arguments.items() if name not in names}
    given = {name: f"torch.tensor({x})" if loss.params[name].kind == "tensor" else x for name, x in given.items()}
    if "counts" in loss.__dict__ or loss._several:  # the value of a case is a sum
        given |= {"reduction": repr("sum")}
    fields = ", ".join(f"{name}={value}" for name, value in given.items())
    if function:
        imports = [">>> import torch", f">>> from losskit.functional import {loss.name}"]
        call = f"{loss.name}({operands}{', ' if fields else ''}{fields})"
    else:
        imports = [">>> import losskit, torch"]
        call = f"losskit.{loss.__name__}({fields})({operands})"
    return [*imports, f">>> {call}", repr(torch.tensor(case.value))]
