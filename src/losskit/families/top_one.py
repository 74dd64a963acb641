"""The top-one family: a ranking list as two rows of probabilities, by the scores and by the relevance of its items.

1. The probability of an item is that of being the first: the softmax of the scores, and what `target_transform` makes
   of the relevance. So the loss is one of class scores (see `class_scores.py`), whose kernels run it: the items are the
   classes, and the relevance becomes their probabilities here, not in the caller's code.
2. Items that `element_mask` leaves out are in neither row: their score is -inf and their probability 0. A list without
   an item is left out, and so is one without a relevant item where the relevance is divided by its sum.
3. The relevance is constant for differentiation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit import curves, dtypes
from losskit.declaration import param
from losskit.display import LOSS, Mathematics, Writer, Written, gradient_by
from losskit.draw import Draw
from losskit.errors import error
from losskit.families.class_scores import ClassScoresLoss
from losskit.families.class_scores_plan import ClassScoresPlan
from losskit.families.lists import OPERANDS, example_of, symbols_of
from losskit.families.lists_plan import check_lists
from losskit.formula import sigmoid, softplus
from losskit.graph import Expr
from losskit.kernels import fused, wire
from losskit.kernels.choice import PLAIN, helps
from losskit.kernels.torch_internals import observed
from losskit.plan import Arguments, Dims, Kernel
from losskit.reduction import both
from losskit.validation import check_extras, check_floating, check_tensor
from losskit_guide.card import Curve, Equation, Given, Rows

_LONG = 64  # items: the kernel takes shorter lists side by side, not one by one


class _RelevancePlan(ClassScoresPlan):
    """The same loss of scores and relevance as they are, of which the kernel makes probabilities."""

    constants = 0b10
    gradients = 1

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        super().__init__(loss, reduction, parameters)
        self.names = ["input", "target"]
        self.code |= fused.pack(reduction, family=wire.CLASS_SCORES.family.pack(relevance=True))

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        return [(0, None), (0, None), ()]

    def eager(self, arguments: Arguments, checks: str, part: Any = None) -> Tensor:
        input, relevance = arguments.operands
        shares = relevance.detach().to(input.dtype).softmax(-1)
        return super().eager(arguments._replace(operands=[input, shares]), checks)


class TopOnePlan(ClassScoresPlan):
    """A loss of top-one probabilities with its parameters fixed."""

    constants = 0b110
    direct = False  # the relevance has to become probabilities first

    def __init__(self, loss: Any, reduction: str, parameters: dict[str, Any]) -> None:
        super().__init__(loss, reduction, parameters)
        self.transform = parameters["target_transform"]
        plain = self.formula is None and self.transform == "softmax" and not parameters.get("element_mask", False)
        self.usual = _RelevancePlan(loss, reduction, parameters) if plain else None
        names = loss._call_operands()
        self.names = [name for name in names if parameters.get(name, True)]  # an optional one that is missing is False

    def at_once(self, operands: Sequence[Any]) -> Tensor | None:
        """Lists of float32 without padding, by a shorter way; None: these are others.

        Of long lists the kernel makes probabilities of the relevance, in the pass over the scores.
        """
        input, target, *items = operands
        if self.usual is None or items or not (type(input) in PLAIN and type(target) in PLAIN):
            return None
        if input.dtype is not torch.float32 or target.dtype not in (torch.float32, torch.int64):
            return None
        if input.ndim != 2 or input.shape != target.shape or not input.numel() or observed() or not helps(input):
            return None
        if input.shape[1] >= _LONG:
            return fused.attempt(self.usual, self.usual.numbers, [input, target], None, None, None)
        shares = self._shares(target, None, input.dtype)
        return fused.attempt(self, self.numbers, [input, shares], None, None, None)

    def validated(
        self,
        operands: Sequence[Any],
        weight: Tensor | None,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        normalizer: Tensor | float | None,
    ) -> Arguments:
        input, target, *items = operands
        for name, x in zip(self.names, operands, strict=True):
            check_tensor(self.name, name, x, "input", input)
        check_floating(self.name, "input", input, target, "scores")
        check_lists(self.name, input, target, items, mask)
        if input.shape[-1] == 0:
            raise error("no_classes", loss=self.name, got=tuple(input.shape))
        normalizer = check_extras(self, input, input.shape[:-1], None, (), sample_weight, mask, normalizer)
        mask = self.counted(Arguments(list(operands), None, sample_weight, mask, normalizer))[1]
        shares = self._shares(target, self._there(input, items, mask), dtypes.compute_dtype([input]))
        if items:
            input = torch.where(items[0], input, -torch.inf)
        told = input.dtype if input.dtype in dtypes.HALVES else None  # that of the probabilities says nothing
        return Arguments([input, shares, *items], None, sample_weight, mask, normalizer, told)

    def _there(self, input: Tensor, items: Sequence[Tensor], mask: Tensor | None) -> Tensor | None:
        """The items that count."""
        of_lists = None if mask is None else (mask.unsqueeze(-1) if mask.ndim else mask).expand(input.shape)
        return both(items[0] if items else None, of_lists)

    def _shares(self, target: Tensor, there: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The probabilities of the items by their relevance, 0 for those that do not count."""
        relevance = target.detach().to(dtype)
        relevance = self._checked(relevance if there is None else torch.where(there, relevance, 0.0))
        if self.transform == "normalize":
            total = relevance.sum(-1, keepdim=True)
            return relevance / torch.where(total == 0, 1.0, total)
        if there is None:
            return relevance.softmax(-1)
        shares = torch.where(there, relevance, -torch.inf).softmax(-1)
        return torch.where(there, shares, 0.0)  # of a list without an item they are NaN

    def _checked(self, relevance: Tensor) -> Tensor:
        """In its domain: an error, or NaN where it is not. The smallest number mostly tells, six times as fast."""
        hidden = torch.compiler.is_compiling() or observed() or not relevance.is_cpu
        if not hidden and relevance.numel() and bool(relevance.amin() >= 0):
            return relevance
        checked: Tensor = self.loss._in_domain("target", relevance)
        return checked

    def counted(self, arguments: Arguments) -> tuple[list[Tensor], Tensor | None]:
        (_, target, *items), mask = arguments.operands, arguments.mask
        kept = items[0].any(-1) if items else None
        if self.transform == "normalize":
            kept = ((target != 0) & items[0] if items else target != 0).any(-1)
        return [], both(mask, kept)

    def dims_of_rows(self, tensors: Sequence[Any], arguments: Arguments) -> list[Dims]:
        of_items: Dims = (0, None)[-arguments.operands[0].ndim :]
        return [*(of_items for _ in tensors[:-1]), ()]

    def class_dimension(self, ndim: int) -> int:
        return -1

    def counting(self, arguments: Arguments) -> list[Tensor | None]:
        input, _, *items = arguments.operands
        there = self._there(input, items, arguments.mask)
        return [there, there, *(None for _ in items)]

    def fused(self, kernel: Kernel, arguments: Arguments, result: torch.dtype | None = None) -> Tensor | None:
        return super().fused(kernel, _of_kernel(arguments), result)

    def eager(self, arguments: Arguments, checks: str, part: Any = None) -> Tensor:
        return super().eager(_of_kernel(arguments), checks)

    def spaces(self, operands: Sequence[Tensor], mask: Tensor | None) -> list[Exception]:
        return super().spaces(operands, mask) if operands[0].shape[-1] > 1 else []


