"""Which operands a loss is audited with, where none are given: the declaration's, or usual shapes that it takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losskit.audit.subject import NoTensorError, Subject, copied, declaration_of, seed, subject_of
from losskit.draw import Draw
from losskit.errors import error
from losskit.loss import Loss

# Sizes of the dimensions, the rows first. All differ, so that a loss which takes one for another is seen; the second
# and third are for losses that need room: windows of images.
SIZES = ((4, 3, 5, 6), (4, 3, 16, 16), (1, 1, 176, 177))


def subject(loss: Any, example: Sequence[Any], keywords: dict[str, Any]) -> Subject:
    """The loss, made where it is a class, with the operands of its audit."""
    declared = declaration_of(loss)
    if isinstance(loss, type):
        loss, declared = _made(loss)
    if not callable(loss):
        raise error(
            "parameter_type", loss="audit", argument="loss", expected="a loss, a module or a function", got=repr(loss)
        )
    if example or keywords:
        problem = _refusal(loss, example, keywords)
        if isinstance(problem, NoTensorError):
            raise problem
        if problem is not None and not (_leaves(problem) and _refusal(loss, example, keywords, leaf=False) is None):
            raise error(
                "parameter",
                loss="audit",
                argument="example",
                expected="operands that the loss takes",
                got=f"{type(problem).__name__}: {_line(problem)}",
            )
        return subject_of(loss, example, keywords, declared=declared)
    if declared is not None:
        for operands in _declared(declared, loss):
            if _refusal(loss, operands, {}) is None:
                return subject_of(loss, operands, {}, declared=declared)
    problems = []
    for told, operands in usual(loss):
        problem = _refusal(loss, operands, {}, guessed=True)
        if problem is None or (_leaves(problem) and _refusal(loss, operands, {}, leaf=False) is None):
            return subject_of(loss, operands, {}, declared=declared, taken=told)
        problems.append(f"{told}: {_line(problem)}")
    tried = "; ".join(problems[:2]) or "it takes other numbers of operands than 1 to 4"
    raise error(
        "parameter",
        loss="audit",
        argument="example",
        got=f"none, and no usual operands fit ({tried})",
        expected="operands of the loss",
        hint=" Give them: audit(loss, input, target).",
    )


def _made(cls: type) -> tuple[Any, type[Loss] | None]:
    """An instance of a class, and its declaration."""
    try:
        made = cls(**cls._needed(SIZES[0][1])) if issubclass(cls, Loss) else cls()
    except Exception as problem:  # whatever a constructor raises
        raise error(
            "parameter",
            loss="audit",
            argument="loss",
            expected="an instance, or a class without arguments",
            got=f"{cls.__name__}, whose constructor says: {_line(problem)}",
        ) from None
    return made, declaration_of(made)


def _declared(cls: Any, loss: Any) -> Iterator[list[Tensor]]:
    """What the declaration's family draws, at several sizes."""
    usual_shape = cls._usual_shape
    for sizes in SIZES:
        shape = [min(size, own) for size, own in zip(usual_shape, (*sizes, *sizes), strict=False)]
        operands = cls._example(tuple(shape), Draw(torch.float64))
        if any(x.ndim == 0 for x in operands) and len(shape) == 1:  # of one row: there are more
            operands = cls._example((sizes[0], *shape), Draw(torch.float64))
        yield operands
    yield cls._example((5, 4, 6, 3)[: len(usual_shape)], Draw(torch.float64))


