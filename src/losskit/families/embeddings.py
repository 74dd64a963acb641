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
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor

from losskit import curves
from losskit.declaration import Operand, param
from losskit.display import LOSS, Mathematics, Statistic, Writer, Written, gradient_by, symbol
from losskit.domains import Interval, nonnegative
from losskit.draw import Draw
from losskit.errors import DeclarationError
from losskit.families.base import Family
from losskit.families.embeddings_plan import EmbeddingsPlan
from losskit.formula import sqrt, stop
from losskit.graph import Expr
from losskit.reduction import Reduction
from losskit.traced import Formula
from losskit_guide.card import Curve, Equation, Given


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
    labels = curves.given_of(formulas[0], only=("target",))
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
    _usual_shape = (8192, 128)

    @classmethod
    def _curve(cls) -> Curve | None:
        return curve_of(cls)

    @classmethod
    def _sight(cls, formula: Formula) -> curves.Sight | None:
        """Over the size of the first embedding, as far as one of its two numbers is concerned."""
        names = [name for name in cls._call_operands() if name != "target"]
        target: dict[str, list[Any]] = {"target": ["target"]} if "target" in cls._call_operands() else {}
        told: dict[str, Any] = {"variable": "x", "label": f"first of the two numbers of {names[0]}"}
        operands: dict[str, list[Any]]
        if "cosine" in formula.operands and len(names) == 2:

            def of_angle(x: Expr, f: Callable[..., Any]) -> dict[str, Any]:
                y = 2.0 * stop(x)
                cosine = x / sqrt(x * x + y * y)
                return {"cosine": cosine, "cosine_distance": 1.0 - cosine, "target": x.trace.variable("target")}

            operands = {names[0]: [["x", "2 * x"]], names[1]: [[1.0, 0.0]], **target}
            return curves.sight(formula, "x", of_angle, operands, (names[0], (0, 0)), "", **told)
        if "positive_distance" not in formula.operands:
            return None

        def of_distances(x: Expr, f: Callable[..., Any]) -> dict[str, Any]:
            eps = x.trace.variable("eps")
            near, far = (sqrt((x + eps) * (x + eps) + y * y) for y in (eps, eps - 1.0))
            return {"positive_distance": near, "negative_distance": far}

        operands = {names[0]: [["x", 0.0]], names[1]: [[0.0, 0.0]], names[2]: [[0.0, 1.0]]}
        eps = cls._default("eps") if "eps" in cls.params else 0.0
        return curves.sight(
            formula, "x", of_distances, operands, (names[0], (0, 0)), "", more={"eps": float(eps)}, **told
        )

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