def _of_kernel(arguments: Arguments) -> Arguments:
    """Without `element_mask`: items that do not count have neither score nor probability by now."""
    return arguments._replace(operands=arguments.operands[:2])


class TopOneLoss(ClassScoresLoss, abstract=True):
    """A loss of the probabilities of a list's items to be the first: by their scores, and by their relevance.

    A subclass declares `value` of `log_probability`, that of an item by the scores; a list's loss is the mean of it by
    the probabilities of the relevance. The parameter `target_transform` says how relevance becomes probabilities.

    Instances are called as those of `losskit.ListsLoss`.
    """

    target_transform: str = param(
        default="softmax", choices=("softmax", "normalize"),
        doc="How relevance becomes probabilities: by a softmax, or divided by its sum.",
    )  # fmt: skip

    operands = OPERANDS
    _plan_class = TopOnePlan
    _label = "lists"
    _usual_shape = (128, 100)

    @classmethod
    def _call_operands(cls) -> list[str]:
        return list(cls.operands)

    @classmethod
    def _curve(cls) -> Curve | None:
        formula = cls._formulas.all()[0]
        apart = "relevance_difference"

        def of_two(margin: Expr) -> dict[str, Any]:
            first, second = -softplus(-margin), -softplus(margin)
            share = sigmoid(margin.trace.variable(apart))
            other = sigmoid(-margin.trace.variable(apart))
            return {"result": share * cls.value(log_probability=first) + other * cls.value(log_probability=second)}

        given = [Given(apart, "by how much the item is more relevant than the other", 1.0, 0.0, 4.0)]
        label = "score of the more relevant item less that of the other, of two items"
        return curves.of_trace(
            cls, "score_margin", "logit", (-6.0, 6.0), given, [(formula.switches, [], of_two)], label
        )

    @classmethod
    def _units(cls) -> Rows | None:
        return None

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        return example_of(shape, draw)

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        write.letters = {"log_probability": Written(r"\log p_i", "log pᵢ")}
        of_items = Written(r"\sum_i P_i \, ", "Σᵢ Pᵢ·")
        score = Written("s_i", "sᵢ")
        equations = [
            write.equation("loss", LOSS, write.value, of_items),
            Equation(
                "gradient by the score",
                rf"{gradient_by(score).latex} = p_i - P_i",
                f"{gradient_by(score).plain} = pᵢ − Pᵢ",
            ),
            Equation("where", r"p_i = \frac{e^{s_i}}{\sum_j e^{s_j}}", "pᵢ = exp(sᵢ) / Σⱼ exp(sⱼ)"),
            Equation("where", r"P_i = \frac{e^{y_i}}{\sum_j e^{y_j}}", "Pᵢ = exp(yᵢ) / Σⱼ exp(yⱼ)"),
            Equation("with target_transform='normalize'", r"P_i = \frac{y_i}{\sum_j y_j}", "Pᵢ = yᵢ / Σⱼ yⱼ"),
        ]
        return Mathematics(equations, symbols_of())
