"""The element-wise family: a loss of each element's prediction(s) and target."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from losskit import curves
from losskit.declaration import POSITION, Operand, param
from losskit.display import LOSS, NOTHING, Mathematics, Writer, Written, gradient_by, letter, letter_index, symbol
from losskit.draw import Draw
from losskit.families.base import Family
from losskit.families.pointwise_plan import PointwisePlan
from losskit.reduction import Reduction
from losskit.traced import Formula, components
from losskit_guide.card import Curve, Equation


class PointwiseLoss(Family, abstract=True):
    """A loss that is computed element by element; the base class of built-in and custom ones.

    A subclass declares

    - a docstring: what the loss does, when to choose it and when not;
    - parameters: `name: float = param(default=..., domain=..., doc=...)`;
    - `value`, a static method over the formula language: its arguments are the operands (tensors, by the names
      that callers use) and then the parameters;
    - optionally `grad` with the same arguments: the derivative by the first operand, or a tuple, one entry per
      operand and then per parameter that may be a tensor (None, or nothing at the end: derive it);
    - `operands`: what each operand means and which values it may have;
    - where a row along the last dimension has one loss, `rows = "mean"` or `rows = "sum"`. Then `value` may take
      `position`, the place of the element in its row, as its last operand; and `counts`, a static method with the
      arguments of `value`, may say how often an element counts in the denominator of "mean", where that is not a row;
    - `facts`, `cases`, `deviations`, `reference`, `best_for`, `not_for`.

    Instances are called with the operands and, by keyword, `sample_weight` (broadcasts to the unreduced loss),
    `mask` (True = counts) and `normalizer` (the denominator of "mean").
    """

    reduction: Reduction = param(
        default="mean",
        doc="'none': a loss per element; 'mean': their mean; 'sum': their sum.",
    )

    weight_in_mean: ClassVar[bool] = False  # `weight` counts in the denominator of the mean
    rows: ClassVar[str] = ""  # "mean" or "sum": what a row's loss makes of the losses along the last dimension
    counts: ClassVar[Callable[..., Any] | None] = None  # how often an element counts in the denominator of the mean
    _in_steps = True
    _plan_class = PointwisePlan

    _label = "pointwise"

    @classmethod
    def _curve(cls) -> Curve | None:
        return curves.of_elements(cls, cls._formulas.all())

    @classmethod
    def _sight(cls, formula: Formula) -> curves.Sight | None:
        curve = cls._curve()
        if curve is None or cls.rows == "sum" or POSITION in formula.operands or cls._needed(1):
            return None
        parts, row = components(cls.operands), bool(cls.rows)
        operands: dict[str, list[Any]] = {}
        for name in formula.operands:
            tensor = parts[name][0] if name in parts else name
            operands.setdefault(tensor, []).append(name)
        tensor = parts[curve.variable][0] if curve.variable in parts else curve.variable
        place = operands[tensor].index(curve.variable)
        lists = {name: [x] if row or x[0] in parts else x for name, x in operands.items()}
        by = tensor, (0, place) if row or curve.variable in parts else (place,)
        book = formula.traced(cls.textbook) if cls.textbook else formula.value
        of_parts = {
            name: f"{tensor}[:, {x.index(name)}]" for tensor, x in operands.items() for name in x if name in parts
        }
        by_hand = curves.called(formula, **({name: name for name in formula.operands} | of_parts))
        mean = f"{by_hand}.mean(-1)" if row else by_hand
        slope = formula.gradients[formula.operands.index(curve.variable)]
        return curves.Sight(lists, by, book, formula.value, slope, formula.trace.variable(curve.variable), mean)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        tensors = cls._formulas[cls._usual_setting()].tensors
        of_rows = [bool(cls.rows) and operand.per_row for operand in tensors.values()]
        pairs = zip(tensors.items(), of_rows, strict=True)
        return [
            _member(operand, shape, draw, of_row) for (name, operand), of_row in pairs if name in cls._call_operands()
        ]

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        formula = write.formula
        parts = components(cls.operands)
        write.letters = {name: _of_component(name, tensor) for name, (tensor, _) in parts.items()}
        if cls.rows:
            letters = {name: letter(name) for name in formula.operands}
            write.letters = {name: Written(f"{x.latex}_j", f"{x.plain}ⱼ") for name, x in letters.items()}
            write.letters[POSITION] = Written("j", "j")
        average = Written(r"\frac{1}{C} ", "1/C ") if cls.rows == "mean" else NOTHING
        labels = Written(rf"{average.latex}\sum_j ", f"{average.plain}Σⱼ ") if cls.rows else NOTHING
        wanted = [name for name, x in formula.declared.items() if x.differentiable and name not in cls.params]
        wanted = [name for name in wanted if parts.get(name, [name])[0] != "target"] or formula.operands[:1]
        slopes = {name: write.slope(name) for name in wanted}
        write.split([write.value, *slopes.values()])
        equations = [write.equation("loss", LOSS, write.value, labels)]
        for name, slope in slopes.items():
            by = write.write(formula.trace.variable(name))
            equations.append(write.equation(f"gradient by {name}", gradient_by(by), slope, average))
        symbols = [symbol(name, x.doc, _letter_of(name, x, write)) for name, x in formula.tensors.items()]
        if cls.rows:
            symbols.append(symbol("j", "place in the row, from 0 on", Written("j", "j")))
        classes = [symbol("C", "number of elements in a row", Written("C", "C"))] if cls.rows == "mean" else []
        return Mathematics(
            equations + write.wheres(),
            symbols + [symbol(name, cls.params[name].doc) for name in formula.numbers] + classes,
        )

    @classmethod
    def _means(cls) -> list[Equation]:
        found = super()._means()
        if "weight" in cls.arguments.split():
            mean = (r"L = \frac{\sum_i w_i \ell_i}{\sum_i w_i}", "L = Σᵢ wᵢℓᵢ / Σᵢ wᵢ")
            of_all = (r"L = \frac{1}{N} \sum_i w_i \ell_i", "L = 1/N · Σᵢ wᵢℓᵢ")
            found.append(Equation("mean with weight w", *(mean if cls.weight_in_mean else of_all)))
        if "batchmean" in cls.reductions:
            found.append(Equation("batchmean", r"L = \frac{1}{\mathrm{rows}} \sum_i \ell_i", "L = 1/rows · Σᵢ ℓᵢ"))
        return found

    @classmethod
    def _call_operands(cls) -> list[str]:
        parts = components(cls.operands)
        taken = [x for x in inspect.signature(cls.value).parameters if x not in cls.params and x != POSITION]
        return list(dict.fromkeys(parts[name][0] if name in parts else name for name in taken))

    @classmethod
    def _composed(cls) -> bool:
        """Whether the first operand's last dimension is components."""
        first = cls._call_operands()[0]
        return first in cls.operands and bool(cls.operands[first].components)

    @classmethod
    def _unreduced(cls) -> str:
        inner = " without the last dimension" if cls.rows or cls._composed() else ""
        return f"a tensor of the shape of {cls._call_operands()[0]}{inner}"


