"""Losses of class scores that are called with features and the weights of a last layer in the place of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from losskit.declaration import Param
from losskit.domains import nonnegative, positive
from losskit.dtypes import INTEGERS
from losskit.errors import LossError, error
from losskit.families.class_scores import ClassScoresLoss
from losskit.families.two_rows import TwoRowsLoss
from losskit.kernels import sharded
from losskit.kernels.dispatch import Choice
from losskit.layers import compiled_heads, heads, sharded_heads, shared_heads, teachers
from losskit.layers.head_calls import Call, Head, Term, flattened
from losskit.loss import heads as heads_by_name
from losskit.losses.cross_entropy import CrossEntropyLoss
from losskit.losses.z import ZLoss
from losskit.parameters import validate
from losskit.plans import plan_of
from losskit.reduction import Reduction
from losskit.sums import Summand

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

CAP = Param(default=None, domain=positive, doc="", name="soft_cap", kind="float", none=True)
_CAP_OF_TEACHER = Param(default=None, domain=positive, doc="", name="teacher_soft_cap", kind="float", none=True)
PRICE = Param(default=0.0, domain=nonnegative, doc="", name="z_loss", kind="float")


class LinearLoss(Summand):
    """A loss of class scores, or of two rows of them, that is called with features and weights: `losskit.linear`."""

    def __init__(
        self, criterion: ClassScoresLoss | TwoRowsLoss, *, soft_cap: float | None = None, z_loss: float = 0.0,
        group: ProcessGroup | None = None, sequence_parallel: bool = False, teacher_soft_cap: float | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_criterion(criterion)
        self.criterion = criterion
        self.soft_cap: float | None = validate("linear", CAP, soft_cap)
        self.z_loss: float = validate("linear", PRICE, z_loss)
        self.teacher_soft_cap: float | None = validate("linear", _CAP_OF_TEACHER, teacher_soft_cap)
        self.group, self.sequence_parallel = _checked_group("linear", group, sequence_parallel), sequence_parallel
        if isinstance(criterion, TwoRowsLoss) and group is not None:
            hint = "weights of all classes on each rank, without a group"
            raise error("shared_rows", loss="linear", what="the classes", got="a group", hint=hint)
        if teacher_soft_cap is not None and not isinstance(criterion, TwoRowsLoss):
            raise error("no_teacher", loss=f"linear({type(criterion).__name__})", argument="teacher_soft_cap")

    def config(self) -> dict[str, Any]:
        """The loss as a dict that `losskit.create` turns back into it; ranks have none."""
        more = {"soft_cap": self.soft_cap, "z_loss": self.z_loss}
        if self.teacher_soft_cap is not None:
            more["teacher_soft_cap"] = self.teacher_soft_cap
        return {"name": "linear", "criterion": self.criterion.config(), **more}

    def _call_operands(self) -> list[str]:
        cls: Any = type(self.criterion)
        return ["input", "linear_weight", *cls._call_operands()[1:]]

    def _docs(self) -> dict[str, str]:
        """Of the operands that are others than those of the criterion."""
        return teachers.DOCS if isinstance(self.criterion, TwoRowsLoss) else {}

    def extra_repr(self) -> str:
        shared = None if self.group is None else f"of {self.group.size()} ranks"
        more = {
            "soft_cap": self.soft_cap, "z_loss": self.z_loss or None, "group": shared,
            "teacher_soft_cap": self.teacher_soft_cap,
        }  # fmt: skip
        return ", ".join(f"{name}={x}" for name, x in more.items() if x is not None)

    def forward(
        self,
        input: Tensor,
        linear_weight: Tensor,
        *operands: Tensor,
        linear_bias: Tensor | None = None,
        teacher_weight: Tensor | None = None,
        teacher_bias: Tensor | None = None,
        teacher_indices: Tensor | None = None,
        sample_weight: Tensor | None = None,
        mask: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        extras = sample_weight, mask, normalizer
        head = Head(input, linear_weight, linear_bias)
        try:
            return self._loss(head, operands, (teacher_weight, teacher_bias, teacher_indices), extras)
        except LossError as problem:
            raise problem.with_traceback(None) from None

    def _loss(
        self, head: Head, operands: tuple[Tensor, ...], of_teacher: tuple[Tensor | None, ...],
        extras: tuple[Any, ...],
    ) -> Tensor:  # fmt: skip
        taken, taught = self._taken(operands, *of_teacher)
        if taught is None:
            ranks = self.group, self.sequence_parallel
            return _loss(self._term(), self.soft_cap, self.z_loss, *head, taken, extras, *ranks)
        call, head, rows = self._taught(head, taught, extras)
        return _run(call, head, rows)

    def _term(self) -> Term:
        own, targets = getattr(self.criterion, "weight", None), True
        if isinstance(self.criterion, ClassScoresLoss):
            targets = type(self.criterion).targets
        return Term(self.criterion._planned(), self.criterion._slot_params(), own, targets)

    def _taken(
        self, operands: tuple[Tensor, ...], weight: Tensor | None, bias: Tensor | None, indices: Tensor | None
    ) -> tuple[tuple[Tensor, ...], teachers.Taught | None]:
        """The operands after the weights, or of a loss of two rows what says who the teacher is."""
        told, names = f"linear({type(self.criterion).__name__})", self._call_operands()
        two = isinstance(self.criterion, TwoRowsLoss)
        if two and len(operands) == len(names) - 1 and weight is None:
            operands, last = operands[:-1], operands[-1]
            if indices is None and isinstance(last, Tensor) and last.dtype in INTEGERS:
                indices = last
            else:
                weight = last
        if 2 + len(operands) != len(names):
            taken = ", ".join([*names, *(["teacher_weight"] if two else [])])
            raise error("by_keyword", loss=told, got=2 + len(operands), expected=taken)
        if two:
            return (), teachers.Taught(operands[0], weight, bias, indices, self.teacher_soft_cap)
        for name, x in (("teacher_weight", weight), ("teacher_bias", bias), ("teacher_indices", indices)):
            if x is not None:
                raise error("no_teacher", loss=told, argument=name)
        return operands, None

    def _taught(
        self, head: Head, taught: teachers.Taught, extras: tuple[Any, ...]
    ) -> tuple[Call, Head, tuple[int, ...]]:
        """A call of a loss of two rows."""
        term = self._term()
        name, terms = term.plan.name, _terms(term, self.z_loss)
        if sharded.involved(*head, *taught[:4], *extras):
            raise error("shared_rows", loss=name, what="rows and classes", got="a DTensor",
                        hint="the tensors of each rank, x.to_local(), or x.full_tensor()")  # fmt: skip
        return teachers.flattened(name, terms, self.soft_cap, head, taught, extras)

    def _why(self, input: Tensor, linear_weight: Tensor, *operands: Tensor, **extras: Any) -> Choice:
        """What `losskit.why` says."""
        given = extras.get("sample_weight"), extras.get("mask"), extras.get("normalizer")
        head = Head(input, linear_weight, extras.get("linear_bias"))
        of_teacher = (extras.get(name) for name in ("teacher_weight", "teacher_bias", "teacher_indices"))
        taken, taught = self._taken(operands, *of_teacher)
        if taught is not None:
            call, head, _ = self._taught(head, taught, given)
        else:
            term = self._term()
            call, head, _ = flattened(term.plan.name, [term], self.soft_cap, *head, taken, *given)
        reason = heads.why_whole(call, head)
        if reason is not None:
            return Choice("all scores at once", reason)
        return Choice(*heads.why_chunks(call, head))


def _terms(term: Term, price: float) -> list[Term]:
    """A loss of the scores, and what these cost."""
    return [term, *([Term(plan_of(ZLoss, term.plan.reduction, price), [], None, targets=False)] if price else [])]


def _run(call: Call, head: Head, rows: tuple[int, ...]) -> Tensor:
    """The loss of a call, in the shape of the unreduced loss where it is that."""
    loss = (compiled_heads if torch.compiler.is_compiling() else heads).run(call, head)
    return loss.reshape(rows) if call.reduction == "none" else loss


def _loss(
    term: Term, cap: float | None, price: float, input: Tensor, weight: Tensor, bias: Tensor | None,
    operands: tuple[Tensor, ...], extras: tuple[Any, ...], group: ProcessGroup | None, sequence_parallel: bool,
) -> Tensor:  # fmt: skip
    """The loss of a term, and what its scores cost."""
    name, terms = term.plan.name, _terms(term, price)
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
    return _run(*flattened(name, terms, cap, input, weight, bias, operands, *extras))


def _check_criterion(criterion: Any) -> None:
    """Refuse what is no loss of class scores."""
    of_scores = isinstance(criterion, ClassScoresLoss) and not criterion.log_probabilities
    if of_scores or isinstance(criterion, TwoRowsLoss):
        return
    hint, known = "", getattr(criterion, "__name__", type(criterion).__name__)
    if isinstance(criterion, ClassScoresLoss):
        hint = " A linear layer gives no log-probabilities: use CrossEntropyLoss()."
    elif isinstance(criterion, type) and issubclass(criterion, ClassScoresLoss | TwoRowsLoss):
        hint, known = f" Use {known}().", f"the class {known}"
    raise error("parameter_type", loss="linear", argument="criterion", got=known, hint=hint,
                expected="a loss of class scores, or of two rows of them")  # fmt: skip


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
    criterion: ClassScoresLoss | TwoRowsLoss, *, soft_cap: float | None = None, z_loss: float = 0.0,
    group: ProcessGroup | None = None, sequence_parallel: bool = False, teacher_soft_cap: float | None = None,
) -> LinearLoss:  # fmt: skip
    """A loss of class scores as a loss of features and the weights of the last layer, which never stores the scores.

    Choose it where the scores are larger than everything else: language models, and other layers with ten thousand
    classes and more. Value and gradients are those of the loss on the scores; the memory is that of some rows.
    Prefer the loss itself up to some thousand classes, or where the scores are wanted for something else, too.

    A loss of a student's and a teacher's scores, such as KnowledgeDistillationLoss, will do as well. The features and
    weights are the student's. The teacher's scores are there already, come from features and weights of its own, or
    are those of its k best classes.

    Args:
        criterion: Any loss of class scores or of two rows of them, your own included. Its parameters must not want
            gradients: where they do, or under torch.func and for derivatives of derivatives, all scores are made at
            once.
        soft_cap: The scores are bent so that none is beyond it, see `losskit.soft_cap`. Positive; None: not at all.
        z_loss: The coefficient of the squared log-sum-exp that is added to the loss of each row, see ZLoss; class
            weights do not multiply it. Not negative.
        group: Ranks that share the classes, in their order: each calls with the weights (and bias) of its classes and
            with the same features, indices of all classes, and class weights of all; of probabilities each has those
            of its classes. All ranks get the whole loss, and the whole gradient by the features. DTensors need no
            group: their placements say who has what. Not for losses of two rows, which take no DTensors either.
        sequence_parallel: Each rank of the group has some of the rows (of the first dimension) and their targets; what
            it gets is the loss of all rows, or with 'none' of its own, and the gradient by its features.
        teacher_soft_cap: What `soft_cap` is, for scores that come from the teacher's features.

    Returns:
        A module. It is called with features (..., D), weights (C, D) as `nn.Linear(D, C)` has them, and what the
            criterion takes after the scores: class indices (...), or probabilities (..., C). A loss of two rows takes
            the teacher's scores (..., C); or the teacher's features (..., E) and its `teacher_weight` (C, E), with
            `teacher_bias` (C,) by keyword; or the scores (..., K) of the teacher's best classes and these classes,
            `teacher_indices` (..., K), see `top_k_scores`. Nothing of a teacher has a gradient. By keyword a call takes
            `linear_bias` (C,), `sample_weight`, `mask` and `normalizer`.

    Raises:
        TypeError: The criterion is none of these losses, or dtypes do not match.
        ValueError: A shape does not fit, or a label is no class.

    Example:
        >>> import torch, losskit
        >>> features, weight = torch.eye(2, 3), torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
        >>> losskit.linear(losskit.CrossEntropyLoss())(features, weight, torch.tensor([0, 1]))
        tensor(0.2201)
        >>> teacher_features, teacher_weight = torch.eye(2), torch.eye(2)
        >>> criterion = losskit.linear(losskit.KnowledgeDistillationLoss(temperature=2.0))
        >>> criterion(features, weight, teacher_features, teacher_weight)
        tensor(0.0559)
    """
    return LinearLoss(
        criterion, soft_cap=soft_cap, z_loss=z_loss, group=group, sequence_parallel=sequence_parallel,
        teacher_soft_cap=teacher_soft_cap,
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
        cap, price = validate("linear_cross_entropy", CAP, soft_cap), validate("linear_cross_entropy", PRICE, z_loss)
        plan = plan_of(CrossEntropyLoss, reduction, -100 if ignore_index is None else ignore_index, label_smoothing)
        extras = sample_weight, mask, normalizer
        ranks = _checked_group("linear_cross_entropy", group, sequence_parallel), sequence_parallel
        return _loss(Term(plan, [], weight), cap, price, input, linear_weight, linear_bias, (target,), extras, *ranks)
    except LossError as problem:
        raise problem.with_traceback(None) from None


heads_by_name["linear"] = (LinearLoss, "LinearLoss")
