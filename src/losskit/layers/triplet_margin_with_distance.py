"""TripletMarginWithDistanceLoss: triplets under a distance of the user's own.

The distance is a function of tensors, which no formula can hold: what is declared here is the formula of two distances,
TripletMarginLoss's, as an element-wise loss. So the class is written out by hand, and the hinge, its reduction, weights
and mask still run in the fused kernel. Without a distance it is TripletMarginLoss.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, minimum, nn
from torch.overrides import handle_torch_function, has_torch_function

from losskit.declaration import Case, Operand, param
from losskit.display import Mathematics, Writer, written_of
from losskit.domains import positive as above_zero
from losskit.draw import Draw
from losskit.errors import error
from losskit.facts import Facts
from losskit.families.embeddings import curve_of, example_of, of_embeddings
from losskit.families.pointwise import PointwiseLoss
from losskit.forms import refuse_more, strict
from losskit.kernels.dispatch import run
from losskit.loss import Loss
from losskit.losses.triplet_margin import TripletMarginLoss
from losskit.plan import Plan
from losskit.plans import Plans, plan_of
from losskit.reduction import Reduction
from losskit_guide.card import Curve, Equation, Variant

Distance = Callable[[Tensor, Tensor], Tensor]


class _OfDistances(PointwiseLoss, abstract=True):
    """The formula of TripletMarginLoss over tensors of distances."""

    name = "triplet_margin_with_distance_loss"
    margin: float = param(default=1.0, domain=above_zero, doc="")
    value = staticmethod(TripletMarginLoss.value)
    _formulas = TripletMarginLoss._formulas
    _plans = Plans()


class TripletMarginWithDistanceLoss(Loss, nn.TripletMarginWithDistanceLoss):
    """Triplets under any distance: the anchor should be nearer to the positive than to the negative by `margin`.

    Choose it for metric learning with a distance that is no p-norm.
    Prefer TripletMarginLoss for p-norms: it is fused as a whole and safe at every scale.
    """

    margin: float = param(
        default=1.0, domain=above_zero, doc="By how much nearer the positive must be to cost nothing."
    )
    swap: bool = param(
        default=False, doc="Whether the negative's distance from the positive counts where it is the smaller one."
    )
    reduction: Reduction = param(default="mean", doc="'none': the losses as the distance is shaped; 'mean'; 'sum'.")

    operands = {
        "anchor": Operand("What the distance function takes."),
        "positive": Operand("What should be near the anchor."),
        "negative": Operand("What should be far from it."),
    }
    arguments = "margin swap reduction"
    _shown = TripletMarginLoss._shown

    def __init__(
        self,
        *,
        distance_function: Distance | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: Reduction = "mean",
    ) -> None:
        self._set_up({"margin": margin, "swap": swap, "reduction": reduction})
        if distance_function is not None and not callable(distance_function):
            raise error(
                "parameter_type", loss=type(self).name, argument="distance_function", expected="a function or None",
                got=repr(distance_function),
            )  # fmt: skip
        self.distance_function: Distance | None = distance_function

    @classmethod
    def _declare(cls) -> None:
        """Both forms are written out below."""

    @classmethod
    def _mathematics(cls, write: Writer) -> Mathematics:
        """As TripletMarginLoss's, with distances of any kind."""
        near = Equation("where", r"d_+ = \operatorname{distance}(x, x_+)", "d₊ = distance(x, x₊)")
        far = Equation("where", r"d_- = \operatorname{distance}(x, x_-)", "d₋ = distance(x, x₋)")
        swapped = r"d_- = \min(\operatorname{distance}(x, x_-),\, \operatorname{distance}(x_+, x_-))"
        swap = Equation("with swap", swapped, "d₋ = min(distance(x, x₋), distance(x₊, x₋))")
        return of_embeddings(cls, write, [near, far, swap])

    @classmethod
    def _means(cls) -> list[Equation]:
        """As TripletMarginLoss's."""
        return TripletMarginLoss._means()

    @classmethod
    def _written(cls) -> tuple[list[Variant], list[dict[str, str]]]:
        """Formulas and letters."""
        return written_of(cls)

    @classmethod
    def _units(cls) -> None:
        """It is no loss of class scores, and none of all pairs of a batch."""

    @classmethod
    def _curve(cls) -> Curve:
        """The loss over the positive distance."""
        return curve_of(cls)

    @classmethod
    def _example(cls, shape: tuple[int, ...], draw: Draw) -> list[Tensor]:
        """Random triplets."""
        return example_of(cls, shape, draw)

    @classmethod
    def _unreduced(cls) -> str:
        """What reduction 'none' gives, in words."""
        return "a tensor of the shape of the distances"

    @classmethod
    def _signature(cls) -> str:
        """The functional form as it is called."""
        return f"{cls.name}{inspect.signature(cls.functional)}"

    _label, _usual_shape = "by hand", TripletMarginLoss._usual_shape
    _statistics = TripletMarginLoss._statistics

    @classmethod
    def _call_operands(cls) -> list[str]:
        """The tensors that a call takes, in order."""
        return list(cls.operands)

    def _planned(self) -> Plan:
        """What runs the loss, or with a distance of the user's own the formula of distances."""
        if self.distance_function is None:
            return plan_of(TripletMarginLoss, str(self.reduction), 2.0, 1e-6, self.swap, self.margin)
        return plan_of(_OfDistances, str(self.reduction), self.margin)

    def _with_slots(self, operands: Sequence[Any]) -> list[Any]:
        """No parameter is a tensor."""
        return list(operands)

    @strict
    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        *more: None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """The loss of one batch of triplets."""
        if more:
            refuse_more(self, more, {})
        return triplet_margin_with_distance_loss(
            anchor, positive, negative, distance_function=self.distance_function, margin=self.margin, swap=self.swap,
            reduction=self.reduction, sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"distance_function={self.distance_function!r}, {super().extra_repr()}"

    def config(self) -> dict[str, Any]:
        return {**super().config(), "distance_function": self.distance_function}

    _plan_class = TripletMarginLoss._plan_class
    value, _formulas = staticmethod(TripletMarginLoss.value), TripletMarginLoss._formulas
    functional: ClassVar[Callable[..., Tensor]]
    facts = Facts(convex=False, smooth=False, lipschitz=None, minimum=0.0, symmetric=False)
    cases = [
        Case(anchor=[[0.0, 0.0]], positive=[[3.0, 4.0]], negative=[[0.0, 2.0]], value=4.0, grad=[[-0.6, 0.2]],
             source="by hand, without the 1e-6 in the differences"),
        Case(anchor=[[0.0, 0.0]], positive=[[3.0, 4.0]], negative=[[3.0, 3.0]], swap=True, value=5.0,
             grad=[[-0.6, -0.8]], source="by hand, without the 1e-6 in the differences"),
    ]  # fmt: skip
    task = "metric learning"
    best_for = "Triplets under a distance of one's own."
    not_for = "p-norms, which TripletMarginLoss knows."
    reference = TripletMarginLoss.reference


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Distance | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: Reduction = "mean",
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Triplets under any distance; see `TripletMarginWithDistanceLoss`.

    Args:
        anchor: What the distance function takes; tensors of embeddings if there is none.
        positive: What should be near the anchor.
        negative: What should be far from it.
        distance_function: Two tensors to one of distances, all non-negative; the Euclidean distance of rows by default.
        margin: By how much nearer the positive must be to cost nothing. Positive.
        swap: Whether the negative's distance from the positive counts where it is the smaller one.
        reduction: One of 'none', 'mean', 'sum'.
        sample_weight: Weight of each distance; broadcasts to them. The mean divides by the sum of weights.
        mask: Boolean, True = counts; masked distances are exact zeros in the loss.
        normalizer: Denominator of "mean": a number or a tensor with one element.

    Returns:
        A scalar; with 'none' a tensor of the shape of the distances.

    Example:
        >>> import torch
        >>> def manhattan(x, y):
        ...     return (x - y).abs().sum(-1)
        >>> a, p, n = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])
        >>> triplet_margin_with_distance_loss(a, p, n, distance_function=manhattan)
        tensor(6.)
    """
    operands = anchor, positive, negative
    if has_torch_function(operands):
        return handle_torch_function(
            triplet_margin_with_distance_loss, operands, *operands, distance_function=distance_function, margin=margin,
            swap=swap, reduction=reduction, sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip
    if distance_function is None:
        plan = plan_of(TripletMarginLoss, reduction, 2.0, 1e-6, swap, margin)
        return run(plan, (anchor, positive, negative), None, sample_weight, mask, normalizer)
    near, far = distance_function(anchor, positive), distance_function(anchor, negative)
    if swap:
        far = minimum(far, distance_function(positive, negative))
    return run(plan_of(_OfDistances, reduction, margin), (near, far), None, sample_weight, mask, normalizer)


TripletMarginWithDistanceLoss.functional = staticmethod(triplet_margin_with_distance_loss)
if triplet_margin_with_distance_loss.__doc__:  # none under -OO
    _, _, _arguments = inspect.cleandoc(triplet_margin_with_distance_loss.__doc__).partition("\n\n")
    TripletMarginWithDistanceLoss.__doc__ = f"{TripletMarginWithDistanceLoss.about}\n\n{_arguments}"