def _member(operand: Operand, shape: tuple[int, ...], draw: Draw, of_row: bool) -> Tensor:
    """A random tensor that an operand may be; of_row: one for each row."""
    if operand.places is not None:
        return draw.integers(0, shape[-1] + operand.places, *shape[:-1])
    shape = shape[:-1] if of_row else shape
    if not operand.components:
        return draw.members(operand.domain, shape)
    parts: list[Tensor] = []
    for domain in operand.components.values():
        own = draw.members(domain, shape[:-1])
        parts.append(parts[len(parts) - domain.back] + own if domain.back else own)
    return torch.stack(parts, -1)


def _of_component(name: str, tensor: str) -> Written:
    """How a component is written: those of the target with a prime."""
    part, number = re.fullmatch(r"(\w*?)(\d*)", name.removeprefix(f"{tensor}_")).groups()  # type: ignore[union-attr]
    own = letter(part)
    prime = "'" if tensor == "target" else ""
    subscript = f"_{number}" if number else ""
    return Written(f"{own.latex}{prime}{subscript}", f"{own.plain}{prime.replace(chr(39), '′')}{letter_index(number)}")


def _letter_of(name: str, operand: Operand, write: Writer) -> Written | None:
    """How an operand is written: one of components as all of them."""
    if not operand.components:
        return write.letters.get(name)
    parts = [write.letters[f"{name}_{part}"] for part in operand.components]
    return Written(*(f"({', '.join(texts)})" for texts in zip(*parts, strict=True)))
