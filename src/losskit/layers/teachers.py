"""A call of a loss of two rows with a last layer: the student's scores come from its features and weights.

The teacher's are there already, or come from features and weights of its own, of any width. The teacher is a constant:
no gradient goes to what its scores are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from losskit.errors import error
from losskit.layers.head_calls import Call, Head, Teacher, Term, check_head
from losskit.validation import check_tensor


class Taught(NamedTuple):
    """The teacher of a call: its scores (..., C), or its features (..., D), weights (C, D), bias (C,) and cap."""

    target: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
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
    classes, rows = len(weight), tuple(input.shape[:-1])
    target = _target(loss, taught, input, rows, classes)
    term = terms[0]
    # Scores that nobody has made: whatever else does not fit is told in the words of the loss.
    scores = input.new_zeros(()).expand(*rows, classes)
    told = target if taught.weight is None else target.new_zeros(()).expand(*rows, classes)
    args = term.plan.validated([scores, told, *term.slots], None, *extras)
    sample_weight, mask = (None if x is None else x.expand(rows).reshape(-1) for x in args[2:4])
    flat, teacher = target.detach().flatten(0, -2) if rows else target.detach().unsqueeze(0), None
    if taught.weight is not None:
        teacher = Teacher(Head(flat, taught.weight, taught.bias).detach(), taught.cap)
    operands = [flat] if teacher is None else []
    call = Call(terms, cap, (classes,), operands, sample_weight, mask, args.normalizer, teacher=teacher)
    return call, Head(input.reshape(-1, input.shape[-1]), weight, bias), rows


def _target(loss: str, taught: Taught, input: Tensor, rows: tuple[int, ...], classes: int) -> Tensor:
    """The teacher's scores or features, if they fit the rows of the student and its classes."""
    target, weight, bias, cap = taught
    check_tensor(loss, "target", target, "input", input)
    if weight is None:
        for name, x in (("teacher_bias", bias), ("teacher_soft_cap", cap)):
            if x is not None:
                raise error("of_teacher", loss=loss, argument=name)
        if target.shape != (*rows, classes):
            raise error("teacher", loss=loss, expected=(*rows, classes), got=tuple(target.shape))
        return target
    check_head(loss, Head(target, weight, bias), NAMES, matrix=True, classes=classes)
    if target.shape[:-1] != rows:
        raise error("head", loss=loss, argument="target", expected=(*rows, target.shape[-1]), first="input",
                    input=tuple(input.shape), got=tuple(target.shape))  # fmt: skip
    return target
