"""Masks, ignored indices and weights: what is excluded must neither count nor leak, and a weight must count once."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from losskit.audit.counterexample import call_of, short
from losskit.audit.coupling import close, coupled, ratio_of
from losskit.audit.findings import Finding, Skipped, check, fault, note, warning
from losskit.audit.operands import put
from losskit.audit.points import truth
from losskit.audit.subject import Subject


@check("batches", "Do ignored and masked rows neither count nor leak?")
def masks(subject: Subject) -> Iterator[Finding]:
    """ignore_index, and operands that are masks: what they exclude changes nothing, has gradient 0, and may be NaN."""
    found = [*_ignored(subject), *_masked(subject), *_usual_ignored(subject)]
    if not found and _ignore_index(subject) is None and not _mask_places(subject):
        raise Skipped("there is no mask and no ignore_index")
    yield from found


def _ignore_index(subject: Subject) -> int | None:
    own = getattr(subject.loss, "ignore_index", None)
    if own is None and "ignore_index" in subject.parameters:
        own = subject.parameters["ignore_index"].default
    return own if isinstance(own, int) and not isinstance(own, bool) else None


def _indices(subject: Subject) -> int | None:
    """The position of the class indices."""
    return next((i for i, kind in enumerate(subject.kinds) if kind.of == "classes"), None)


def _mask_places(subject: Subject) -> list[int]:
    return [
        i
        for i, kind in enumerate(subject.kinds)
        if kind.of == "mask" or ("mask" in subject.names[i].lower() and kind.of == "labels")
    ]


def _ignored(subject: Subject) -> Iterator[Finding]:
    index = _ignore_index(subject)
    operands = subject.example()
    target = _indices(subject)
    if index is None or target is None or subject.rows < 2 or subject.axes[target] is None:
        return
    y = operands[target].clone()
    y.select(subject.axes[target] or 0, 0).fill_(index)
    some = put(operands, target, y)
    try:
        got = subject.run(some)
    except Exception as problem:  # whatever a loss raises
        yield fault(
            f"a target of ignore_index={index} raises {type(problem).__name__}: {str(problem)[:100]}",
            call_of(subject, some),
        )
        return
    yield from _excluded(subject, some, got.value, f"ignore_index={index}")
    nothing = put(operands, target, torch.full_like(y, index))
    yield from _nothing(subject, nothing, f"all targets are ignore_index={index}")


def _usual_ignored(subject: Subject) -> Iterator[Finding]:
    """A target of -100, which torch's cross entropy leaves out, in a loss that says nothing of it."""
    # Of class scores alone: where other indices are, torch's CTC loss writes to memory that is not its own.
    target = truth(subject)
    if _ignore_index(subject) is not None or target is None or subject.kinds[target].of != "classes":
        return
    if subject.rows < 2 or subject.axes[target] is None:
        return
    axis = subject.axes[subject.predictions[0]] or 0
    some = subject.example()
    some[target] = some[target].clone()
    some[target].select(subject.axes[target] or 0, 0).fill_(-100)
    try:
        got, rest = subject.run(some), subject.value(subject.take(some, list(range(1, subject.rows))))
    except Exception:  # which refuses it
        return
    own = got.gradients[0]
    left_out = got.value.ndim == 0 and own is not None and not bool(own.select(axis, 0).any())
    if left_out and coupled(subject, subject.example()) is None and not close(got.value, rest, 1e-6):
        yield fault(
            f"a row with the target -100 has no gradient, and counts in the mean: the loss is "
            f"{short(float(got.value))}, and {short(float(rest))} without it.",
            call_of(subject, some),
        )


def _excluded(subject: Subject, some: list[Any], value: Tensor, told: str) -> Iterator[Finding]:
    """Row 0 must not count."""
    place = subject.predictions[0]
    axis = subject.axes[place] or 0
    rest = subject.value(subject.take(some, list(range(1, subject.rows))))
    if value.ndim == 0 and coupled(subject, subject.example()) is None and not close(value, rest, 1e-6):
        yield fault(
            f"a row excluded by {told} still counts: the loss is {short(float(value))}, and "
            f"{short(float(rest))} without that row.",
            call_of(subject, some),
        )
        return
    got = subject.run(some).gradients[0]
    if got is not None and bool((got.select(axis, 0) != 0).any()):
        yield fault(f"a row excluded by {told} has a gradient.", call_of(subject, some))
        return
    x = some[place].clone()
    x.select(axis, 0).fill_(float("nan"))
    spoilt = put(some, place, x)
    try:
        bad = subject.run(spoilt)
    except ValueError:  # which refuses a NaN
        return
    if bool(bad.value.isnan().any()) or bool(bad.flat().isnan().any()):
        what = "value" if bool(bad.value.isnan().any()) else "gradient"
        yield warning(f"a NaN in a row excluded by {told} makes the {what} NaN.", call_of(subject, spoilt))


def _nothing(subject: Subject, operands: list[Any], told: str) -> Iterator[Finding]:
    try:
        got = subject.run(operands)
    except Exception as problem:  # whatever a loss raises
        yield warning(
            f"{told}: the loss raises {type(problem).__name__}: {str(problem)[:100]}", call_of(subject, operands)
        )
        return
    if bool(got.flat().isnan().any()):
        yield warning(f"{told}: the gradient is NaN.", call_of(subject, operands))
    elif bool(got.value.isnan().any()):
        yield note(f"{told}: the loss is NaN, its gradient 0.", call_of(subject, operands))


