"""What a declaration is made of: fields, operands, cases, deviations, and the base class of every loss.

A loss is a class with a docstring, fields (`param`), a `value` written in the formula language, and what is known
about it: `facts`, worked `cases`, `deviations` from torch, a `reference`. The base class turns the fields into a
constructor, attributes and a `repr`, and puts the class into the registry. What the formula is applied to is
the business of a family (`losskit.families`).

Classes are abstract (families) or final (losses): no loss inherits from a loss.
"""

from __future__ import annotations

import difflib
import inspect
import keyword
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import dataclass_transform  # typing's since Python 3.11; torch needs the package anyway

from losskit.declaration import Case, Deviation, Param, Peer, param
from losskit.errors import DeclarationError, error
from losskit.facts import Facts
from losskit.parameters import kind_of, number_hint, python_type, text_of, told, validate
from losskit.reduction import REDUCTIONS, check_reduction, short
from losskit.sums import Summand, WeightedSum

registered: dict[str, type[Loss]] = {}  # every loss by its function name; see losskit.registry
# What makes a loss under another name: of features and weights, of other losses; with other names for it.
heads: dict[str, tuple[Any, ...]] = {"weighted_sum": (WeightedSum, "WeightedSum", "loss sum")}

_CLASS_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass_transform(field_specifiers=(param,))
class Loss(Summand):
    """Base of all losses: fields, constructor, registry, `repr`, `config`."""

    name: ClassVar[str] = ""
    arguments: ClassVar[str] = ""
    params: ClassVar[dict[str, Param]] = {}
    _family_params: ClassVar[set[str]] = {"weight"}  # what a formula need not take: parameters of its family
    reductions: ClassVar[tuple[str, ...]] = REDUCTIONS
    facts: ClassVar[Facts]
    cases: ClassVar[tuple[Case, ...] | list[Case]] = ()
    deviations: ClassVar[tuple[Deviation, ...] | list[Deviation]] = ()
    peers: ClassVar[tuple[Peer, ...] | list[Peer]] = ()
    reference: ClassVar[str] = ""
    _sight: ClassVar[Callable[..., Any] | None] = None  # of a formula: what the microscope sees, a `curves.Sight`
    textbook: ClassVar[Callable[..., Any] | None] = None  # `value` as books have it, where accuracy asks for more
    aliases: ClassVar[str] = ""  # other names that people know it by, for `losskit.get` and the command
    refused_by_torch: ClassVar[tuple[str, ...]] = ()  # operands whose domains torch checks; "shapes" that must match
    task: ClassVar[str] = ""  # one of TASKS, or a word of the author's own
    best_for: ClassVar[str] = ""
    not_for: ClassVar[str] = ""
    about: ClassVar[str] = ""  # the docstring that the author wrote; `__doc__` has the arguments, too
    declared: ClassVar[type[Loss] | None] = None  # the class that was declared: itself, or what it is a subclass of
    __signature__: ClassVar[inspect.Signature]
    _plan: Any  # what the family remembers about the present parameters; None after a change

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        super().__init_subclass__()
        if abstract:
            cls.params = cls.params | _collect(cls)
            cls._family_params = cls._family_params | set(cls.params)
            return
        if cls.declared is not None:
            _check_subclass(cls, cls.declared)
            return
        if _unpickled():  # cloudpickle makes an empty class and fills it, with what is made below, too
            return
        cls.about = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
        if not cls.about and sys.flags.optimize < 2:
            raise DeclarationError(f"{cls.__name__}: a loss needs a docstring: what it does and when to choose it")
        if "name" not in cls.__dict__:
            cls.name = _CLASS_WORDS.sub("_", cls.__name__).lower()
        own = _collect(cls)
        if "arguments" not in cls.__dict__:
            needed = [name for name, p in own.items() if p.required]
            cls.arguments = " ".join(dict.fromkeys([*needed, "reduction", *own, *cls.params]))
        order = [name in own and own[name].required for name in cls.arguments.split()]
        if order != sorted(order, reverse=True):
            raise DeclarationError(f"{cls.__name__}: in `arguments`, parameters without a default come first")
        missing = set(own) - set(cls.arguments.split())
        inherited = {name: p for name, p in cls.params.items() if name in cls.arguments.split()}
        cls.params = inherited | own
        if missing:
            raise DeclarationError(f"{cls.__name__}: `arguments` leaves out {', '.join(sorted(missing))}")
        taken = registered.get(cls.name)
        if taken is not None and taken.__module__.startswith("losskit.") and taken.__module__ != cls.__module__:
            raise DeclarationError(f"{cls.__name__}: a built-in loss is called {cls.name}; choose another name")
        if not isinstance(cls.aliases, str):
            raise DeclarationError(
                f"{cls.__name__}: `aliases` is one string of names with spaces between, got {cls.aliases!r}"
            )
        if "facts" in cls.__dict__:
            cls.facts.check(cls.__name__, cls.params)
        cls.declared = cls
        cls._declare()
        constructor = inspect.signature(cls.__init__)
        cls.__signature__ = constructor.replace(parameters=list(constructor.parameters.values())[1:])
        # As objects: a string would have to be evaluated where it was written.
        cls.__annotations__ = {name: python_type(p) for name, p in cls.params.items()} | {"reduction": str}
        registered[cls.name] = cls

    @classmethod
    def _declare(cls) -> None:
        """What the family does with a new declaration: check it, make its forms."""
        raise NotImplementedError

    @classmethod
    def _call_operands(cls) -> list[str]:
        """The tensors that a call takes, in order."""
        raise NotImplementedError

    @classmethod
    def _of_torch(cls) -> bool:
        """Whether torch has this loss."""
        return any(base.__module__ == "torch.nn.modules.loss" for base in cls.__mro__)

    @classmethod
    def _optional_operands(cls) -> list[str]:
        """The tensors that a call may leave out."""
        return []

    @classmethod
    def _default(cls, name: str) -> Any:
        """The default of an argument, a declared one or one of torch's."""
        return cls.params[name].default if name in cls.params else "mean" if name == "reduction" else None

    @classmethod
    def _needed(cls, classes: int = 0) -> dict[str, Any]:
        """The parameters without a default, as the first case has them: what examples are made with.

        classes: how many numbers a tensor has, where it is not the case's number.
        """
        case: Mapping[str, Any] = cls.cases[0].arguments if cls.cases else {}
        found = {}
        for name, p in cls.params.items():
            if p.required:
                value = case.get(name, p.choices[0] if p.choices else p.domain.typical)
                if p.kind == "tensor":
                    numbers = value if isinstance(value, list) else [value]
                    value = torch.tensor([numbers[i % len(numbers)] for i in range(classes or len(numbers))])
                found[name] = value
        return found

    @classmethod
    def _ordinary(cls, name: str) -> float:
        """The number that a parameter usually is: its default, or where there is none what examples take."""
        p = cls.params[name]
        if p.required:
            return float(cls._needed()[name])
        return float(p.domain.typical if p.default is None else p.default)

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse arguments that the constructor does not have; Python's own message knows no suggestion."""
        if cls.declared is not None and cls.__init__ is cls.declared.__init__ and (args or kwargs):
            names = list(cls.__signature__.parameters)
            refuse_operands(cls, dict(zip(names, args, strict=False)) | kwargs, args[len(names) :])
            try:
                cls.__signature__.bind(*args, **kwargs)
            except TypeError as problem:
                hint = suggestion(str(problem), names)
                named = re.findall(r"'(\w+)'", str(problem))
                if named and named[-1] in (*cls._call_operands(), "sample_weight", "mask", "normalizer"):
                    hint = f" It is an argument of the call: {cls.__name__}()(..., {named[-1]}=...)."
                raise error("arguments", loss=cls.__name__, problem=problem, hint=hint) from None
        if cls.declared is not None and cls.declared.name not in registered:  # from another process, by value
            registered[cls.declared.name] = cls.declared
        return super().__new__(cls)

    def _set_up(self, given: dict[str, Any]) -> None:
        """What every generated constructor does with its arguments."""
        # Not super(): the losses of torch.nn are bases, too, for isinstance; their constructors do not run.
        nn.Module.__init__(self)
        cls = type(self)
        first = next(iter(given))
        words = first in cls.params and cls.params[first].kind == "choice"
        if first != "reduction" and isinstance(given[first], str) and not words:
            # torch silently takes MSELoss("sum") as the mean: the string lands in size_average.
            given |= {"reduction": given[first], first: cls._default(first)}
        legacy = given.pop("size_average", None), given.pop("reduce", None)
        if legacy != (None, None):
            given["reduction"] = legacy_reduction(cls.__name__, *legacy, given["reduction"])
        for name, value in given.items():
            if name in cls.params and cls.params[name].kind == "tensor":
                self.register_buffer(name, None)  # moves with .to(), is in the state_dict
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "reduction":
            value = check_reduction(type(self).name, value, type(self).reductions, number_hint(type(self), value))
        elif name in type(self).params:
            declared = type(self).params[name]
            value = validate(type(self).name, declared, value, type(self))
            if declared.tensor:  # which was a number, and may become a tensor, or the other way round
                for kept in (self.__dict__, self._parameters, self._buffers):
                    kept.pop(name, None)
                if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
                    self.register_buffer(name, value)
        super().__setattr__(name, value)
        self.__dict__["_plan"] = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_plan": None}

    def __prepare_scriptable__(self) -> Any:
        raise error("script", loss=type(self).__name__)

    def extra_repr(self) -> str:
        names = [name for name in type(self).arguments.split() if name == "reduction" or name in type(self).params]
        return ", ".join(f"{name}={told(getattr(self, name))}" for name in names)

    def config(self) -> dict[str, Any]:
        """The loss as a dict that `losskit.create` turns back into it."""
        return {"name": type(self).name, "reduction": self.reduction} | {
            name: getattr(self, name) for name in type(self).params
        }


