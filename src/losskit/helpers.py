"""What is used beside losses: weights of classes, bounded scores, a teacher's best classes, the rows of other ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import handle_torch_function, has_torch_function

from losskit.declaration import Operand, Param, param
from losskit.domains import Interval, positive, shortest
from losskit.dtypes import FLOATS, INTEGERS
from losskit.errors import error
from losskit.families.base import Formulas
from losskit.families.pointwise import PointwiseLoss
from losskit.formula import absolute, exp, tanh, where
from losskit.kernels.dispatch import run
from losskit.kernels.torch_internals import observed
from losskit.parameters import validate
from losskit.plans import Plans, plan_of
from losskit.policy import state
from losskit.validation import check_floating, check_tensor, outside_classes, unlike

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_BETA = Param(
    default=0.9999, domain=Interval("in [0, 1)", low=0.0, high=1.0, high_open=True), doc="", name="beta", kind="float"
)


def class_balanced_weights(samples_per_class: Sequence[float] | Tensor, beta: float = 0.9999) -> Tensor:
    """Weights of classes by their effective numbers of samples: the rarer a class, the larger its weight.

    Choose it for the `weight` of CrossEntropyLoss, LDAMLoss and others, when the inverse of the counts is too much:
    more samples of a class say less and less that is new.

    A class of n samples has the effective number (1 - beta^n) / (1 - beta). Its weight is the inverse, and all of them
    are multiplied by a number that makes their sum the number of classes.

    Args:
        samples_per_class: How many samples each class has: a sequence, or a tensor of shape (C,). Positive.
        beta: How slowly further samples stop to count: 0 gives equal weights, nearly 1 the inverse of the counts.
            In [0, 1).

    Returns:
        A tensor of shape (C,), without a gradient, on the device of the counts. Its dtype is that of floating counts,
            else torch's default.

    Raises:
        TypeError: The counts, or beta, are no numbers.
        ValueError: There are no counts, one of them is not positive, or beta is out of range.

    Example:
        >>> import losskit
        >>> losskit.class_balanced_weights([5000, 100, 7], beta=0.999)
        tensor([0.0195, 0.2036, 2.7769])

    Source: Cui, Y. et al. (2019). Class-balanced loss based on effective number of samples. CVPR. arXiv:1901.05555.
    """
    beta = validate("class_balanced_weights", _BETA, beta)
    counts = _counts(samples_per_class)
    if counts.ndim != 1 or not len(counts):
        raise _wrong("parameter", "a number for each class", f"shape {tuple(counts.shape)}")
    bad = ~((counts > 0.0) & (counts < math.inf))
    if bool(bad.any()):
        index = int(bad.nonzero()[0])
        got = shortest(counts[index].item())
        raise error("domain", loss="class_balanced_weights", argument="samples_per_class",
                    expected="positive and finite", got=got, index=(index,), hint="")  # fmt: skip
    # Without the factor 1 - beta, which cancels, a beta near 1 costs no digits. beta = 0: all have seen enough.
    effective = -torch.expm1(counts * math.log(beta)) if beta else torch.ones_like(counts)
    weights = effective.min() / effective
    weights = weights * (len(weights) / weights.sum())
    if isinstance(samples_per_class, Tensor):
        own = samples_per_class.dtype
        return weights.to(samples_per_class.device, own if own in FLOATS else torch.get_default_dtype())
    return weights.to(torch.get_default_dtype())


def _counts(given: Any) -> Tensor:
    """The counts as a tensor of doubles, on the CPU."""
    try:
        found = given.detach() if isinstance(given, Tensor) else torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise _wrong("parameter_type", "numbers", type(given).__name__) from None
    if found.is_complex() or found.dtype == torch.bool:
        raise _wrong("parameter_type", "numbers", str(found.dtype))
    return found.to("cpu", torch.float64)


def _wrong(kind: str, expected: str, got: str) -> Exception:
    return error(kind, loss="class_balanced_weights", argument="samples_per_class", expected=expected, got=got, hint="")


class SoftCap(PointwiseLoss, abstract=True):
    """The formula of `soft_cap`, which kernels compute as that of an element-wise loss."""

    name = "soft_cap"
    cap: float = param(default=30.0, domain=positive, doc="")
    operands = {"input": Operand("")}
    _plans = Plans()

    @staticmethod
    def value(input: Any, cap: Any) -> Any:
        share = input / cap
        # Where the quotient is small it may be subnormal, and the tangent is the line.
        return where(absolute(share) < 1e-8, input, cap * tanh(share))

    @staticmethod
    def grad(input: Any, cap: Any) -> Any:
        # sech², not 1 - tanh², which has no digits left where tanh is nearly 1.
        e = exp(-2.0 * absolute(input / cap))
        return 4.0 * e / ((1.0 + e) * (1.0 + e))


SoftCap._formulas = Formulas(SoftCap)


def soft_cap(input: Tensor, cap: float | None) -> Tensor:
    """cap * tanh(input / cap): small scores as they are, large ones bent so that none is beyond the cap.

    Choose it between a model and its loss where scores grow without end, as for the output of a large language model.
    Prefer ZLoss for a pull on the scores instead of a bound.

    Args:
        input: Scores of any shape, floating point.
        cap: What no score exceeds, up or down. Positive; None gives the input itself.

    Returns:
        A tensor of the shape and dtype of input. Halves are computed in float32 and rounded once. Its gradient is
            sech²(input / cap), with its digits also where that is nearly 0.

    Raises:
        TypeError: The input is no floating tensor, or the cap is no number.
        ValueError: The cap is not positive.

    Example:
        >>> import torch, losskit
        >>> losskit.soft_cap(torch.tensor([0.1, 15.0, 300.0]), 30.0)
        tensor([ 0.1000, 13.8635, 30.0000])

    Source: Bello, I. et al. (2016). Neural combinatorial optimization with reinforcement learning. arXiv:1611.09940.
        Gemma Team (2024). Gemma 2: improving open language models at a practical size. arXiv:2408.00118.
    """
    if has_torch_function((input,)):
        return handle_torch_function(soft_cap, (input,), input, cap)
    if cap is None:
        return input
    plan = plan_of(SoftCap, "none", cap)
    if torch.compiler.is_compiling():  # the compiler makes one pass of it
        return plan.eager(plan.validated((input,), None, None, None, None), state.checks)
    return run(plan, (input,), None, None, None, None)


def top_k_scores(values: Tensor, indices: Tensor, classes: int) -> Tensor:
    """A teacher's best classes as scores of all classes, the others -inf: what losses of two rows take as target.

    Choose it where the k best scores or log-probabilities of each row are stored, as inference servers give them, and
    the student's scores are there as a whole. The losses divide by the probability of the k classes together.
    Prefer `losskit.linear(criterion)` with `teacher_indices=` where the student's scores come from features and
    weights: neither row is stored then. Not for ReverseKLDivLoss, which is infinite where the teacher leaves classes
    out.

    Args:
        values: Scores or log-probabilities of some classes, (..., K), floating point. -inf fills rows that have fewer.
        indices: The classes they belong to, integers of the same shape. Of a class that is there twice the larger value
            counts.
        classes: How many classes there are, C.

    Returns:
        A tensor (..., C) of the dtype of values, without a gradient.

    Raises:
        TypeError: The values are not floating point, or the indices no integers.
        ValueError: The shapes differ, or an index is no class. On a GPU and under torch.compile a row with such an
            index is NaN.

    Example:
        >>> import torch, losskit
        >>> teacher = losskit.top_k_scores(torch.tensor([[-0.1, -2.5]]), torch.tensor([[3, 0]]), 4)
        >>> teacher
        tensor([[-2.5000,    -inf,    -inf, -0.1000]])
        >>> losskit.KnowledgeDistillationLoss()(torch.zeros(1, 4), teacher)
        tensor(1.0998)
    """
    if has_torch_function((values, indices)):
        return handle_torch_function(top_k_scores, (values, indices), values, indices, classes)
    if not isinstance(classes, int) or isinstance(classes, bool) or classes < 1:
        raise error("parameter", loss="top_k_scores", argument="classes", expected="a positive integer",
                    got=repr(classes), hint="")  # fmt: skip
    check_top_k("top_k_scores", "values", values, "indices", indices, classes)
    return place_top_k(values.detach(), indices, values.new_empty((*values.shape[:-1], classes)).detach())


def check_top_k(loss: str, name: str, values: Any, of_indices: str, indices: Any, classes: int) -> None:
    """Refuse values and indices of classes that do not belong together, and indices that are no classes."""
    check_tensor(loss, name, values, name, values)
    check_floating(loss, name, values)
    check_tensor(loss, of_indices, indices, name, values)
    if indices.dtype not in INTEGERS:
        raise error("parameter_type", loss=loss, argument=of_indices, expected="a tensor of integers",
                    got=str(indices.dtype), hint="")  # fmt: skip
    if values.ndim == 0:
        raise error("no_class_dimension", loss=loss, argument=name)
    if indices.shape != values.shape:
        raise unlike(loss, of_indices, indices.shape, name, values.shape)
    if state.checks in ("off", "nan") or torch.compiler.is_compiling() or observed() or not indices.is_cpu:
        return
    bad = outside_classes(indices, classes, None)
    if bool(bad.any()):
        index = tuple(int(i) for i in bad.nonzero()[0])
        raise error("domain", loss=loss, argument=of_indices, expected=f"a class in [0, {classes})", index=index,
                    got=int(indices[index]), hint="")  # fmt: skip


def place_top_k(values: Tensor, indices: Tensor, into: Tensor) -> Tensor:
    """The scores of all classes, written into a tensor; a row with an index that is no class is NaN."""
    indices, classes = indices.long(), into.shape[-1]
    inside = (indices >= 0) & (indices < classes)
    values = torch.where(inside, values, torch.nan)
    # The maximum: where an index is there twice, -inf beside a value fills a row and takes nothing away.
    return into.fill_(-torch.inf).scatter_reduce_(-1, indices.clamp(0, classes - 1), values, "amax")


def gather_rows(x: Tensor, group: ProcessGroup | None = None) -> Tensor:
    """The rows of all ranks, this rank's own first: columns for losses of pairs.

    Choose it where each rank has some rows of a batch, and each row should meet the columns of all ranks: row i still
    belongs to column i. A gradient goes back to the rank that has the row, added up over the ranks; training that
    averages gradients over ranks, as DistributedDataParallel does, then has the gradient of the mean of their losses.
    Prefer no gathering where a rank's own batch has negatives enough.

    Args:
        x: Rows of shape (N, ...): embeddings, or labels. N may differ between ranks; every rank must call it.
        group: The process group of the ranks; None: all of them, or this process alone.

    Returns:
        A tensor of shape (the sum of all N, ...): this rank's rows, then those of the others in their order.

    Raises:
        TypeError: x is no tensor.
        ValueError: x is a scalar.

    Example:
        >>> import torch, losskit
        >>> query, key = torch.eye(2), torch.eye(2)
        >>> losskit.functional.info_nce_loss(query, losskit.gather_rows(key))  # one process: the key itself
        tensor(4.5399e-05)
    """
    check_tensor("gather_rows", "x", x, "x", x)
    if x.ndim == 0:
        raise error("parameter", loss="gather_rows", argument="x", expected="rows", got="a scalar", hint="")
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return x
    gathered: Tensor = _Gathered.apply(x, group)
    return gathered


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        import torch.distributed as dist

        rank, size = dist.get_rank(group), dist.get_world_size(group)
        counts = [torch.zeros((), dtype=torch.int64, device=x.device) for _ in range(size)]
        dist.all_gather(counts, torch.tensor(len(x), device=x.device), group=group)
        rows = [int(count) for count in counts]
        padded = x.new_zeros((max(rows), *x.shape[1:]))
        padded[: len(x)] = x.detach()
        parts = [torch.empty_like(padded) for _ in rows]
        dist.all_gather(parts, padded, group=group)
        ctx.group, ctx.rank, ctx.rows = group, rank, rows
        return torch.cat([parts[i][: rows[i]] for i in _own_first(rank, size)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        import torch.distributed as dist

        order = _own_first(ctx.rank, len(ctx.rows))
        pieces = dict(zip(order, upstream.split([ctx.rows[i] for i in order]), strict=True))
        whole = torch.cat([pieces[i] for i in range(len(order))])
        dist.all_reduce(whole, group=ctx.group)
        begin = sum(ctx.rows[: ctx.rank])
        return whole[begin : begin + ctx.rows[ctx.rank]], None


def _own_first(rank: int, size: int) -> list[int]:
    """The ranks in the order of gathered rows."""
    return [rank, *(i for i in range(size) if i != rank)]
