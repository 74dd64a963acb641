"""The embeddings family: two or three embeddings, rows along the last dimension, and how far apart they are.

1. A formula speaks of statistics of a row: `cosine` of two embeddings and `cosine_distance`, which is 1 - cosine with
   the digits that the subtraction loses; their `distance`; of three (anchor, positive, negative) `positive_distance`
   and `negative_distance`; and of the `target`, a number for each row. The kernel computes the statistics, evaluates
   the formula on arrays of them, and turns its derivatives into gradients by the embeddings.
2. A distance is the p-norm of x1 - x2 + eps, as in torch: eps stays inside the difference. p may be anything from 0
   (the number of differences) to infinity. Where the norm has no derivative, 0 stands for it; ties of p = inf share it.
3. The scale of a row does not matter: it is divided by its largest magnitude first, which is a constant to autograd
   since it cancels. No epsilon stands in a denominator; a zero vector has cosine 0 and no gradient.
4. Embeddings broadcast along leading dimensions of size 1, never along the last one.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from losskit import curves, dtypes
from losskit.declaration import Operand, param
from losskit.display import LOSS, Mathematics, Statistic, Writer, Written, gradient_by, symbol
from losskit.domains import Interval, nonnegative, shortest
from losskit.draw import Draw
from losskit.errors import DeclarationError, error
from losskit.families.base import Family
from losskit.graph import Expr
from losskit.kernels import eager, fused, search, wire
from losskit.kernels.sharded import trailing
from losskit.plan import Arguments, Dims, Plan
from losskit.policy import state
from losskit.reduction import Reduction, counting, reduce_eagerly
from losskit.traced import Formula
from losskit.validation import check_extras, check_floating, check_tensor, shape_hint, unravel
from losskit_guide.card import Curve, Equation, Given


class EmbeddingsPlan(Plan):
    """A loss of embeddings with its parameters fixed."""

    op = "embeddings"

    def __init__(self, loss: type[EmbeddingsLoss], reduction: str, parameters: dict[str, Any]) -> None:
        formula, numbers = loss._formula_of(parameters)
        self.p, self.eps = parameters.get("p", 2.0), parameters.get("eps", 0.0)
        self.swap = parameters.get("swap", False)
        family = wire.EMBEDDINGS.family.pack(statistics=formula.operands, swap=self.swap)
        names = loss._call_operands()
        given = wire.EMBEDDINGS.given(map(float, numbers.values()), p=self.p, eps=self.eps)
        super().__init__(loss, reduction, fused.pack(reduction, family=family), names, given)
        self.formula: Formula = formula
        self.embeddings = len(names) - ("target" in names)
        self.differentiable = formula.differentiable(numbers)

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        first = operands[0]
        for name, x in zip(self.names, operands, strict=True):
            check_tensor(self.name, name, x, self.names[0], first)
        rows = list(operands[: self.embeddings])
        for name, x in zip(self.names, rows, strict=False):
            check_floating(self.name, name, x)
            if x.ndim == 0:
                raise error("no_features", loss=self.name, argument=name)
        shape = self._common_shape(rows)
        target = list(operands[self.embeddings :])
        for x in target:
            if x.shape != shape[:-1]:
                if state.checks != "off":
                    raise error(
                        "not_one_per_row", loss=self.name, argument="target", expected=tuple(shape[:-1]),
                        got=tuple(x.shape), hint=shape_hint("target", x.shape, shape[:-1]),
                    )  # fmt: skip
                shape = torch.Size([*torch.broadcast_shapes(x.shape, shape[:-1]), shape[-1]])
        full, result = dtypes.stretched(rows, shape)
        full += [x.expand(shape[:-1]) for x in target]
        result = result and dtypes.result_dtype([*rows, *target])
        normalizer = check_extras(self, first, shape[:-1], None, (), sample_weight, mask, normalizer)
        return Arguments(full, None, sample_weight, mask, normalizer, result)

    def _common_shape(self, rows: Sequence[Tensor]) -> torch.Size:
        """The shape that the embeddings broadcast to."""
        if state.checks == "off":
            return torch.broadcast_shapes(*(x.shape for x in rows))
        shape = rows[0].shape
        for name, x in zip(self.names[1:], rows[1:], strict=False):
            pairs = zip(x.shape[:-1], shape[:-1], strict=False)
            if x.ndim != len(shape) or x.shape[-1] != shape[-1] or any(m != n and 1 not in (m, n) for m, n in pairs):
                raise error(
                    "shapes", loss=self.name, first=self.names[0], argument=name, expected=tuple(shape),
                    got=tuple(x.shape), hint=shape_hint(name, x.shape, shape),
                )  # fmt: skip
            if x.shape != shape:
                shape = torch.broadcast_shapes(x.shape, shape)
        return shape

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        rows = arguments.operands[0].ndim - 1
        embeddings: list[Dims] = [(*trailing(x.ndim - 1, rows), None) for x in tensors[: self.embeddings]]
        return embeddings + [trailing(x.ndim, rows) for x in tensors[self.embeddings : -1]] + [()]

    def eager(self, arguments: Arguments, checks: str) -> Tensor:
        operands, _, sample_weight, mask, normalizer, result = arguments
        dtype, wide = result or dtypes.result_dtype(operands), dtypes.compute_dtype(operands)
        rows = [x.to(wide) for x in operands[: self.embeddings]]
        target = [x.to(wide) for x in operands[self.embeddings :]]
        bad = self._bad(operands, target, mask, checks)
        mask, normalizer = counting(
            self.reduction, rows[0].shape[:-1], rows[0], sample_weight=sample_weight, mask=mask, normalizer=normalizer
        )
        if mask is not None:  # a NaN behind the mask must not reach the gradient as 0 * NaN
            rows = [torch.where(mask.unsqueeze(-1) if mask.ndim else mask, x, 0.0) for x in rows]
            target = [torch.where(mask, x, self.formula.declared["target"].domain.typical) for x in target]
        statistics = self._statistics(rows)
        if target:
            statistics["target"] = target[0]
        values = eager.apply(self.differentiable, [statistics[name] for name in self.formula.operands])
        loss = reduce_eagerly(
            eager.nan_where(values, bad), self.reduction, weight=None, weight_in_mean=False,
            sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip
        return loss.to(dtypes.autocast(dtype, loss.device))

    def _statistics(self, rows: Sequence[Tensor]) -> dict[str, Tensor]:
        """What the formula speaks of, by name."""
        wanted = self.formula.operands
        if "cosine" in wanted or "cosine_distance" in wanted:
            cosine, apart = _cosine(rows[0], rows[1])
            return {"cosine": cosine, "cosine_distance": apart}
        positive, size = _distance(rows[0], rows[1], self.p, self.eps)
        if "negative_distance" not in wanted:
            return {"distance": positive, "positive_distance": positive}
        negative, other_size = _distance(rows[0], rows[2], self.p, self.eps)
        if self.swap:
            swapped, swapped_size = _distance(rows[1], rows[2], self.p, self.eps)
            negative, other_size = torch.minimum(negative, swapped), torch.minimum(other_size, swapped_size)
        # If both overflow, only their order can be decided: the larger stays infinite, the smaller becomes 0.
        both = (
            (positive == float("inf")) & (negative == float("inf")) & (torch.maximum(size, other_size) < float("inf"))
        )
        positive = torch.where(both & (size <= other_size), 0.0, positive)
        negative = torch.where(both & (other_size <= size), 0.0, negative)
        return {"positive_distance": positive, "negative_distance": negative}

    def _bad(
        self, operands: Sequence[Tensor], target: Sequence[Tensor], mask: Tensor | None, checks: str
    ) -> Tensor | None:
        if checks == "off" or not target or self.formula.declared["target"].domain.everything:
            return None
        bad = self.formula.declared["target"].domain.outside(target[0].detach())
        return eager.apply_checks(self, bad if mask is None else bad & mask, operands, mask, checks)

    def refuse(self, operands: Sequence[Tensor], mask: Tensor | None) -> NoReturn:
        target = operands[-1].detach()
        domain = self.formula.declared["target"].domain
        taken = [target] if mask is None else list(torch.broadcast_tensors(target, mask))
        index = search.first(lambda x, *counts: domain.outside(x) & counts[0] if counts else domain.outside(x), taken)
        assert index is not None, "the kernel reported a violation that the eager check does not see"
        raise self._outside(taken[0][index].item(), index)

    def sighted(self, shape: tuple[int, ...], operand: int, place: int, value: float) -> Exception:
        return self._outside(value, unravel(place, shape))

    def _outside(self, value: float, index: tuple[int, ...]) -> Exception:
        declared = self.formula.declared["target"]  # no other operand has a domain
        return error(
            "domain", loss=self.name, argument="target", expected=declared.domain.description, got=shortest(value),
            index=index, hint=f" {declared.hint}" if declared.hint else "",
        )  # fmt: skip


def _largest(x: Tensor) -> Tensor:
    """The divisor of each row: its largest magnitude, or 1 if that is 0 or not finite."""
    if x.shape[-1] == 0:
        return x.new_ones(*x.shape[:-1], 1)
    most = x.detach().abs().amax(-1, keepdim=True)
    return torch.where((most > 0) & (most < float("inf")), most, 1.0)


def _cosine(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The cosine of rows, and 1 minus it."""
    x, y = x / _largest(x), y / _largest(y)
    zero = ((x * x).sum(-1) == 0) | ((y * y).sum(-1) == 0)
    x, y = (torch.where(zero.unsqueeze(-1), 1.0, z) for z in (x, y))  # replaced below, but differentiated
    x, y = (z / (z * z).sum(-1, keepdim=True).sqrt() for z in (x, y))
    cosine = (x * y).sum(-1)
    cosine = torch.where(zero, 0.0, cosine + (cosine.clamp(-1.0, 1.0) - cosine).detach())
    apart = x - y
    return cosine, torch.where(cosine > 0, 0.5 * (apart * apart).sum(-1), 1.0 - cosine)


