"""The score-margins family: a loss of the difference between a target's score and every other class's score.

1. A formula speaks of one number, `difference`: the score of a target class less that of a class that is none. A row's
   loss is the sum over all such pairs, divided by the number of classes, times the weight of its class.
2. A row has one target, or (`many`) a list of them that ends at the first -1; a class listed twice counts twice. What
   comes after the end of the list is never looked at.
3. A batch in which every row is made of 0 and 1 alone, without -1, is a mask given by mistake: no list of more than
   two distinct classes looks like that. torch takes it, and learns classes 0 and 1 again and again.
4. The eager formula pairs all scores with each position of the lists, up to the longest list. Under torch.compile and
   vmap lengths cannot be read, so it takes all positions (C x C pairs a row).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from losskit import curves
from losskit.declaration import param
from losskit.display import LOSS, NOTHING, Mathematics, Statistic, Writer, Written, gradient_by, joined, symbol
from losskit.draw import Draw
from losskit.errors import DeclarationError
from losskit.families.base import Family
from losskit.families.margins_plan import MarginsPlan
from losskit.reduction import Reduction
from losskit.traced import Formula
from losskit_guide.card import Curve, Rows


class MarginsLoss(Family, abstract=True):
    """A loss of the differences between the scores of a row's target classes and those of its other classes.

    A subclass declares what every loss does (see `losskit.PointwiseLoss`), and

    - `value(difference, ...)`: the loss of one pair, the target's score less the other's;
    - `many`: whether a row has a list of targets, ended by -1, or one.

    Instances are called with `input`, scores (N, C) or (C,), and `target`, class indices (N,) or, with `many`, (N, C);
    by keyword with `sample_weight`, `mask` (both of the unreduced loss, one number for each row) and `normalizer`.
    """

    reduction: Reduction = param(
        default="mean",
        doc="'none': a loss per row; 'mean': their mean; 'sum': their sum.",
    )

    many: ClassVar[bool] = False
    _statistics = (
        Statistic("difference", Written("x_t - x_j", "xₜ − xⱼ"), "score of a target class less that of another class"),
    )
    _plan_class = MarginsPlan

    @classmethod
    def _declare(cls) -> None:
        if cls.many and "weight" in cls.params:
            raise DeclarationError(f"{cls.__name__}: a row with many targets has no class whose weight it could have")
        super()._declare()

    _label = "margins"

    @classmethod
    def _curve(cls) -> Curve | None:
        label = "score of the target less that of another class: the loss of one pair"
        ways = curves.as_they_are(cls._formulas.all())
        return curves.of_trace(cls, "difference", "logit", (-3.0, 3.0), [], ways, label)

    @classmethod
    def _sight(cls, formula: Formula) -> curves.Sight | None:
        operands = {"input": [["difference", 0.0]], "target": [[0, -1]] if cls.many else [0]}
        by_hand = f"{curves.called(formula, difference='input[:, 0] - input[:, 1]')} / 2"
        return curves.sight(
            formula, "difference", lambda x, f: {"difference": x}, operands, ("input", (0, 0)), by_hand, 0.5
        )

    @classmethod
    def _units(cls) -> Rows | None:
        return Rows("scores", softmax=False, terms="pairs", several=cls.many)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        if not cls.many:
            return [draw.normal(*shape), draw.integers(0, shape[-1], *shape[:-1])]
        scores, listed = draw.normal(*shape), draw.normal(*shape).float().topk(min(3, shape[-1])).indices
        return [scores, torch.nn.functional.pad(listed, (0, shape[-1] - listed.shape[-1]), value=-1)]

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        target, other = write.trace.variable("target_"), write.trace.variable("other_")
        write.letters = {"target_": Written("x_t", "xₜ"), "other_": Written("x_j", "xⱼ")}
        slope = write.slope("difference")
        value, slope, against = (
            write.replaced(x, "difference", target - other) for x in (write.value, slope, write.simplified(-slope))
        )
        weight = Written("w_t ", "wₜ ") if "weight" in cls.params else NOTHING
        share = Written(rf"\frac{{1}}{{C}} {weight.latex}", f"1/C {weight.plain}")
        others = Written(r"\sum_{j \notin T} ", "Σ(j∉T) ") if cls.many else Written(r"\sum_{j \ne t} ", "Σ(j≠t) ")
        targets = Written(r"\sum_{t \in T} ", "Σ(t∈T) ") if cls.many else NOTHING
        equations = [
            write.equation("loss", LOSS, value, joined(share, targets, others)),
            write.equation(
                "gradient by the score of a target", gradient_by(Written("x_t", "xₜ")), slope, joined(share, others)
            ),
            write.equation(
                "gradient by another score",
                gradient_by(Written("x_j", "xⱼ")),
                against,
                joined(share, targets),
            ),
        ]
        of_row = "classes of the row, up to the first -1" if cls.many else "class of the row"
        symbols = [
            symbol("input", "score of class j in the row", Written("x_j", "xⱼ")),
            symbol("target", of_row, Written(*"TT" if cls.many else "tt")),
            symbol("C", "number of classes", Written("C", "C")),
        ]
        if weight.plain:
            symbols.append(symbol("weight", cls.params["weight"].doc, Written("w_t", "wₜ")))
        return Mathematics(equations, symbols + [symbol(name, cls.params[name].doc) for name in write.formula.numbers])

    @classmethod
    def _call_operands(cls) -> list[str]:
        return ["input", "target"]

    @classmethod
    def _unreduced(cls) -> str:
        return "a tensor of shape (N,)"
