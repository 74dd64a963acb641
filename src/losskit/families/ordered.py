"""The ordered family: rows whose elements are put into an order, and of which the loss of each depends on those after.

1. A formula speaks of a statistic of an element in its place in the order, and the loss of a row is the sum over its
   elements. The statistic says what runs along the row:
   - `log_share`: the logarithm of an element's share in the sum of exponentials from it on. Not the running sum itself:
     the difference of a score and a sum that it dominates has lost its digits.
   - `scan`: the running sum of probabilities less those of the target; the order is that of the classes.
   - `error` and `step`: how wrong a pixel is, in decreasing order, and what it adds to the Jaccard loss of its set. A
     step is a fraction with its own digits, not the difference of two losses; it has no derivative.
2. Orders are stable: what is tied keeps the order of the input, so that a loss is a function of its operands. With
   `at_ties = "end of tie"` tied elements share the sum over the whole tie instead.
3. What `element_mask` leaves out, leaves before the sort: it is in no sum, and may be NaN.
4. A unit that has no loss to give is left out as a masked one is: a list of fewer than two elements, one without an
   event, an image without pixels, a class that is absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from torch import Tensor

from losskit import curves
from losskit.declaration import param
from losskit.display import LOSS, Mathematics, Statistic, Writer, Written, gradient_by, symbol
from losskit.draw import Draw
from losskit.errors import DeclarationError
from losskit.families.base import Family
from losskit.families.ordered_errors import PixelsPlan, SignsPlan
from losskit.families.ordered_plan import ClassesPlan, ListsPlan
from losskit.plan import Plan
from losskit.reduction import Reduction
from losskit_guide.card import Curve, Equation, Given

_SHARE = Written(r"\log s_k", "log sₖ")
_STATISTICS = (
    Statistic("log_share", _SHARE, "logarithm of the share of an element in the exponentials of those from it on"),
    Statistic("scan", Written(r"\Delta_k", "Δₖ"), "probability of the classes up to this one, less that of the target"),
    Statistic("error", Written("e_k", "eₖ"), "how wrong the pixel is; the pixels come in the order of their errors"),
    Statistic("step", Written("w_k", "wₖ"), "what the pixel adds to the Jaccard loss of the set"),
)
_KINDS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("log_share",): ("lists", "events"), ("scan",): ("classes of a row",), ("error", "step"): ("images", "classes"),
}  # fmt: skip


class OrderedLoss(Family, abstract=True):
    """A loss of the elements of a row in an order: lists by relevance or time, classes by number, pixels by error.

    A subclass declares what every loss does (see `losskit.PointwiseLoss`), and

    - `value`, of `log_share` (scores in the order of another operand), of `scan` (ordered classes), or of `error` and
      `step` (pixels): the loss of one element;
    - `operands`: the tensors of a call, `input` first, perhaps with an `element_mask` at the end;
    - `descending` and `at_ties`, of `log_share`: the order by the second operand, and what ties do;
    - `units`: what the mean is over, "lists", "events" (a third operand says which elements are some), "classes of a
      row", "images" or "classes".

    Instances are called with these tensors; by keyword with `sample_weight`, `mask` (both of the unreduced loss) and
    `normalizer`.
    """

    reduction: Reduction = param(
        default="mean", doc="'none': the unreduced losses; 'mean': their mean; 'sum': their sum."
    )
    ties: str = param(
        default="efron",
        choices=("efron", "breslow"),
        doc="What is at risk when several events come at once: 'efron' takes the average over their possible orders, "
        "'breslow' all of them for each.",
    )
    per_image: bool = param(default=True, doc="Whether each image is a set of its own; else the whole batch is one.")
    classes: str = param(
        default="present", choices=("present", "all"), doc="Whether classes without a pixel in the set are left out."
    )
    ignore_index: int = param(default=-100, doc="The label of pixels that do not count.")

    descending: ClassVar[bool] = True
    at_ties: ClassVar[Literal["input order", "end of tie"]] = "input order"
    units: ClassVar[str] = "lists"
    _statistics = _STATISTICS
    _several = True
    _label = "ordered rows"

    @classmethod
    def _declare(cls) -> None:
        super()._declare()
        formula = cls._formulas[cls._usual_setting()]
        spoken = tuple(sorted(formula.operands))
        if cls.units not in _KINDS.get(spoken, ()):
            kinds = "; ".join(f"{' and '.join(names)} for {' or '.join(units)}" for names, units in _KINDS.items())
            raise DeclarationError(
                f"{cls.__name__}: `value` speaks of {kinds}; got {' and '.join(spoken)} for {cls.units}"
            )
        cls._plan_class = _PLANS[cls.units]
        names = cls._call_operands()
        needed = 3 if cls.units == "events" else 2
        if names[:1] != ["input"] or len([n for n in names if n != "element_mask"]) != needed:
            raise DeclarationError(
                f"{cls.__name__}: `operands` of {cls.units} are input and {needed - 1} more, got {', '.join(names)}"
            )

    @classmethod
    def _settings(cls) -> dict[str, tuple[Any, ...]]:
        return {p.name: p.settings for p in cls._formula_params() if p.selects}

    @classmethod
    def _curve(cls) -> Curve | None:
        formulas = cls._formulas.all()
        ways = curves.as_they_are(formulas)
        name = next(x for x in formulas[0].operands if x != "step")
        label = f"{next(x.meaning for x in _STATISTICS if x.name == name)}: the loss of one"
        kind, limits = {
            "log_share": ("log_probability", (-6.0, 0.0)), "scan": ("prediction", (-1.0, 1.0)),
            "error": ("prediction", (-2.0, 2.0)),
        }[name]  # fmt: skip
        given = [Given("step", _STATISTICS[3].meaning, 1.0, 0.0, 1.0)] if "step" in formulas[0].operands else []
        return curves.of_trace(cls, name, kind, limits, given, ways, label)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        scores = draw.normal(*shape)
        if cls.units == "lists":
            return [scores, draw.integers(0, 5, *shape)]
        if cls.units == "events":
            return [scores, draw.integers(1, max(2, shape[-1]), *shape), draw.integers(0, 2, *shape)]
        if cls.units == "classes of a row":
            return [scores, draw.integers(0, shape[-1], *shape[:-1])]
        if cls.units == "images":
            return [scores, draw.integers(0, 2, *shape)]
        return [scores, draw.integers(0, shape[1], *shape[:1], *shape[2:])]

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        return _WRITERS[cls.units](cls, write)

    @classmethod
    def _means(cls) -> list[Equation]:
        if cls.units != "events":
            return super()._means()
        latex = r"L = \frac{\sum_i \ell_i}{\sum_i E_i}"
        return [super()._means()[0], Equation("mean", latex, "L = Σᵢ ℓᵢ / Σᵢ Eᵢ")]

    @classmethod
    def _call_operands(cls) -> list[str]:
        return list(cls.operands)

    @classmethod
    def _unreduced(cls) -> str:
        return {
            "images": "a tensor of shape (N,), a scalar for one image or without `per_image`",
            "classes": "a tensor of shape (C,), (N, C) with `per_image`",
        }.get(cls.units, "a tensor of the shape of input without the last dimension")


_PLANS: dict[str, Callable[..., Plan]] = {
    "lists": ListsPlan, "events": ListsPlan, "classes of a row": ClassesPlan,
    "images": SignsPlan, "classes": PixelsPlan,
}  # fmt: skip


def _of_shares(cls: Any, write: Writer) -> Mathematics:
    """In the order of the key: an element's own exponential over those from it on."""
    write.letters = {"log_share": _SHARE}
    of_events = cls.units == "events"
    over = Written(r"\sum_{k:\, d_k = 1} ", "Σ(k: dₖ = 1) ") if of_events else Written(r"\sum_k ", "Σₖ ")
    slope = write.slope("log_share")
    equations = [
        write.equation("loss", LOSS, write.value, over),
        write.equation("derivative by a share", gradient_by(_SHARE, Written(r"\ell_k", "ℓₖ")), slope),
    ]
    key = cls._call_operands()[1]
    if of_events:
        efron = r" - \frac{l_k}{D_k} \sum_{j \in D(t_k)} e^{x_j}"
        equations += [
            Equation("where", rf"s_k = \frac{{e^{{x_k}}}}{{\sum_{{t_j \ge t_k}} e^{{x_j}}{efron}}}",
                     "sₖ = exp xₖ / (Σ(tⱼ ≥ tₖ) exp xⱼ − lₖ/Dₖ·Σ(events j at tₖ) exp xⱼ)"),
            Equation("gradient by input", r"\frac{\partial \ell}{\partial x_j} = \sum_{k:\, d_k = 1} "
                     r"\frac{\partial \ell_k}{\partial \log s_k} \left(\delta_{jk} - c_{jk} e^{x_j - x_k} s_k\right)",
                     "∂ℓ/∂xⱼ = Σ(k: dₖ = 1) ∂ℓₖ/∂(log sₖ)·(δⱼₖ − cⱼₖ·exp(xⱼ − xₖ)·sₖ)"),
        ]  # fmt: skip
        symbols = [
            symbol("time", "time of the event, or until which there was none", Written("t_k", "tₖ")),
            symbol("event", "1 for an event", Written("d_k", "dₖ")),
            symbol("D", "number of events at the time of k; l of them come before k in the input, 0 with 'breslow'",
                   Written("D_k", "Dₖ")),
            symbol("c", "weight of j in the sum of k: 0 before it, 1 - l/D at an event tied with it, else 1",
                   Written("c_{jk}", "cⱼₖ")),
        ]  # fmt: skip
    else:
        equations += [
            Equation("where", r"s_k = \frac{e^{x_k}}{\sum_{j \ge k} e^{x_j}}", "sₖ = exp xₖ / Σ(j ≥ k) exp xⱼ"),
            Equation("gradient by input", r"\frac{\partial \ell}{\partial x_j} = \sum_{k \le j} "
                     r"\frac{\partial \ell_k}{\partial \log s_k} \left(\delta_{jk} - e^{x_j - x_k} s_k\right)",
                     "∂ℓ/∂xⱼ = Σ(k ≤ j) ∂ℓₖ/∂(log sₖ)·(δⱼₖ − exp(xⱼ − xₖ)·sₖ)"),
        ]  # fmt: skip
        way = "decreasing" if cls.descending else "increasing"
        symbols = [symbol(key, f"the elements are numbered in {way} order of it", Written("t_k", "tₖ"))]
    first = symbol("input", "score of element k", Written("x_k", "xₖ"))
    return Mathematics(equations, [first, *symbols, *_rest(cls, write)])