def _distance(x: Tensor, y: Tensor, p: float, eps: float) -> tuple[Tensor, Tensor]:
    """The p-norm of x - y + eps, and where that may overflow its logarithm."""
    d = (x - y) + eps
    a = d.abs()
    endless = torch.full_like(d.detach().sum(-1), float("inf"))
    if d.shape[-1] == 0:
        return d.sum(-1), endless
    if p == 0.0:
        return torch.where(a > 0, 1.0, a).sum(-1), endless
    if p == 1.0:
        return a.sum(-1), endless
    if p == float("inf"):
        return a.amax(-1), endless
    most = _largest(d)
    t = a / most
    power = t * t if p == 2.0 else torch.where(t == 0, 0.0, torch.where(t == 0, 1.0, t) ** p)
    total = power.sum(-1)
    zero = total == 0
    total = torch.where(zero, 1.0, total)
    root = total.sqrt() if p == 2.0 else total ** (1.0 / p)
    size = most.squeeze(-1).log() + total.detach().log() / p
    finite = (total < float("inf")) & (size == size)
    return torch.where(zero, 0.0, most.squeeze(-1) * root), torch.where(finite, size, float("inf"))


def _usual_operands(cls: type[EmbeddingsLoss]) -> dict[str, Operand]:
    """The embeddings that a formula speaks of, by their usual names, where a declaration gives none."""
    taken = inspect.signature(cls.value).parameters if inspect.isfunction(cls.value) else {}
    first, *others = ["anchor", "positive", "negative"] if "negative_distance" in taken else ["input1", "input2"]
    like = "Embeddings of the same shape; leading dimensions of size 1 stretch."
    found = {first: Operand("Embeddings of shape (..., D).")} | {name: Operand(like) for name in others}
    return found | ({"target": Operand("A number for each row.")} if "target" in taken else {})