def _masked(subject: Subject) -> Iterator[Finding]:
    """Operands that are masks: what is off must have no influence."""
    operands = subject.example()
    first = subject.predictions[0]
    for place in _mask_places(subject):
        mask = operands[place]
        x = operands[first]
        if mask.shape != x.shape[: mask.ndim]:
            continue
        half = torch.ones_like(mask)
        half.view(-1)[::2] = 0
        some = put(operands, place, half)
        off = (half == 0).reshape(half.shape + (1,) * (x.ndim - half.ndim)).expand_as(x)
        got = subject.run(some)
        moved = list(some)
        moved[first] = torch.where(off, x + 1.0, x)
        if not close(subject.value(moved), got.value, 1e-6):
            yield fault(f"predictions where {subject.names[place]} is off change the loss.", call_of(subject, some))
            continue
        gradient = got.gradients[0]
        if gradient is not None and bool((gradient[off] != 0).any()):
            yield fault(f"predictions where {subject.names[place]} is off have a gradient.", call_of(subject, some))
            continue
        spoilt = list(some)
        spoilt[first] = torch.where(off, float("nan"), x)
        bad = subject.run(spoilt)
        if bool(bad.value.isnan().any()) or bool(bad.flat().isnan().any()):
            yield warning(f"a NaN where {subject.names[place]} is off makes the result NaN.", call_of(subject, spoilt))
        yield from _counts(subject, some, place)
        yield from _nothing(
            subject,
            put(operands, place, torch.zeros_like(mask)),
            f"{subject.names[place]} is off everywhere",
        )


def _counts(subject: Subject, some: list[Any], place: int) -> Iterator[Finding]:
    """Whether the mean counts what is masked: rows that are off, taken away, must change nothing."""
    mask = some[place]
    if mask.ndim != 1 or subject.axes[place] is None or subject.value(some).ndim:
        return
    kept = [i for i in range(subject.rows) if bool(mask[i])]
    if not kept:
        return
    full, less = subject.value(some), subject.value(subject.take(some, kept))
    if not close(full, less, 1e-6) and coupled(subject, subject.example()) is None:
        yield fault(
            f"rows where {subject.names[place]} is off count in the mean: the loss is "
            f"{short(float(full))}, and {short(float(less))} without them.",
            call_of(subject, some),
        )


@check("batches", "Does a weight of 2 count as the row twice?")
def weights(subject: Subject) -> Iterator[Finding]:
    """Operands called weight, and class weights: neither ignored nor applied twice."""
    found = False
    operands = subject.example()
    for place, name in enumerate(subject.names):
        x = operands[place]
        of_rows = isinstance(x, Tensor) and x.is_floating_point() and subject.axes[place] is not None
        if "weight" in name.lower() and of_rows and place not in subject.predictions[:1] and subject.rows > 1:
            found = True
            heavy = put(operands, place, torch.ones_like(x))
            heavy[place].select(subject.axes[place] or 0, 0).fill_(2.0)
            light = put(operands, place, torch.ones_like(x))
            yield from _as_twice(subject, heavy, subject.take(light, [0, *range(subject.rows)]), light, name)
    if isinstance(getattr(subject.loss, "weight", None), Tensor):
        found = True
        yield from _class_weights(subject, operands)
    if not found:
        raise Skipped("there are no weights")


def _as_twice(subject: Subject, heavy: list[Any], twice: list[Any], light: list[Any], name: str) -> Iterator[Finding]:
    place = subject.predictions[0]
    axis = subject.axes[place] or 0
    if coupled(subject, light) is not None:
        return
    a, b = subject.run(heavy).gradients[0], subject.run(twice).gradients[0]
    plain = subject.run(light).gradients[0]
    if a is None or b is None or plain is None:
        return
    joined = b.narrow(axis, 1, subject.rows).clone()
    joined.select(axis, 0).add_(b.select(axis, 0))
    ratio = ratio_of(joined.reshape(-1), a.reshape(-1))
    if ratio is None:
        same = ratio_of(plain.reshape(-1), a.reshape(-1))
        said = "changes nothing" if same is not None else "does not count as the row twice"
        yield fault(f"{name}=2 for a row {said}.", call_of(subject, heavy))


def _class_weights(subject: Subject, operands: list[Any]) -> Iterator[Finding]:
    """A row of a class with weight 2 is as two rows of it with weight 1."""
    target = _indices(subject)
    if target is None or subject.rows < 2 or operands[target].ndim != 1:
        return
    c = int(operands[target][0])
    others = [i for i in range(subject.rows) if int(operands[target][i]) != c]
    if not others:
        return
    chosen = subject.take(operands, [0, *others])
    made = []
    for value in (1.0, 2.0):
        loss = copy.deepcopy(subject.loss)
        weight = torch.ones_like(loss.weight)
        if weight.ndim != 1 or c >= len(weight):
            return
        weight[c] = value
        loss.weight = weight
        made.append(loss)
    a = subject.run(chosen, loss=made[1].to(subject.dtype)).gradients[0]
    b = subject.run(subject.take(operands, [0, 0, *others]), loss=made[0].to(subject.dtype)).gradients[0]
    if a is None or b is None:
        return
    joined = b[1:].clone()
    joined[0] += b[0]
    if ratio_of(joined.reshape(-1), a.reshape(-1)) is None:
        yield fault(f"a weight of 2 for class {c} does not count as its rows twice.", call_of(subject, chosen))
