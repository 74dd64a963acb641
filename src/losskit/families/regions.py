"""The regions family: how far the pixels that a class is predicted for, and those that it has, are the same ones.

1. A unit is a region: the pixels of a class in a sample, or with `batch` in all samples. A formula speaks of sums over
   the pixels that count: `overlap`, `false_positives`, `false_negatives`; also `predicted` and `actual`, the sizes of
   both regions. Dice and its kin are ratios of them. The kernel makes the sums, evaluates the formula on arrays of
   them, and turns its derivatives into the gradient by the scores.
2. What is wrong is a sum of its own, of p (1 - t) and of t (1 - p), with 1 - p from the scores. As a difference of
   other sums, the loss of a nearly perfect region would be rounding alone.
3. Scores become probabilities by `activation`. A target is 0/1 or a probability for each score, or class indices, which
   are never made one-hot by the kernels.
4. `pixel_mask` and `ignore_index` leave pixels out, as if the image did not have them. `mask`, as everywhere, has the
   shape of the unreduced loss: it leaves regions out. A region without any pixel that counts has no loss.
5. Of a soft target t, a product p t is largest at p = 1, and what is wrong is not 0 at p = t. With `soft_label`, both
   regions have the smaller of p and t, and what is wrong is |p - t|. Squares have their least at p = t anyway.
6. `weigh` pools the classes: their sums, each with its weight, are those of one region.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from losskit import curves
from losskit.declaration import Operand, param
from losskit.display import LOSS, Mathematics, Statistic, Writer, Written, gradient_by, symbol
from losskit.domains import nonnegative, real
from losskit.draw import Draw
from losskit.errors import DeclarationError
from losskit.families.base import Family
from losskit.families.regions_plan import RegionsPlan
from losskit.graph import Expr
from losskit.reduction import Reduction
from losskit_guide.card import Curve, Equation

SPOKEN = (
    Statistic("overlap", Written(r"\mathrm{TP}", "TP"), "pixels that both regions have", nonnegative),
    Statistic("predicted", Written("P", "P"), "size of the predicted region", nonnegative),
    Statistic("actual", Written("T", "T"), "size of the actual region", nonnegative),
    Statistic(
        "false_positives", Written(r"\mathrm{FP}", "FP"), "pixels that only the predicted region has", nonnegative
    ),
    Statistic(
        "false_negatives", Written(r"\mathrm{FN}", "FN"), "pixels that only the actual region has", nonnegative
    ),
)  # fmt: skip
_OPERANDS = {
    "input": Operand("Scores, or probabilities with activation='none', of shape (N, C, ...).", kind="logit"),
    "target": Operand(
        "0 and 1 or probabilities, of the shape of the input; or class indices (N, ...), integers.",
        hint="Class indices have the shape of the input without the classes.",
    ),
    "pixel_mask": Operand(
        "Boolean, (N, ...), True = counts: the other pixels are left out of all regions.",
        optional=True, differentiable=False, type="Tensor",
    ),
}  # fmt: skip
_DEFINITIONS = [
    Equation("where", r"\mathrm{TP} = \sum_i m_i \, p_i t_i", "TP = Σᵢ mᵢ pᵢ tᵢ"),
    Equation("where", r"\mathrm{FP} = \sum_i m_i \, p_i (1 - t_i)", "FP = Σᵢ mᵢ pᵢ (1 − tᵢ)"),
    Equation("where", r"\mathrm{FN} = \sum_i m_i \, (1 - p_i) t_i", "FN = Σᵢ mᵢ (1 − pᵢ) tᵢ"),
]
_OF_SMALLER = Written(
    r"\mathrm{TP} = \sum_i m_i \min(p_i, t_i), \quad \mathrm{FP} = \sum_i m_i \max(p_i - t_i, 0), \quad "
    r"\mathrm{FN} = \sum_i m_i \max(t_i - p_i, 0)",
    "TP = Σᵢ mᵢ min(pᵢ, tᵢ), FP = Σᵢ mᵢ max(pᵢ − tᵢ, 0), FN = Σᵢ mᵢ max(tᵢ − pᵢ, 0)",
)
_OF_SQUARES = Written(
    r"\mathrm{FP} = \mathrm{FN} = \tfrac{1}{2} \sum_i m_i \, (p_i - t_i)^2", "FP = FN = ½ Σᵢ mᵢ (pᵢ − tᵢ)²"
)


def _alike(overlap: Expr) -> dict[str, Any]:
    """The statistics of two regions of size 1."""
    rest = 1.0 - overlap
    return {"false_positives": rest, "false_negatives": rest, "predicted": 1.0, "actual": 1.0}


class RegionsLoss(Family, abstract=True):
    """A loss of how far predicted and actual regions overlap; the base class of built-in and custom ones.

    A subclass declares a docstring, parameters, `facts`, `cases` and the rest as every loss does, and

    - `value`, a static method over the formula language: its arguments are sums over a region's pixels, any of
      `overlap`, `false_positives`, `false_negatives`, `predicted` and `actual`, and then the parameters;
    - optionally `grad` with the same arguments: the derivative by each sum (None: derive it);
    - optionally `squares`, the name of a switch: with it, sizes are sums of squares, and both kinds of wrong pixels
      half the sum of (p - t)**2;
    - optionally `weigh`, a static method of `actual` and parameters, an ordinary torch function: a weight for each
      class (the last dimension). The classes are then one region, whose sums are the weighted ones.

    The input is (N, C, ...), the target of the same shape or class indices (N, ...). By default the unreduced loss is
    (N, C), one for each class of each sample; (C,) with `batch`, and without the classes where they are pooled.
    Instances also take, by keyword, `sample_weight`, `mask` and `normalizer`.
    """

    reduction: Reduction = param(
        default="mean", doc="'none': a loss per region; 'mean': their mean; 'sum': their sum."
    )  # fmt: skip
    activation: str = param(
        default="sigmoid", choices=("sigmoid", "softmax", "none"),
        doc="What makes probabilities of scores: 'sigmoid' each by itself, 'softmax' over classes that exclude each "
        "other, 'none' where the input is probabilities.",
    )  # fmt: skip
    include_background: bool = param(default=True, doc="Whether class 0 has a loss.")
    batch: bool = param(default=False, doc="Whether a region is that of a class in all samples together.")
    ignore_index: int = param(default=-100, domain=real, doc="Pixels with this class index do not count.")
    weight: Tensor | None = param(
        default=None, doc="Weight of each class, (C,), class 0 included. The mean divides by the sum of the weights."
    )
    soft_label: bool = param(
        default=False,
        doc="Whether both regions have the smaller of p and t of a pixel, not p t: a prediction that equals a soft "
        "target is then right, and costs nothing. Of targets that are 0 or 1, both are the same.",
    )  # fmt: skip

    operands = _OPERANDS
    squares: ClassVar[str] = ""
    weigh: ClassVar[Callable[..., Tensor] | None] = None
    _statistics = SPOKEN
    _harmless = {x.name: 1.0 for x in SPOKEN}
    _plan_class = RegionsPlan
    _label = "regions"
    _usual_shape = (4, 4, 256, 256)

    @classmethod
    def _declare(cls) -> None:
        if cls.weigh is not None and "weight" in cls.params:
            raise DeclarationError(
                f"{cls.__name__}: classes that are pooled have no `weight`: leave it out of `arguments`"
            )
        if cls.squares and (cls.squares not in cls.params or cls.params[cls.squares].kind != "bool"):
            raise DeclarationError(f"{cls.__name__}: `squares` is the name of a switch, got {cls.squares!r}")
        super()._declare()

    @classmethod
    def _call_operands(cls) -> list[str]:
        return list(_OPERANDS)

    @classmethod
    def _settings(cls) -> dict[str, tuple[Any, ...]]:
        """A formula does not know which pixels count."""
        return {p.name: p.settings for p in cls._formula_params() if p.selects}

    @classmethod
    def _used_elsewhere(cls) -> set[str]:
        return {cls.squares, *cls._weighing()}

    @classmethod
    def _weighing(cls) -> list[str]:
        """The parameters that `weigh` takes."""
        return [] if cls.weigh is None else [x for x in inspect.signature(cls.weigh).parameters if x != "actual"]

    @classmethod
    def _unreduced(cls) -> str:
        if cls.weigh is not None:
            return "a tensor of shape (N,), or a scalar with batch"
        return "a tensor of shape (N, C), or (C,) with batch; without class 0 where that has no loss"

    @classmethod
    def _curve(cls) -> Curve | None:
        label = "what two regions of size 1 have in common"
        ways = [(f.switches, f.numbers, _alike) for f in cls._formulas.all()]
        return curves.of_trace(cls, "overlap", "probability", (0.0, 1.0), [], ways, label)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        """Scores, and labels of which a third are 1."""
        return [draw.normal(*shape), (draw.normal(*shape) > 0.43).to(draw.dtype)]

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        write.letters = {x.name: x.letter for x in SPOKEN}
        of_loss = {name: write.slope(name) for name in write.formula.operands}
        overlap, predicted, positives, negatives = (
            of_loss.get(name, 0.0) for name in ("overlap", "predicted", "false_positives", "false_negatives")
        )
        by = Written("p_i", "pᵢ")
        inside, outside = (write.simplified(x) for x in (overlap - negatives + predicted, positives + predicted))
        equations = [
            write.equation("loss", LOSS, write.value),
            write.equation("gradient by the probability of a pixel of the class", gradient_by(by), inside),
            write.equation("gradient by the probability of another pixel", gradient_by(by), outside),
            *_DEFINITIONS,
        ]
        equations.append(Equation("with soft_label", *_OF_SMALLER))
        if cls.squares:
            equations.append(Equation(f"with {cls.squares}", *_OF_SQUARES))
        symbols = [
            symbol("input", "probability of pixel i, what the activation makes of its score", by),
            symbol("target", "whether pixel i is of the class, or how likely it is", Written("t_i", "tᵢ")),
            symbol("pixel_mask", "1 where pixel i counts, else 0", Written("m_i", "mᵢ")),
            *(symbol(x.name, x.meaning, x.letter) for x in SPOKEN if x.name in write.formula.operands),
            *(symbol(name, cls.params[name].doc) for name in write.formula.numbers),
        ]
        return Mathematics(equations, symbols)