def of_embeddings(cls: Any, write: Writer, definitions: Sequence[Equation]) -> Mathematics:
    """The loss, its gradient by the first embedding, and what its statistics are of the embeddings."""
    trace, used = write.trace, write.formula.operands
    first, *others = [name for name in cls._call_operands() if name != "target"]
    write.letters = _LETTERS | (
        {others[0]: _LETTERS["positive"], others[1]: _LETTERS["negative"]} if others[1:] else {}
    )
    by = write.write(trace.variable(first))
    write.letters |= {f"{x.name}_by": gradient_by(by, x.letter) for x in SPOKEN if x.name in _LETTERS}
    slopes = {name: write.computed(name) for name in used if name != "target"}
    if "cosine_distance" in slopes:
        cosine = trace.variable("cosine")
        by_cosine = slopes.pop("cosine", 0.0) - slopes.pop("cosine_distance")
        write.value, by_cosine = (
            write.replaced(trace.lift(x), "cosine_distance", 1.0 - cosine) for x in (write.value, by_cosine)
        )
        slopes["cosine"] = by_cosine
    slope = write.simplified(sum(write.slope(name, x) * trace.variable(f"{name}_by") for name, x in slopes.items()))
    equations = [
        write.equation("loss", LOSS, write.value),
        write.equation(f"gradient by {first}", gradient_by(by), slope),
    ]
    symbols = [symbol(name, x.doc, write.letters.get(name)) for name, x in cls.operands.items()]
    numbers = [*write.formula.numbers, *(name for name in ("p", "eps") if name in cls.params)]
    return Mathematics([*equations, *definitions], symbols + [symbol(name, cls.params[name].doc) for name in numbers])


