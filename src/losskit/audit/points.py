"""Places at which a loss is looked at: the example, larger and smaller numbers, right and wrong predictions, ties."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from losskit.audit.operands import one_hot, scaled
from losskit.audit.subject import Subject
from losskit.domains import Interval

Place = tuple[str, list[Any]]


def places(subject: Subject, *, few: bool = False) -> Iterator[Place]:
    """Ordinary places, in the dtype of derivatives. Large ones cross the kinks of a loss and reach its tails."""
    example = subject.example()
    yield "of the example", example
    if subject.first.numel() > 5000:
        return
    for factor in (10.0,) if few else (0.1, 10.0, 40.0):
        yield f"of the example times {factor:g}", at_scale(subject, example, factor)
    if few:
        return
    for right, told in ((True, "where all rows are right"), (False, "where all rows are wrong")):
        found = aligned(subject, example, 3.0, right)
        if found is not None:
            yield told, found


def at_scale(subject: Subject, operands: Sequence[Any], factor: float) -> list[Any]:
    """The first prediction times a number, or as near to that as its domain allows."""
    place = subject.predictions[0]
    found = list(operands)
    found[place] = scaled(operands[place], subject.kinds[place], factor)
    return found


def truth(subject: Subject) -> int | None:
    """The position of the operand that says what is right: labels of the prediction's shape, or class indices."""
    first = subject.predictions[0]
    for place, kind in enumerate(subject.kinds):
        if place == first or place in subject.predictions:
            continue
        x = subject.operands[place]
        if kind.of in ("classes", "labels") and isinstance(x, Tensor):
            if one_hot(x, subject.first) is not None:
                return place
            if x.shape == subject.first.shape and set(x.reshape(-1).tolist()) <= {-1, 0, 1}:
                return place
    return None


def signs_of(subject: Subject, operands: Sequence[Any]) -> Tensor | None:
    """For each number of the prediction: 1 where it should be large, -1 where it should be small."""
    place = truth(subject)
    if place is None:
        return None
    target, x = operands[place], operands[subject.predictions[0]]
    hot = one_hot(target, x)
    high = hot if hot is not None else target > 0
    return torch.where(high, 1.0, -1.0).to(x.dtype)


def hardened(subject: Subject, operands: Sequence[Any]) -> list[Any]:
    """Operands with labels of 0 and 1, where the target may be a probability."""
    found = list(operands)
    for place, kind in enumerate(subject.kinds):
        x = found[place]
        unit = isinstance(kind.domain, Interval) and (kind.domain.low, kind.domain.high) == (0.0, 1.0)
        if place not in subject.predictions and unit and isinstance(x, Tensor) and x.shape == subject.first.shape:
            found[place] = x.round()
    return found


def aligned(subject: Subject, operands: Sequence[Any], size: float, right: bool) -> list[Any] | None:
    """Predictions of a size that agree with the labels, or contradict them; None where there are no labels."""
    if truth(subject) is None:
        subject = subject.given(hardened(subject, subject.operands))
        subject.kinds = [
            replace(kind, of="labels")
            if (kind.domain.description, i in subject.predictions) == ("in [0, 1]", False)
            else kind
            for i, kind in enumerate(subject.kinds)
        ]
        operands = hardened(subject, operands)
    towards = signs_of(subject, operands)
    place = subject.predictions[0]
    kind = subject.kinds[place]
    if towards is None or len(subject.predictions) > 1:
        return None
    x = operands[place]
    generator = torch.Generator().manual_seed(5)
    spread = torch.rand(x.shape, generator=generator, dtype=torch.float64) * 0.5 + 0.75
    moved = (size * spread * towards.double() * (1.0 if right else -1.0)).to(x.dtype)
    if kind.normalized is not None:
        moved = moved.log_softmax(kind.normalized)
    elif isinstance(kind.domain, Interval) and kind.domain.low == 0.0 and kind.domain.high == 1.0:
        moved = torch.sigmoid(moved.double()).to(x.dtype)
        if one_hot(operands[truth(subject) or 0], x) is not None:
            dim = 1 if x.ndim > 1 else 0
            moved = moved / moved.sum(dim, keepdim=True)
    elif not kind.domain.everything:
        return None
    found = list(operands)
    found[place] = moved
    return found


def ties(subject: Subject, operands: Sequence[Any]) -> list[Any] | None:
    """All predictions equal to the target, where both are numbers of one kind."""
    place = subject.predictions[0]
    for other, kind in enumerate(subject.kinds):
        x = operands[other]
        own = subject.kinds[place]
        alike = kind.of == "float" and (kind.domain, kind.normalized) == (own.domain, own.normalized)
        if other != place and alike and isinstance(x, Tensor) and x.shape == operands[place].shape:
            found = list(operands)
            found[place] = x.clone()
            return found
    return None