def usual(loss: Any) -> Iterator[tuple[str, list[Tensor]]]:
    """Operands as most losses take them, in words and as tensors: what the names of arguments say, first."""
    count = _count(loss)
    if count is None:
        return
    rows, classes = SIZES[0][:2]
    draw = Draw(torch.float32)
    score, matrix, other = draw.normal(rows), draw.normal(rows, classes), draw.normal(rows, classes)
    index = torch.tensor([0, 2, 1, 2][:rows])
    labels = (draw.normal(rows) > 0).float()
    labels[:2] = torch.tensor([0.0, 1.0])
    if count == 1:
        yield "scores (N, C)", [matrix]
        yield "numbers (N,)", [score]
    if count == 2:
        words = _words(loss)
        binary = ("binary logits (N,) and labels 0 or 1", [score, labels])
        classy = ("class scores (N, C) and class indices (N,)", [matrix, index])
        real = ("numbers (N,) and numbers (N,)", [score, draw.normal(rows)])
        vectors = ("vectors (N, D) and vectors (N, D)", [matrix, other])
        unit = torch.sigmoid(score)
        probable = ("probabilities (N,) and labels 0 or 1", [unit, labels])
        spread = ("probabilities (N, C) and class indices (N,)", [matrix.softmax(1), index])
        masks = (
            "logits (N, 1, H, W) and masks of 0 and 1",
            [draw.normal(rows, 1, 5, 6), (draw.normal(rows, 1, 5, 6) > 0).float()],
        )
        order = [classy, real, vectors, binary, probable, spread, masks]
        if any(word in words for word in ("bce", "binary", "focal", "logit", "sigmoid", "softplus", "hinge")):
            order = [binary, classy, real, probable, spread, vectors, masks]
        if any(word in words for word in ("dice", "tversky", "jaccard", "iou")):
            order = [masks, binary, classy, real]
        yield from order
    if count == 3:
        yield "vectors (N, D), three times", [matrix, other, draw.normal(rows, classes)]
        yield "vectors (N, D), twice, and labels -1 or 1", [matrix, other, labels * 2 - 1]
        yield "numbers (N,), twice, and positive ones", [score, draw.normal(rows), draw.normal(rows).abs() + 0.5]
    if count == 4:
        yield "numbers (N,), four times", [draw.normal(rows) for _ in range(4)]


def _words(loss: Any) -> str:
    """The name of a loss and the names that its code speaks of."""
    code = getattr(type(loss).forward if isinstance(loss, nn.Module) else loss, "__code__", None)
    spoken = [*code.co_names, *code.co_varnames] if code is not None else []
    return " ".join([getattr(loss, "__name__", type(loss).__name__), *spoken]).lower()


def _count(loss: Any) -> int | None:
    """How many operands a call needs."""
    try:
        taken = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters.values()
    except (TypeError, ValueError):
        return 2
    needed = [x for x in taken if x.default is x.empty and x.kind in (x.POSITIONAL_ONLY, x.POSITIONAL_OR_KEYWORD)]
    several = any(x.kind is x.VAR_POSITIONAL for x in taken)
    return 2 if several and not needed else len(needed)


def _refusal(
    loss: Any, operands: Sequence[Any], keywords: dict[str, Any], *, leaf: bool = True, guessed: bool = False
) -> Exception | None:
    """What the loss raises for operands, if it does; where they are guessed, whether the result is finite, too."""
    wanted = [x for x in (*operands, *keywords.values()) if isinstance(x, Tensor) and x.requires_grad]
    made: list[Any] = []
    for x in (*operands, *keywords.values()):
        y = x.detach().clone() if isinstance(x, Tensor) else x
        if isinstance(y, Tensor) and y.is_floating_point() and (x.requires_grad or not (wanted or made)):
            y.requires_grad_()
            y = y if leaf else y * 1.0
        made.append(y)
    try:
        seed()
        loss = copied(loss)  # a call may change it
        result = loss(*made[: len(operands)], **dict(zip(keywords, made[len(operands) :], strict=True)))
        result = getattr(result, "loss", result[0]) if isinstance(result, tuple) else result
        if not isinstance(result, Tensor):
            return NoTensorError(
                f"the result is a {type(result).__name__} and no tensor, so nothing can be learned from it"
            )
        if guessed and result.numel() and not bool(result.isfinite().all()):
            return ValueError("the result is not finite")
    except Exception as problem:  # whatever a loss raises
        return problem
    return None


def _leaves(problem: Exception) -> bool:
    """Whether a loss writes into its predictions: into a leaf it cannot."""
    return "in-place operation" in str(problem)


def _line(problem: Exception) -> str:
    return (str(problem).strip().split("\n") or [""])[0][:160]
