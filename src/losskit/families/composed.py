"""The composed family: a loss that is a function of whole tensors, in ordinary torch operations.

1. `value` is no formula of numbers that a kernel could evaluate: it multiplies matrices, iterates, looks into a table.
   It takes the tensors of a call in float32 or float64 and gives the unreduced loss, one number for each unit. The
   family does the rest: shapes, dtypes and domains, weights, masks, reductions, halves, checks, card.
2. A declaration says the shapes of operands in letters, "(N, C)". `unit` is the shape of the unreduced loss in the same
   letters, so the family knows which numbers of an operand belong to which unit, and hides those of masked units.
3. A unit without a loss (a list in which nothing is relevant) is like a masked one. `value` then returns a pair: the
   losses, and which units have one. The losses of the others must be finite, and so their gradients.
4. What a padded list has in place of elements is hidden, too: the operand `element_mask` says which elements count.
5. Autograd differentiates `value`. Where a gradient by hand is worth it, `value_and_grad` gives both at once; it must
   be finite where a unit has no loss. It runs in ordinary calls, `value` in transforms and for higher derivatives.
6. There is no trace, so people read what the declaration gives: `equations` and `letters`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from losskit.declaration import Operand, Param, param
from losskit.display import Written, letter, symbol
from losskit.draw import Draw
from losskit.errors import DeclarationError
from losskit.families.base import Family, arguments_of
from losskit.families.composed_plan import CLASSES, ComposedPlan
from losskit.families.shapes import DOTS, Shape, filled, named
from losskit.names import check_argument
from losskit.reduction import Reduction
from losskit_guide.card import Curve, Equation, Variant

_USUAL = {"N": 128, "C": 100, "D": 128, "K": 100}  # sizes in examples; others are 32


class ComposedLoss(Family, abstract=True):
    """A loss of whole tensors, written in torch operations.

    A subclass declares what every loss does (see `losskit.PointwiseLoss`), and

    - `operands`, each with its `shape`: "(N, D)"; `index` for the indices of classes, `boolean` for masks;
    - `unit`: the shape of the unreduced loss in the same letters, "(N,)", or "()" for one number;
    - `value(...)`: the unreduced loss, of operands and parameters by name, in torch operations. A pair is the loss, and
      the units that have one, boolean;
    - `value_and_grad(...)`, optional: what `value` gives, and the gradients of each unit's loss by name, of all that
      have one; it may read the numbers, and need not be differentiable;
    - `parts(...)`, optional: which parts of the loss have a kernel for these operands, in words, "" for none;
    - `stopped`: whether the gradient is not that of the value, since part of it is detached;
    - `least(...)`: the smallest sizes, by letter, of parameters by name; 1 where it says nothing;
    - `equations`: LaTeX and plain text by title, "loss" first; `letters`: LaTeX, plain text and meaning of what stands
      there; for an operand or a parameter the meaning may be "", which is its doc.

    A parameter `Tensor` has a number for each class, of the size C. A `float | Tensor` broadcasts to the first operand.
    Instances are called with the operands; by keyword with `sample_weight`, `mask` (both of the unreduced loss) and
    `normalizer`.
    """

    reduction: Reduction = param(default="mean", doc="'none': the unreduced loss; 'mean': its mean; 'sum': its sum.")

    unit: ClassVar[str] = ""
    stopped: ClassVar[bool] = False
    value_and_grad: ClassVar[Callable[..., Any] | None] = None
    least: ClassVar[Callable[..., Mapping[str, int]] | None] = None
    parts: ClassVar[Callable[..., str] | None] = None
    equations: ClassVar[Mapping[str, tuple[str, str]]] = {}
    letters: ClassVar[Mapping[str, tuple[str, str, str]]] = {}
    _of_formula = False
    _statistics = ()
    _plan_class = ComposedPlan
    _several = True
    _label = "composed"
    _taken: ClassVar[list[str]] = []  # the arguments of `value`
    _shapes: ClassVar[dict[str, Shape]] = {}  # of the operands
    _unit: ClassVar[Shape]

    @classmethod
    def _declare(cls) -> None:
        for method in ("value", "value_and_grad", "least"):
            if not isinstance(cls.__dict__.get(method, staticmethod(len)), staticmethod):
                raise DeclarationError(f"{cls.__name__}.{method} must be a @staticmethod")
        if "value" not in cls.__dict__:
            raise DeclarationError(f"{cls.__name__}: a loss needs a formula: a static method `value`")
        cls._taken = list(arguments_of(cls, "value"))
        for name in dict.fromkeys([*cls._taken, *cls.params, *cls.operands]):
            check_argument(cls, name)
        if cls.value_and_grad is not None and list(arguments_of(cls, "value_and_grad")) != cls._taken:
            raise DeclarationError(f"{cls.__name__}: `value_and_grad` must take the arguments of `value`")
        cls._check_names()
        cls._shapes = {name: cls._shape(name, declared.shape) for name, declared in cls.operands.items()}
        cls._unit = cls._shape("unit", cls.unit)
        first = next(iter(cls.operands))
        forms = len(cls._shapes[first].forms)
        of_others = {size for shape in cls._shapes.values() for form in shape.forms for size in form}
        for name, shape in [*cls._shapes.items(), ("unit", cls._unit)]:
            if len(shape.forms) not in (1, forms):
                raise DeclarationError(f"{cls.__name__}: {name} has {len(shape.forms)} shapes, {first} has {forms}")
            unknown = {size for form in shape.forms for size in form} - of_others
            unknown |= {cls.operands[name].index} - of_others - {""} if name in cls.operands else set()
            if unknown:
                raise DeclarationError(
                    f"{cls.__name__}: no operand has the size {', '.join(sorted(unknown))} of {name}"
                )
        if any(p.kind == "tensor" for p in cls._formula_params()) and CLASSES not in of_others:
            raise DeclarationError(f"{cls.__name__}: a parameter that is a tensor needs an operand with the size C")
        if "loss" not in cls.equations:
            raise DeclarationError(f"{cls.__name__}: `equations` must have the loss, as LaTeX and as plain text")
        if "_usual_shape" not in cls.__dict__:
            cls._usual_shape = cls._usual_sizes()
        super()._declare()

    @classmethod
    def _check_names(cls) -> None:
        """Refuse what `value` speaks of, or leaves out, by mistake."""
        for name in cls._taken:
            if name not in cls.params and name not in cls.operands:
                known = ", ".join([*cls.operands, *cls.params])
                raise DeclarationError(f"{cls.__name__}: `value` may speak of {known}, not of {name}")
        for name in cls.params:
            if name not in cls._taken and name not in cls._family_params:
                raise DeclarationError(f"{cls.__name__}: `value` does not take the parameter {name}")
        if not cls.operands or next(iter(cls.operands.values())).optional:
            raise DeclarationError(f"{cls.__name__}: `operands` must begin with one that every call has")
        if "weight" in cls.params:
            raise DeclarationError(f"{cls.__name__}: a composed loss has no weight; call it with sample_weight")

    @classmethod
    def _shape(cls, name: str, text: str) -> Shape:
        try:
            return Shape(text)
        except ValueError as problem:
            raise DeclarationError(f"{cls.__name__}: the shape of {name}: {problem}") from None

    @classmethod
    def _least(cls, given: Mapping[str, Any]) -> dict[str, int]:
        """The smallest sizes of a call: what a unit speaks of must not be empty, the batch may be."""
        inner = [size for shape in cls._shapes.values() for form in shape.forms for size in form]
        units = {size for form in cls._unit.forms for size in form}
        found = {size: 1 for size in inner if size not in units and size != DOTS}
        if cls.least is not None:
            found |= cls.least(**{name: given[name] for name in inspect.signature(cls.least).parameters})
        return found

    @classmethod
    def _usual_sizes(cls) -> tuple[int, ...]:
        form = next(iter(cls._shapes.values())).forms[0]
        least = cls._least({name: cls._ordinary(name) if p.kind in ("float", "int") else p.default
                            for name, p in cls.params.items()})  # fmt: skip
        sizes = tuple(max(_USUAL.get(name, 32), least.get(name, 1)) for name in form if name != DOTS)
        return sizes or super()._usual_shape

    @classmethod
    def _formula_params(cls) -> list[Param]:
        return [p for p in cls.params.values() if p.name in cls._taken]

    @classmethod
    def _settings(cls) -> dict[str, tuple[Any, ...]]:
        return {}  # one formula, whatever the switches are

    @classmethod
    def _call_operands(cls) -> list[str]:
        return list(cls.operands)

    @classmethod
    def _unreduced(cls) -> str:
        return f"a tensor of shape {cls.unit}" if cls.unit != "()" else "the same scalar"

    @classmethod
    def _in_books(cls) -> list[str]:
        return [cls.equations["loss"][1]]

    @classmethod
    def _curve(cls) -> Curve | None:
        return None

    @classmethod
    def _written(cls) -> tuple[list[Variant], list[dict[str, str]]]:
        equations = [Equation(title, latex, plain) for title, (latex, plain) in cls.equations.items()]
        docs = {name: x.doc for name, x in cls.operands.items()} | {p.name: p.doc for p in cls._formula_params()}
        numbers = [p.name for p in cls._formula_params() if p.kind not in ("bool", "choice")]
        symbols = []
        for name in dict.fromkeys([*cls.operands, *numbers, *cls.letters]):
            latex, plain, meaning = cls.letters.get(name, (*letter(name), ""))
            symbols.append(symbol(name, meaning or docs[name], Written(latex, plain)))
        return [Variant({}, equations, [], {}, {})], symbols

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        first, *_ = cls._shapes.values()
        which = first.fitting(len(shape)) or 0
        names = named(first.form(which), len(shape))
        dots = sum(name.startswith(DOTS) for name in names)
        sizes, made = dict(zip(names, shape, strict=True)), list[Tensor]()
        for name, declared in cls.operands.items():
            if not declared.optional:
                own = tuple(sizes.setdefault(x, _USUAL.get(x, 32)) for x in filled(cls._shapes[name].form(which), dots))
                made.append(_drawn(declared, own, sizes, draw))
        return made


def _drawn(declared: Operand, size: Sequence[int], sizes: Mapping[str, int], draw: Draw) -> Tensor:
    """A random operand."""
    if declared.index:
        return draw.integers(0, sizes[declared.index], *size)
    if declared.boolean:
        return draw.integers(0, 2, *size).bool()
    return draw.normal(*size) if declared.domain.everything else draw.members(declared.domain, tuple(size))