def _of_sums(cls: Any, write: Writer) -> Mathematics:
    write.letters = {"scan": _STATISTICS[1].letter}
    slope = write.slope("scan")
    equations = [
        write.equation("loss", LOSS, write.value, Written(r"\sum_k ", "Σₖ ")),
        Equation("where", r"\Delta_k = \sum_{c \le k} (p_c - t_c)", "Δₖ = Σ(c ≤ k) (p[c] − t[c])"),
        write.equation("where", Written("g_c", "g[c]"), slope, Written(r"\sum_{k \ge c} ", "Σ(k ≥ c) ")),
        Equation("gradient by input", r"\frac{\partial \ell}{\partial x_c} = p_c \left(g_c - \sum_j p_j g_j\right)",
                 "∂ℓ/∂x[c] = p[c]·(g[c] − Σⱼ p[j]·g[j])"),
    ]  # fmt: skip
    symbols = [
        symbol("input", "score of class c, of which the softmax is p", Written("x_c", "x[c]")),
        symbol("target", "probability of class c; 1 for the class of an index", Written("t_c", "t[c]")),
    ]
    return Mathematics(equations, symbols + _rest(cls, write))


def _of_errors(cls: Any, write: Writer) -> Mathematics:
    write.letters = {"error": _STATISTICS[2].letter, "step": _STATISTICS[3].letter}
    over = Written(r"\sum_k ", "Σₖ ")
    jaccard = Equation("where", r"w_k = J_k - J_{k-1}, \quad J_k = 1 - \frac{T - \sum_{j \le k} t_j}"
                       r"{T + \sum_{j \le k} (1 - t_j)}",
                       "wₖ = Jₖ − Jₖ₋₁,  Jₖ = 1 − (T − Σ(j ≤ k) tⱼ) / (T + Σ(j ≤ k) (1 − tⱼ))")  # fmt: skip
    slope, by_error = write.slope("error"), gradient_by(Written("e_k", "eₖ"))
    equations = [
        write.equation("loss", LOSS, write.value, over),
        write.equation("gradient by an error", by_error, slope),
    ]
    if cls.units == "images":
        equations += [
            Equation("where", r"e_k = 1 - x_k (2 t_k - 1)", "eₖ = 1 − xₖ·(2tₖ − 1)"),
            jaccard,
            Equation("gradient by input", r"\frac{\partial \ell}{\partial x_k} = -(2 t_k - 1) "
                     r"\frac{\partial \ell}{\partial e_k}", "∂ℓ/∂xₖ = −(2tₖ − 1)·∂ℓ/∂eₖ"),
        ]  # fmt: skip
        symbols = [
            symbol("input", "score of a pixel", Written("x_k", "xₖ")),
            symbol("target", "1 for a pixel in the set, else 0", Written("t_k", "tₖ")),
        ]
    else:
        equations += [
            Equation("where", r"e_k = |t_k - p_k|", "eₖ = |tₖ − pₖ|"),
            jaccard,
            Equation("gradient by input", r"\frac{\partial L}{\partial x_c} = p_c \left(g_c - \sum_j p_j g_j\right), "
                     r"\quad g_c = (1 - 2 t_c) \frac{\partial L}{\partial e_c}",
                     "∂L/∂x[c] = p[c]·(g[c] − Σⱼ p[j]·g[j]),  g[c] = (1 − 2t[c])·∂L/∂e[c]"),
        ]  # fmt: skip
        symbols = [
            symbol("input", "score of a class of a pixel, of which the softmax is p", Written("x_c", "x[c]")),
            symbol("target", "1 for a pixel of this class, else 0", Written("t_k", "tₖ")),
        ]
    return Mathematics(equations, [*symbols, symbol("T", "number of pixels in the set", Written("T", "T")),
                                   *_rest(cls, write)])  # fmt: skip


def _rest(cls: Any, write: Writer) -> list[dict[str, str]]:
    """What says which elements there are, and the numbers of the formula."""
    masks = [symbol("element_mask", cls.operands["element_mask"].doc)] if "element_mask" in cls.operands else []
    return masks + [symbol(name, cls.params[name].doc) for name in write.formula.numbers]


_WRITERS: dict[str, Callable[[Any, Writer], Mathematics]] = {
    "lists": _of_shares, "events": _of_shares, "classes of a row": _of_sums,
    "images": _of_errors, "classes": _of_errors,
}  # fmt: skip