def curve_of(cls: Any) -> Curve:
    """The loss over the cosine, or over the first distance."""
    formulas = cls._formulas.all()
    operands, meaning = formulas[0].operands, {x.name: x.meaning for x in SPOKEN}
    labels = curves.given_of(formulas[0], 0, ("target",))
    if "cosine" in operands or "cosine_distance" in operands:
        ways = [(f.switches, f.numbers, _of_cosine) for f in formulas]
        return curves.of_trace(cls, "cosine", "cosine", (-1.0, 1.0), labels, ways, meaning["cosine"])
    first, *others = [name for name in operands if name.endswith("distance")]
    given = [Given(name, meaning[name], 1.0, 0.0, 4.0) for name in others] + labels
    return curves.of_trace(cls, first, "distance", (0.0, 4.0), given, curves.as_they_are(formulas), meaning[first])


def _of_cosine(cosine: Expr) -> dict[str, Any]:
    return {"cosine": cosine, "cosine_distance": 1.0 - cosine}


def example_of(cls: Any, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
    """Random embeddings, and labels where the loss takes them."""
    names = cls._call_operands()
    return [2 * draw.integers(0, 2, *shape[:-1]) - 1 if n == "target" else draw.normal(*shape) for n in names]


_BETWEEN = Interval("in [-1, 1]", -1.0, 1.0)
SPOKEN = (
    Statistic("cosine", Written(r"\cos\theta", "cos θ"), "cosine of the two embeddings", _BETWEEN),
    Statistic("cosine_distance", Written(r"1 - \cos\theta", "1 − cos θ"), "cosine distance of the two embeddings"),
    Statistic("distance", Written("d", "d"), "distance of the two embeddings", nonnegative),
    Statistic("positive_distance", Written("d_+", "d₊"), "distance from the anchor to the positive", nonnegative),
    Statistic("negative_distance", Written("d_-", "d₋"), "distance from the anchor to the negative", nonnegative),
    Statistic("target", Written("t", "t"), "a number for each row"),
)
_LETTERS = {
    **{x.name: x.letter for x in SPOKEN if x.name not in ("target", "cosine_distance")},
    "anchor": Written("x", "x"), "positive": Written("x_+", "x₊"), "negative": Written("x_-", "x₋"),
}  # fmt: skip


def _distances(cls: type[EmbeddingsLoss]) -> list[Equation]:
    """What the statistics are, and their derivatives."""
    names = [name for name in cls._call_operands() if name != "target"]
    if (
        "cosine" in inspect.signature(cls.value).parameters
        or "cosine_distance" in inspect.signature(cls.value).parameters
    ):
        return [
            Equation("where", r"\cos\theta = \frac{x_1 \cdot x_2}{\|x_1\| \, \|x_2\|}", "cos θ = x₁·x₂ / (‖x₁‖ ‖x₂‖)"),
            Equation(
                "where",
                r"\frac{\partial \cos\theta}{\partial x_1} = \frac{1}{\|x_1\|} "
                r"\left(\frac{x_2}{\|x_2\|} - \cos\theta \, \frac{x_1}{\|x_1\|}\right)",
                "∂cos θ/∂x₁ = (x₂/‖x₂‖ − cos θ·x₁/‖x₁‖) / ‖x₁‖",
            ),
        ]
    pairs = [("d", "d", "x_1 - x_2", "x₁ − x₂")]
    if len(names) == 3:
        pairs = [("d_+", "d₊", "x - x_+", "x − x₊"), ("d_-", "d₋", "x - x_-", "x − x₋")]
    found = []
    for d, plain_d, z, plain_z in pairs:
        norm, plain_norm = rf"\left\|{z} + \varepsilon\right\|_p", f"‖{plain_z} + ε‖ₚ"
        found.append(Equation("where", f"{d} = {norm}", f"{plain_d} = {plain_norm}"))
    slope = r"\frac{\partial d}{\partial x} = \frac{z \, |z|^{p - 2}}{d^{p - 1}}, \quad z = x - x' + \varepsilon"
    found.append(Equation("where", slope, "∂d/∂x = z·|z|^(p − 2) / d^(p − 1),  z = x − x′ + ε"))
    if "swap" in cls.params and len(names) == 3:
        latex = r"d_- = \min\left(d_-,\, \left\|x_+ - x_- + \varepsilon\right\|_p\right)"
        found.append(Equation("with swap", latex, "d₋ = min(d₋, ‖x₊ − x₋ + ε‖ₚ)"))
    return found


class EmbeddingsLoss(Family, abstract=True):
    """A loss of two or three embeddings; the base class of built-in and custom ones.

    A subclass declares a docstring, parameters, `facts`, `cases` and the rest as every loss does, and

    - `operands`: the embeddings by the names that callers use, two or three, and perhaps a `target`, a number per row
      (input1 and input2, or anchor, positive and negative, if there are none);
    - `value`, a static method over the formula language: its arguments are statistics of a row, any of `cosine`,
      `cosine_distance`, `distance`, `positive_distance`, `negative_distance` and `target`, and then the parameters;
    - optionally `grad` with the same arguments: the derivative by each statistic (None: derive it).

    The parameters `p`, `eps` and `swap` of distances are there for every loss whose `arguments` name them. Instances
    also take, by keyword, `sample_weight`, `mask` and `normalizer`.
    """

    reduction: Reduction = param(default="mean", doc="'none': a loss per row; 'mean': their mean; 'sum': their sum.")
    p: float = param(default=2.0, domain=nonnegative, doc="Degree of the norm of a difference, 0 to infinity.")
    eps: float = param(default=1e-6, doc="Added to every difference.")
    swap: bool = param(
        default=False, doc="Whether the negative's distance from the positive counts where it is the smaller one."
    )

    _statistics = SPOKEN
    _plan_class = EmbeddingsPlan
    functional: ClassVar[Any]

    @classmethod
    def _declare(cls) -> None:
        if not cls.operands and "value" in cls.__dict__:
            cls.operands = _usual_operands(cls)
        super()._declare()
        count = len(cls._call_operands()) - ("target" in cls._call_operands())
        for formula in cls._formulas.values():
            of_three = "negative_distance" in formula.operands
            mixed = {"cosine", "cosine_distance"} & set(formula.operands) and any(
                "distance" in name and name != "cosine_distance" for name in formula.operands
            )
            if count != (3 if of_three else 2) or ("distance" in formula.operands and of_three) or mixed:
                raise DeclarationError(
                    f"{cls.__name__}: `value` must speak of the cosine or the distance of two embeddings, or of the "
                    f"positive and the negative distance of three; got {', '.join(formula.operands)} of {count}"
                )
            if ("target" in formula.operands) != ("target" in cls._call_operands()):
                raise DeclarationError(f"{cls.__name__}: `operands` and `value` must both take a target, or neither")

    _label = "embeddings"

    @classmethod
    def _curve(cls) -> Curve | None:
        return curve_of(cls)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        return example_of(cls, shape, draw)

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        return of_embeddings(cls, write, _distances(cls))

    @classmethod
    def _call_operands(cls) -> list[str]:
        return list(cls.operands)

    @classmethod
    def _unreduced(cls) -> str:
        return f"a tensor of the shape of {cls._call_operands()[0]} without the last dimension"
