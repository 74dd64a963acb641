"""Losses of class scores that are called with features and the weights of a last layer in the place of scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from losskit.declaration import Param
from losskit.domains import nonnegative, positive
from losskit.draw import Draw
from losskit.errors import LossError, error
from losskit.families.class_scores import ClassScoresLoss
from losskit.kernels import sharded
from losskit.kernels.dispatch import Choice
from losskit.layers import compiled_heads, heads, sharded_heads, shared_heads
from losskit.layers.head_calls import Term, flattened
from losskit.loss import heads as heads_by_name
from losskit.losses.cross_entropy import CrossEntropyLoss
from losskit.losses.z import ZLoss
from losskit.parameters import validate
from losskit.plans import plan_of
from losskit.reduction import Reduction
from losskit.sums import Summand

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_CAP = Param(default=None, domain=positive, doc="", name="soft_cap", kind="float", none=True)
_PRICE = Param(default=0.0, domain=nonnegative, doc="", name="z_loss", kind="float")


class LinearLoss(Summand):
    """A loss of class scores that is called with features and weights: what `losskit.linear` gives."""

    def __init__(
        self, criterion: ClassScoresLoss, *, soft_cap: float | None = None, z_loss: float = 0.0,
        group: ProcessGroup | None = None, sequence_parallel: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_criterion(criterion)
        self.criterion = criterion
        self.soft_cap: float | None = validate("linear", _CAP, soft_cap)
        self.z_loss: float = validate("linear", _PRICE, z_loss)
        self.group, self.sequence_parallel = _checked_group("linear", group, sequence_parallel), sequence_parallel

    def config(self) -> dict[str, Any]:
        """The loss as a dict that `losskit.create` turns back into it; ranks have none."""
        more = {"soft_cap": self.soft_cap, "z_loss": self.z_loss}
        return {"name": "linear", "criterion": self.criterion.config(), **more}

    def _call_operands(self) -> list[str]:
        cls: Any = type(self.criterion)
        return ["input", "linear_weight", *cls._call_operands()[1:]]

    def extra_repr(self) -> str:
        shared = None if self.group is None else f"of {self.group.size()} ranks"
        more = {"soft_cap": self.soft_cap, "z_loss": self.z_loss or None, "group": shared}
        return ", ".join(f"{name}={x}" for name, x in more.items() if x is not None)

    def forward(
        self,
        input: Tensor,
        linear_weight: Tensor,
        *operands: Tensor,
        linear_bias: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        extras = sample_weight, mask, normalizer
        try:
            return self._loss(input, linear_weight, operands, linear_bias, extras)
        except LossError as problem:
            raise problem.with_traceback(None) from None

    def _loss(
        self, input: Tensor, weight: Tensor, operands: tuple[Tensor, ...], bias: Tensor | None, extras: tuple[Any, ...]
    ) -> Tensor:
        cls: Any = type(self.criterion)
        names = self._call_operands()
        if 2 + len(operands) != len(names):
            raise error("by_keyword", loss=f"linear({cls.__name__})", got=2 + len(operands), expected=", ".join(names))
        own = getattr(self.criterion, "weight", None)
        term = Term(self.criterion._planned(), self.criterion._slot_params(), own, cls.targets)
        ranks = self.group, self.sequence_parallel
        return _loss(term, self.soft_cap, self.z_loss, input, weight, bias, operands, extras, *ranks)

    def _why(self, input: Tensor, linear_weight: Tensor, *operands: Tensor, **extras: Any) -> Choice:
        """What `losskit.why` says."""
        cls: Any = type(self.criterion)
        given = extras.get("sample_weight"), extras.get("mask"), extras.get("normalizer")
        own = getattr(self.criterion, "weight", None)
        term = Term(self.criterion._planned(), self.criterion._slot_params(), own, cls.targets)
        taken = term.plan.name, [term], self.soft_cap, input, linear_weight, None, operands, *given
        call, head, _ = flattened(*taken)
        reason = heads.why_whole(call, head)
        if reason is not None:
            return Choice("all scores at once", reason)
        return Choice(*heads.why_chunks(call, head))


def _loss(
    term: Term, cap: float | None, price: float, input: Tensor, weight: Tensor, bias: Tensor | None,
    operands: tuple[Tensor, ...], extras: tuple[Any, ...], group: ProcessGroup | None, sequence_parallel: bool,
) -> Tensor:  # fmt: skip
    """The loss of a term, and what its scores cost."""
    name, reduction = term.plan.name, term.plan.reduction
    terms = [term, *([Term(plan_of(ZLoss, reduction, price), [], None, targets=False)] if price else [])]
    spread = sharded.involved(input, weight, bias, *operands, *extras)
    if group is not None and spread:
        raise error(
            "not_plain", loss=name, argument="an argument", hint="no group: placements say who has which classes"
        )
    if spread and sharded_heads.takes(input, weight, [*operands, *extras, term.weight, *term.slots]):
        return sharded_heads.run(name, terms, cap, input, weight, bias, operands, extras)
    if group is not None:
        taken = name, terms, cap, input, weight, bias, operands, extras
        return shared_heads.over_group(*taken, group, sequence_parallel)
    call, head, rows = flattened(name, terms, cap, input, weight, bias, operands, *extras)
    loss = (compiled_heads if torch.compiler.is_compiling() else heads).run(call, head)
    return loss.reshape(rows) if reduction == "none" else loss


def _check_criterion(criterion: Any) -> None:
    """Refuse what is no loss of class scores."""
    if not isinstance(criterion, ClassScoresLoss) or criterion.log_probabilities:
        hint, known = "", getattr(criterion, "__name__", type(criterion).__name__)
        if isinstance(criterion, ClassScoresLoss):
            hint = " A linear layer gives no log-probabilities: use CrossEntropyLoss()."
        elif isinstance(criterion, type) and issubclass(criterion, ClassScoresLoss):
            hint, known = f" Use {known}().", f"the class {known}"
        raise error("parameter_type", loss="linear", argument="criterion", expected="a loss of class scores", got=known,
                    hint=hint)  # fmt: skip


def _checked_group(loss: str, group: Any, sequence_parallel: bool) -> ProcessGroup | None:
    """The ranks that share the classes."""
    if group is None:
        if sequence_parallel:
            expected = "False without a group"
            raise error("parameter", loss=loss, argument="sequence_parallel", expected=expected, got=True, hint="")
        return None
    from torch.distributed import ProcessGroup, get_rank

    if not isinstance(group, ProcessGroup) or get_rank(group) < 0:
        raise error("parameter_type", loss=loss, argument="group", got=type(group).__name__, hint="",
                    expected="a torch.distributed.ProcessGroup that this rank belongs to")  # fmt: skip
    return group


def linear(
    criterion: ClassScoresLoss, *, soft_cap: float | None = None, z_loss: float = 0.0,
    group: ProcessGroup | None = None, sequence_parallel: bool = False,
) -> LinearLoss:  # fmt: skip
    """A loss of class scores as a loss of features and the weights of the last layer, which never stores the scores.

    Choose it where the scores are larger than everything else: language models, and other layers with ten thousand
    classes and more. Value and gradients are those of the loss on the scores; the memory is that of some rows.
    Prefer the loss itself up to some thousand classes, or where the scores are wanted for something else, too.

    Args:
        criterion: Any loss of class scores, your own included. Its parameters must not want gradients: where they do,
            or under torch.func and for derivatives of derivatives, all scores are made at once.
        soft_cap: The scores are bent so that none is beyond it, see `losskit.soft_cap`. Positive; None: not at all.
        z_loss: The coefficient of the squared log-sum-exp that is added to the loss of each row, see ZLoss; class
            weights do not multiply it. Not negative.
        group: Ranks that share the classes, in their order: each calls with the weights (and bias) of its classes and
            with the same features, indices of all classes, and class weights of all; of probabilities each has those
            of its classes. All ranks get the whole loss, and the whole gradient by the features. DTensors need no
            group: their placements say who has what.
        sequence_parallel: Each rank of the group has some of the rows (of the first dimension) and their targets; what
            it gets is the loss of all rows, or with 'none' of its own, and the gradient by its features.

    Returns:
        A module. It is called with features (..., D), weights (C, D) as `nn.Linear(D, C)` has them, and what the
            criterion takes after the scores: class indices (...), or probabilities (..., C). By keyword it takes
            `linear_bias` (C,), `sample_weight`, `mask` and `normalizer`.

    Raises:
        TypeError: The criterion is no loss of class scores, or dtypes do not match.
        ValueError: A shape does not fit, or a label is no class.

    Example:
        >>> import torch, losskit
        >>> features, weight = torch.eye(2, 3), torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> losskit.linear(losskit.CrossEntropyLoss())(features, weight, torch.tensor([0, 1]))
        tensor(0.2201)
    """
    return LinearLoss(
        criterion, soft_cap=soft_cap, z_loss=z_loss, group=group, sequence_parallel=sequence_parallel
    )  # fmt: skip


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    soft_cap: float | None = None,
    z_loss: float = 0.0,
    sample_weight: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: Tensor | float | None = None,
    group: ProcessGroup | None = None,
    sequence_parallel: bool = False,
) -> Tensor:
    """Cross entropy of features times weights, without ever storing the scores: torch's name for `losskit.linear`.

    Choose it for language models and other last layers with ten thousand classes and more.
    Prefer `cross_entropy` of the scores up to some thousand classes; `losskit.linear` for any other loss.

    Args:
        input: Features of shape (..., D).
        linear_weight: Weights of shape (C, D), or (C, d1, ..., D) beside features (N, D).
        target: Class indices of shape (...), or (N, d1, ...); or probabilities of shape (..., C), or (N, C, d1, ...).
        linear_bias: Of the shape of linear_weight without the last dimension.
        weight: Weight of each class, a tensor of shape (C,).
        reduction: One of 'none', 'mean', 'sum'.
        ignore_index: Rows with this target do not count. None: -100.
        label_smoothing: Share of the target that is spread evenly over all classes. In [0, 1].
        options: `torch.nn.LinearCrossEntropyOptions`, accepted; rows always come in chunks.
        soft_cap: The scores are bent so that none is beyond it, see `losskit.soft_cap`. Positive.
        z_loss: The coefficient of the squared log-sum-exp that is added to the loss of each row. Not negative.
        sample_weight: Weight of each unreduced loss; broadcasts to it. The mean divides by the sum of weights.
        mask: Boolean, True = counts.
        normalizer: Denominator of "mean": a number or a tensor with one element.
        group: Ranks that share the classes, see `losskit.linear`.
        sequence_parallel: Each rank of the group has some of the rows, see `losskit.linear`.

    Returns:
        A scalar; with 'none' a tensor of the shape of class indices.

    Raises:
        TypeError: An argument is not a tensor, or of a dtype that makes no sense.
        ValueError: Shapes do not match, or a label is no class.

    Example:
        >>> import torch
        >>> from losskit.functional import linear_cross_entropy
        >>> features, weight = torch.eye(2, 3), torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> linear_cross_entropy(features, weight, torch.tensor([0, 1]))
        tensor(0.2201)
    """
    tensors = (input, linear_weight, target)
    if has_torch_function(tensors):
        return handle_torch_function(
            linear_cross_entropy, tensors, *tensors, linear_bias=linear_bias, weight=weight, reduction=reduction,
            ignore_index=ignore_index, label_smoothing=label_smoothing, options=options, soft_cap=soft_cap,
            z_loss=z_loss, sample_weight=sample_weight, mask=mask, normalizer=normalizer, group=group,
            sequence_parallel=sequence_parallel,
        )  # fmt: skip
    try:
        cap, price = validate("linear_cross_entropy", _CAP, soft_cap), validate("linear_cross_entropy", _PRICE, z_loss)
        plan = plan_of(CrossEntropyLoss, reduction, -100 if ignore_index is None else ignore_index, label_smoothing)
        extras = sample_weight, mask, normalizer
        ranks = _checked_group("linear_cross_entropy", group, sequence_parallel), sequence_parallel
        return _loss(Term(plan, [], weight), cap, price, input, linear_weight, linear_bias, (target,), extras, *ranks)
    except LossError as problem:
        raise problem.with_traceback(None) from None


class LinearCrossEntropyLoss(Summand, getattr(nn, "LinearCrossEntropyLoss", nn.Module)):  # of torch 2.13
    """A last layer and its cross entropy in one, without ever storing the scores.

    Choose it for language models and other last layers with ten thousand classes and more.
    Prefer `losskit.linear(criterion)` where the weights are another module's, or for any other loss.

    The names of parameters, their shapes and the order in which they are drawn are torch's.

    Args:
        in_features: Width of the input, D.
        num_classes: Number of classes, C.
        out_features: d1, d2, ... of a loss with further dimensions.
        bias: Whether the layer has a bias.
        device: Of the parameters.
        dtype: Of the parameters.
        reduction: One of 'none', 'mean', 'sum'.
        weight: Weight of each class, a tensor of shape (C,).
        ignore_index: Rows with this target do not count. None: -100.
        label_smoothing: Share of the target that is spread evenly over all classes. In [0, 1].
        options: `torch.nn.LinearCrossEntropyOptions`, which is accepted and changes nothing.
        soft_cap: The scores are bent so that none is beyond it, see `losskit.soft_cap`. Positive.
        z_loss: The coefficient of the squared log-sum-exp that is added to the loss of each row. Not negative.

    Called with `input` (..., D) and `target` (...), or (..., C) for probabilities; by keyword with `sample_weight`,
    `mask` and `normalizer`.

    Raises:
        ValueError: Shapes do not match, or a label is no class.
    """

    name = "linear_cross_entropy"
    weight: Tensor | None
    _usual_shape = (2048, 512)

    @staticmethod
    def _example(shape: tuple[int, ...], draw: Draw, classes: int = 32000) -> list[Tensor]:
        """Features of a shape, weights and targets, as the function takes them."""
        *rows, width = shape
        return [draw.normal(*shape), draw.normal(classes, width) / width**0.5, draw.integers(0, classes, *rows)]

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        reduction: Reduction = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        soft_cap: float | None = None,
        z_loss: float = 0.0,
    ) -> None:
        nn.Module.__init__(self)  # torch's class is the base so that isinstance knows this one
        CrossEntropyLoss(reduction=reduction, label_smoothing=label_smoothing)  # refuses what is none
        if weight is not None and tuple(weight.shape) != (num_classes,):
            raise error("per_class", loss="linear_cross_entropy", argument="weight", classes=num_classes,
                        got=tuple(weight.shape))  # fmt: skip
        self.register_buffer("weight", weight)
        self.num_classes, self.out_features = num_classes, tuple(out_features)
        self.reduction, self.ignore_index, self.label_smoothing = reduction, ignore_index, label_smoothing
        self.options, self.soft_cap = options, validate("linear_cross_entropy", _CAP, soft_cap)
        self.z_loss = validate("linear_cross_entropy", _PRICE, z_loss)
        outputs = math.prod(self.out_features, start=num_classes)
        self.linear = nn.Linear(in_features, outputs, bias=bias, device=device, dtype=dtype)

    def extra_repr(self) -> str:
        names = "num_classes out_features reduction ignore_index label_smoothing soft_cap z_loss".split()
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        shape = self.num_classes, *self.out_features
        bias = self.linear.bias
        return linear_cross_entropy(
            input, self.linear.weight.unflatten(0, shape), target,
            linear_bias=None if bias is None else bias.unflatten(0, shape), weight=self.weight,
            reduction=self.reduction, ignore_index=self.ignore_index, label_smoothing=self.label_smoothing,
            soft_cap=self.soft_cap, z_loss=self.z_loss, sample_weight=sample_weight, mask=mask, normalizer=normalizer,
        )  # fmt: skip


heads_by_name["linear"] = (LinearLoss, "LinearLoss")
heads_by_name["linear_cross_entropy"] = (
    LinearCrossEntropyLoss, "LinearCrossEntropyLoss", "fused linear cross entropy", "cut cross entropy", "flce"
)  # fmt: skip