def _check_subclass(cls: type[Loss], declared: type[Loss]) -> None:
    """A subclass of a loss is an ordinary module: it may prepare operands, but not change the formula."""
    own = [name for name in ("value", "grad", "arguments", "operands", "name") if name in cls.__dict__]
    own += [name for name, x in cls.__dict__.items() if isinstance(x, Param)]
    if own:
        raise DeclarationError(
            f"{cls.__name__}: a loss cannot inherit from the loss {declared.__name__} and declare {', '.join(own)}; "
            f"derive from its family and copy the formula"
        )


def _unpickled() -> bool:
    """Whether a class is being made by cloudpickle, which Ray, Dask and joblib use, some under a name of their own."""
    frame: FrameType | None = sys._getframe(2)
    for _ in range(8):
        if frame is None:
            return False
        if frame.f_code.co_name == "_make_skeleton_class":
            return True
        frame = frame.f_back
    return False


def _collect(cls: type[Loss]) -> dict[str, Param]:
    params: dict[str, Param] = {}
    annotations = inspect.get_annotations(cls)
    given = cls.__dict__.get("name", "family")
    if not str(given).isidentifier() or keyword.iskeyword(given) or given in _FORMS:
        raise DeclarationError(
            f"{cls.__name__}: `name` is the name of a function, lower case words joined by underscores; got {given!r}"
        )
    for name, annotation in annotations.items():
        declared = cls.__dict__.get(name)
        inherited = any(hasattr(base, name) for base in cls.__mro__[1:])
        kind = kind_of(annotation)
        if kind is not None and not inherited and not isinstance(declared, Param):
            default = "..." if declared is None and name not in cls.__dict__ else repr(declared)
            raise DeclarationError(
                f"{cls.__name__}: {name} is no parameter yet; write {name}: {text_of(annotation)} = "
                f"param(default={default}, doc=...)"
            )
        if isinstance(declared, Param) and inherited and name != "reduction":
            raise DeclarationError(
                f"{cls.__name__}: a parameter cannot be called {name}, which every module has; choose another name"
            )
    for name, declared in list(cls.__dict__.items()):
        if not isinstance(declared, Param):
            continue
        if name == "reduction":  # whose values are those of `reductions`
            delattr(cls, name)
            continue
        kind = kind_of(annotations.get(name))
        if kind is None:
            raise DeclarationError(
                f"{cls.__name__}: annotate {name} with float, int, bool, str, Tensor, float | Tensor, or one of the "
                f"last two and | None, got {annotations.get(name)!r}"
            )
        kind["none"] |= kind["kind"] == "tensor" and declared.default is None
        params[name] = replace(declared, name=name, **kind)
        if (params[name].kind == "choice") != bool(declared.choices):
            raise DeclarationError(f"{cls.__name__}: {name}: str goes with choices=(...), the words that it may be")
        if not declared.required:
            validate(cls.__name__, params[name], declared.default)
        delattr(cls, name)  # from now on a field is an attribute of instances
    return params


