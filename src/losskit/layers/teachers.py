"""A call of a loss of two rows with a last layer: the student's scores come from its features and weights.

The teacher's are there already, or come from features and weights of its own, of any width, or are those of its best
classes. The teacher is a constant: no gradient goes to what its scores are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from losskit.errors import error
from losskit.helpers import check_top_k
from losskit.layers.head_calls import Apart, Call, Head, Teacher, Term, TopK, check_head
from losskit.validation import check_tensor


class Taught(NamedTuple):
    """The teacher of a call: its scores (..., C); or features (..., E), weights (C, E), bias (C,) and cap of a last
    layer; or the scores (..., K) of some classes, and which classes these are."""

    target: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    indices: Tensor | None = None
    cap: float | None = None


NAMES = "target", "teacher_weight", "teacher_bias"
DOCS = {
    "target": "The teacher's scores, (..., C); or its features, (..., E), beside teacher_weight.",
    "teacher_weight": "Weights (C, E) of the teacher's last layer, where target is its features.",
}


def flattened(
    loss: str, terms: list[Term], cap: float | None, head: Head, taught: Taught, extras: Sequence[Any]
) -> tuple[Call, Head, tuple[int, ...]]:
    """A call with its rows in one dimension, the last layer, and the shape of the unreduced loss."""
    input, weight, bias = head
    check_head(loss, head, matrix=True)
    classes, rows = len(weight), input.shape[:-1]
    target = _target(loss, taught, input, tuple(rows), classes)
    made, term = taught.weight is not None or taught.indices is not None, terms[0]
    apart = not made and not torch.compiler.is_compiling() and not _viewed(target)
    # Scores that nobody has made: whatever else does not fit is told in the words of the loss.
    scores = input.new_zeros(()).expand(*rows, classes)
    told = target.new_zeros(()).expand(*rows, classes) if made else target
    args = term.plan.validated([scores, told, *term.slots], None, *extras)
    sample_weight, mask = (None if x is None else x.expand(rows).reshape(-1) for x in args[2:4])
    flat = target.detach() if apart else _flat(target)
    teacher: Teacher | TopK | Apart | None = None
    if taught.weight is not None:
        teacher = Teacher(Head(flat, taught.weight, taught.bias).detach(), taught.cap)
    elif taught.indices is not None:
        teacher = TopK(flat, _flat(taught.indices), classes)
    elif apart:
        teacher = Apart(flat, 0, rows.numel())
    operands = [] if made or apart else [flat]
    call = Call(terms, cap, (classes,), operands, sample_weight, mask, args.normalizer, teacher=teacher)
    return call, Head(input.reshape(-1, input.shape[-1]), weight, bias), tuple(rows)


def _viewed(x: Tensor) -> bool:
    """Whether a view has the rows in one dimension; else a copy would be as large as all scores."""
    try:
        x.view(-1, x.shape[-1])
    except RuntimeError:
        return False
    return True


def _flat(x: Tensor) -> Tensor:
    """A constant with its rows in one dimension."""
    return x.detach().reshape(-1, x.shape[-1]) if x.numel() else x.detach().flatten(0, -2)


def _target(loss: str, taught: Taught, input: Tensor, rows: tuple[int, ...], classes: int) -> Tensor:
    """The teacher's scores or features, if they fit the rows of the student and its classes."""
    target, weight, bias, indices, cap = taught
    check_tensor(loss, "target", target, "input", input)
    for name, x in (("teacher_bias", bias), ("teacher_soft_cap", cap)):
        if x is not None and weight is None:
            raise error("of_teacher", loss=loss, argument=name)
    if indices is not None:
        if weight is not None:
            raise error("one_teacher", loss=loss)
        check_top_k(loss, "target", target, "teacher_indices", indices, classes)
    elif weight is not None:
        check_head(loss, Head(target, weight, bias), NAMES, matrix=True, classes=classes)
    elif target.shape != (*rows, classes):
        raise error("teacher", loss=loss, expected=(*rows, classes), got=tuple(target.shape))
    if target.shape[:-1] != rows:
        raise error("head", loss=loss, argument="target", expected=(*rows, target.shape[-1]), first="input",
                    input=tuple(input.shape), got=tuple(target.shape))  # fmt: skip
    return target
