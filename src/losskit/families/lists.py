"""The lists family: a row is a list of items, each with a score and a relevance, and the loss is one of its pairs.

1. A formula speaks of a pair of items of which the first is more relevant: `difference`, the score of the first less
   that of the second, and what the list makes of the two. The loss of a list is the sum over its pairs, or (`pairs`)
   their mean. Items of equal relevance make no pair.
2. All but `difference` is constant for differentiation: ranks jump, and gains depend on the relevance alone.
3. Ranks are those of the scores, from 1 on; of equal scores the item that comes first has the better rank. A gain is
   2^relevance - 1 divided by the largest DCG that an order of the list can have. What two items have in common is told
   as a difference, taken in float64: in float32 the discounts of ranks 1000 and 1001 share three of seven digits.
4. `k` restricts the pairs to items whose ranks are both at most k, and the largest DCG to as many places.
5. Items that `element_mask` leaves out count for nothing: no rank, no gain, no pair, no place in the largest DCG.
6. A list without a pair is left out, as if it were masked, whatever its scores: whether a list counts must not depend
   on the model. So a list that has pairs, but none within the first k, counts with a loss of 0.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from losskit import curves
from losskit.declaration import Operand, param
from losskit.display import LOSS, NOTHING, Mathematics, Statistic, Writer, Written, gradient_by, joined, symbol
from losskit.domains import Interval, nonnegative
from losskit.draw import Draw
from losskit.errors import DeclarationError
from losskit.families.base import Family
from losskit.families.lists_plan import ListsPlan
from losskit.reduction import Reduction
from losskit_guide.card import Curve, Equation, Given

SPOKEN = (
    Statistic("difference", Written("s_i - s_j", "sᵢ − sⱼ"), "score of the more relevant item less that of the other"),
    Statistic(
        "relevance_difference", Written("(y_i - y_j)", "(yᵢ − yⱼ)"), "by how much the one is more relevant",
        nonnegative, constant=True,
    ),
    Statistic(
        "gain_difference", Written("(G_i - G_j)", "(Gᵢ − Gⱼ)"), "gain of the more relevant item less that of the other",
        nonnegative, constant=True,
    ),
    Statistic(
        "discount_difference",
        Written(r"\left|\frac{1}{D(r_i)} - \frac{1}{D(r_j)}\right|", "|1/D(rᵢ) − 1/D(rⱼ)|"),
        "how much the discounts of their ranks differ", nonnegative, constant=True,
    ),
    Statistic(
        "distance_discount",
        Written(r"\left(\frac{1}{D(d)} - \frac{1}{D(d + 1)}\right)", "(1/D(d) − 1/D(d + 1))"),
        "how much one rank more between them would change the discount of their distance", nonnegative, constant=True,
    ),
    Statistic("rank", Written("r_i", "rᵢ"), "rank of the more relevant item, from 1 on", nonnegative, constant=True),
    Statistic("other_rank", Written("r_j", "rⱼ"), "rank of the other item, from 1 on", nonnegative, constant=True),
)  # fmt: skip
_ITEM, _OTHER = Written("s_i", "sᵢ"), Written("s_j", "sⱼ")
_PAIRS = Written(r"\sum_{y_i > y_j} ", "Σ(yᵢ > yⱼ) ")
_OF_PAIR = Written(r"\ell_{ij}", "ℓᵢⱼ")
_GAIN = Equation(
    "where",
    r"G_i = \frac{2^{y_i} - 1}{\sum_r (2^{y_{(r)}} - 1) / D(r)}",
    "Gᵢ = (2^yᵢ − 1) / Σᵣ (2^y₍ᵣ₎ − 1)/D(r),  y₍ᵣ₎ in decreasing order",
)
_DISCOUNT = Equation("where", r"D(r) = \log_2(1 + r)", "D(r) = log₂(1 + r)")
_DISTANCE = Equation("where", "d = |r_i - r_j|", "d = |rᵢ − rⱼ|")
_WHERES = {
    "gain_difference": (_GAIN, _DISCOUNT), "discount_difference": (_DISCOUNT,),
    "distance_discount": (_DISCOUNT, _DISTANCE),
}  # fmt: skip

OPERANDS = {
    "input": Operand("Scores of the items, (N, K) or (K,)."),
    "target": Operand(
        "How relevant each item is, of the same shape: integers or floating point, 0 the least.", domain=nonnegative,
        differentiable=False, hint="For padded items use element_mask=target >= 0.",
    ),
    "element_mask": Operand(
        "Boolean, of the same shape, True = counts; padded items are False.", optional=True, differentiable=False
    ),
}  # fmt: skip


def symbols_of() -> list[dict[str, str]]:
    """What the operands are in equations."""
    return [
        symbol("input", "score of item i in the list", _ITEM),
        symbol("target", "relevance of item i", Written("y_i", "yᵢ")),
        symbol("element_mask", "the items that there are, without those that it leaves out", Written("i, j", "i, j")),
    ]


def example_of(shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
    """Random lists, of five grades."""
    return [draw.normal(*shape), draw.integers(0, 5, *shape)]


class ListsLoss(Family, abstract=True):
    """A loss of the pairs of items in ranking lists; the base class of built-in and custom ones.

    A subclass declares a docstring, parameters, `facts`, `cases` and the rest as every loss does, and

    - `value`, a static method over the formula language: its arguments are numbers of a pair of items of which the
      first is more relevant, any of `difference` (of the scores), `relevance_difference`, `gain_difference`,
      `discount_difference`, `distance_discount`, `rank` and `other_rank`, and then the parameters. All but
      `difference` are constants for differentiation;
    - `pairs`: whether a list's loss is the "sum" over its pairs or their "mean".

    Instances are called with `input`, scores (N, K) or (K,), `target`, the relevance of each item, of the same shape,
    and perhaps `element_mask`, which items there are; by keyword with `sample_weight`, `mask` (both of the unreduced
    loss, one number for each list) and `normalizer`. The parameter `k` is there where `arguments` name it.
    """

    reduction: Reduction = param(
        default="mean",
        doc="'none': a loss per list; 'mean': their mean over the lists that have a pair; 'sum': their sum.",
    )
    k: int | None = param(
        default=None,
        domain=Interval("at least 1", low=1.0, typical=10.0),
        doc="Only pairs whose items are both among the k highest scores count; None: all.",
    )

    pairs: ClassVar[str] = "sum"
    operands = OPERANDS
    _statistics = SPOKEN
    _plan_class = ListsPlan
    _label = "lists"
    _usual_shape = (128, 100)

    @classmethod
    def _declare(cls) -> None:
        if cls.pairs not in ("sum", "mean"):
            raise DeclarationError(f"{cls.__name__}: `pairs` must be 'sum' or 'mean', got {cls.pairs!r}")
        super()._declare()
        for formula in cls._formulas.values():
            if "difference" not in formula.operands:
                raise DeclarationError(f"{cls.__name__}: `value` must speak of the difference of the scores")

    @classmethod
    def _curve(cls) -> Curve | None:
        formulas = cls._formulas.all()
        used = {name for formula in formulas for name in formula.operands}
        given = [Given(x.name, x.meaning, 1.0, 0.0, 4.0) for x in SPOKEN if x.name in used - {"difference"}]
        label = f"{SPOKEN[0].meaning}: the loss of one pair"
        return curves.of_trace(cls, "difference", "logit", (-4.0, 4.0), given, curves.as_they_are(formulas), label)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        return example_of(shape, draw)

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        item, other = write.trace.variable("item_"), write.trace.variable("other_")
        write.letters = {x.name: x.letter for x in SPOKEN} | {"item_": _ITEM, "other_": _OTHER}
        slope = write.slope("difference")
        value, slope = (write.replaced(x, "difference", item - other) for x in (write.value, slope))
        share = Written(r"\frac{1}{P} ", "1/P ") if cls.pairs == "mean" else NOTHING
        equations = [
            Equation(
                "loss",
                f"{LOSS.latex} = {joined(share, _PAIRS, _OF_PAIR).latex}",
                f"{LOSS.plain} = {joined(share, _PAIRS, _OF_PAIR).plain}",
            ),
            write.equation("loss of a pair", _OF_PAIR, value),
            write.equation("gradient by the more relevant score", gradient_by(_ITEM, _OF_PAIR), slope),
            write.equation("gradient by the other score", gradient_by(_OTHER, _OF_PAIR), write.simplified(-slope)),
            *dict.fromkeys(x for name in write.formula.operands for x in _WHERES.get(name, ())),
        ]
        symbols = symbols_of()
        if {"rank", "other_rank", "discount_difference", "distance_discount"} & set(write.formula.operands):
            symbols.append(symbol("r", "rank of item i by its score, from 1 on", Written("r_i", "rᵢ")))
        if cls.pairs == "mean":
            symbols.append(symbol("P", "number of pairs", Written("P", "P")))
        return Mathematics(equations, symbols + [symbol(name, cls.params[name].doc) for name in write.formula.numbers])

    @classmethod
    def _call_operands(cls) -> list[str]:
        return list(cls.operands)

    @classmethod
    def _unreduced(cls) -> str:
        return "a tensor of the shape of input without the last dimension"