_FORMS = frozenset(  # what the generated functions call
    "run call plan_of forward legacy_reduction Loss overridden refuse_more strict misspelt LossError "
    "handle_torch_function has_torch_function_variadic".split()
)


def legacy_reduction(loss: str, size_average: object, reduce: object, reduction: str) -> Any:
    """The reduction meant by torch's deprecated arguments; a string in their place is the reduction itself."""
    if isinstance(size_average, str):
        return size_average
    for name, value in (("size_average", size_average), ("reduce", reduce)):
        if value is not None and (isinstance(value, Tensor) or value not in (False, True)):
            raise error(
                "parameter_type", loss=loss, argument=name, expected="True, False or None", got=short(value),
                hint=_meant_by_deprecated(loss, value),
            )  # fmt: skip
    meant = "none" if reduce is not None and not reduce else "mean" if size_average in (None, True) else "sum"
    warnings.warn(
        f"{loss}: size_average and reduce are deprecated, use reduction={meant!r}.",
        DeprecationWarning,
        stacklevel=3,
    )
    return meant


def _meant_by_deprecated(loss: str, value: object) -> str:
    """The hint which argument was meant by what stands in the place of a deprecated one."""
    if isinstance(value, Tensor):
        return " Weights are given by name: weight=... or sample_weight=..."
    own = next((cls for cls in registered.values() if loss in (cls.name, cls.__name__)), None)
    return "" if own is None else number_hint(own, value)


def refuse_operands(loss: type[Loss], given: Mapping[str, Any], more: Sequence[Any] = ()) -> None:
    """Refuse the tensors of a call in a constructor, as in MSELoss(x, t). more: arguments beyond those with a name."""
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    several = sum(x.numel() != 1 for x in tensors.values()) > 1
    for name, value in [*tensors.items(), *(("one argument too many", x) for x in more if isinstance(x, Tensor))]:
        declared = loss.params.get(name)
        if declared and (declared.kind == "tensor" or declared.tensor or value.numel() == 1 or not several):
            continue  # a parameter, right or wrong
        operands = ", ".join(loss._call_operands())
        call = f"{loss.__name__}()({operands})"
        if loss.__module__.startswith("losskit."):
            call = f"losskit.{call} or losskit.functional.{loss.name}({operands})"
        raise error("operands", loss=loss.__name__, argument=name, call=call)


def suggestion(problem: str, known: list[str]) -> str:
    """ " Did you mean ...?" for a misspelt name at the end of a message, or nothing."""
    quoted = re.findall(r"'(\w+)'", problem)
    close = difflib.get_close_matches(quoted[-1], known, n=1) if quoted else []
    return f" Did you mean {close[0]}?" if close else ""
