"""Reductions, rows and batches: whether the loss of a batch is made of its rows' losses, and what masks do.

A loss may look at several rows at once, as contrastive ones do; that is a note. What is not a loss's business is the
order of its rows, and a row's target that changes what another row is pulled to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.audit.counterexample import call_of, short, smallest
from losskit.audit.coupling import close, coupled, crossed, tolerance
from losskit.audit.findings import Finding, Skipped, check, fault, note, warning
from losskit.audit.operands import one_hot
from losskit.audit.points import truth
from losskit.audit.subject import Subject, line_of


@check("batches", "Does the result have a shape that a loss may have?")
def shape(subject: Subject) -> Iterator[Finding]:
    """A number; or with reduction='none' one for each row or element."""
    operands = subject.example()
    value = subject.value(operands)
    reduction = subject.reduction
    if reduction in ("mean", "sum", "batchmean") and value.ndim:
        yield fault(
            f"reduction={reduction!r} gives a tensor of shape {tuple(value.shape)} and not a number.",
            call_of(subject, operands),
        )
    if not reduction and value.ndim and subject.rows and not _of_rows(subject, value):
        yield fault(
            f"the result has shape {tuple(value.shape)}: neither a number nor one for each of {subject.rows} rows.",
            call_of(subject, operands),
        )
    if reduction and subject.rows:
        yield from _unreduced(subject, operands)


def _unreduced(subject: Subject, operands: Sequence[Any]) -> Iterator[Finding]:
    none = subject.unreduced
    if none is subject and subject.reduction != "none":
        return
    value = none.value(operands)
    if _of_rows(subject, value) and (value.ndim or subject.rows == 1):
        return
    verdict = "note" if _all_rows(subject, operands) else "fault"
    told = f"shape {tuple(value.shape)}, which is not one for each of {subject.rows} rows" if value.ndim else "a number"
    yield Finding(verdict, f"reduction='none' gives {told}.", call_of(none, operands))


def _of_rows(subject: Subject, value: Tensor) -> bool:
    """Whether a result has entries by rows, in some dimension."""
    return (value.ndim > 0 and subject.rows in value.shape[:2]) or value.numel() == 1


def _all_rows(subject: Subject, operands: Sequence[Any]) -> bool:
    """Whether the loss is one of the whole batch: rows see each other."""
    return coupled(subject, operands) is not None or crossed(subject, operands) is not None


@check("batches", "Do sum and mean agree with what reduction='none' gives?")
def reductions(subject: Subject) -> Iterator[Finding]:
    """none.sum() is the sum; the mean divides it by a number that does not depend on the predictions."""
    if not subject.reduction:
        raise Skipped("the loss has no reduction")
    operands = subject.example()
    found: dict[str, Tensor] = {}
    for reduction in ("none", "mean", "sum"):
        try:
            found[reduction] = subject.reduced(reduction).value(operands).double()
        except Exception as problem:  # whatever a loss raises
            yield note(f"reduction={reduction!r} is refused: {str(problem)[:100]}")
    if "none" in found and "sum" in found and not close(found["none"].sum(), found["sum"].sum(), tolerance(subject)):
        total = short(float(found["none"].sum()))
        yield fault(
            f"reduction='sum' gives {short(float(found['sum'].sum()))} and the sum of reduction='none' is {total}.",
            call_of(subject.reduced("sum"), operands),
        )
        return
    if "mean" not in found or "sum" not in found:
        return
    mean, total_ = float(found["mean"].sum()), float(found["sum"].sum())
    if not mean or not total_:
        return
    denominator = total_ / mean
    other = _other_predictions(subject, operands)
    again = [float(subject.reduced(r).value(other).double().sum()) for r in ("sum", "mean")]
    if again[1] and abs(again[0] / again[1] / denominator - 1.0) > 1e-5 and not _all_rows(subject, operands):
        yield fault(
            f"the mean divides the sum by {short(denominator)}, and for other "
            f"predictions by {short(again[0] / again[1])}.",
            call_of(subject.reduced("mean"), operands),
        )
        return
    double = _repeated(subject, operands)
    if double is None or _all_rows(subject, operands):
        return
    twice = float(subject.reduced("mean").value(double).double().sum())
    if abs(twice / mean - 1.0) > 1e-5:
        yield fault(
            f"the mean of a batch is {short(mean)}, and that of the same rows twice "
            f"{short(twice)}: its denominator does not count rows.",
            call_of(subject.reduced("mean"), operands),
        )


def _other_predictions(subject: Subject, operands: Sequence[Any]) -> list[Any]:
    place = subject.predictions[0]
    found = list(operands)
    found[place] = operands[place].flip(0) if subject.axes[place] != 1 else operands[place].flip(1)
    return found


def _repeated(subject: Subject, operands: Sequence[Any]) -> list[Any] | None:
    """Every row twice."""
    return subject.take(operands, list(range(subject.rows)) * 2) if subject.rows else None


@check("batches", "Are batches of other sizes taken?")
def sizes(subject: Subject) -> Iterator[Finding]:
    """One row, and one row less: the number of rows must not be built in."""
    if subject.rows < 3:
        raise Skipped("the example has fewer than three rows")
    for count, build in ((subject.rows - 1, fault), (1, warning)):
        batch = subject.take(subject.example(), list(range(count)))
        try:
            subject.run(batch)
        except Exception as problem:  # whatever a loss raises
            told = f"{subject.rows} rows are taken, and {count} raise {type(problem).__name__}: {line_of(problem)}"
            refused = isinstance(problem, ValueError)
            yield note(told, call_of(subject, batch)) if refused else build(told, call_of(subject, batch))
            return


@check("batches", "Is the loss of a batch made of its rows' losses?")
def rows(subject: Subject) -> Iterator[Finding]:
    """The sum, the mean or a weighted mean of what the rows have alone; the mean of two halves then composes."""
    if subject.rows < 2:
        raise Skipped("the loss has one row, or no dimension of rows")
    operands = subject.example()
    pair = coupled(subject, operands)
    if pair is not None:
        if _wrong_axis(subject, operands):
            yield fault(
                "adding a number to one class in all rows changes nothing, and adding one to "
                "all classes of a row does: the softmax runs over the batch and not over the classes.",
                call_of(subject, operands),
            )
            return
        yield note(
            f"rows see each other: the gradient of row {pair[0]} depends on the prediction of "
            f"row {pair[1]}, so batches do not compose.",
            call_of(subject, operands),
        )
        return
    found = crossed(subject, operands)
    if found is not None:
        yield Finding(*found, call_of(subject, operands))
        return
    yield from _composed(subject, operands)


def _wrong_axis(subject: Subject, operands: Sequence[Any]) -> bool:
    """Whether class scores are normalised over the rows."""
    x, place = operands[subject.predictions[0]], truth(subject)
    if x.ndim != 2 or place is None or not subject.kinds[subject.predictions[0]].domain.everything:
        return False
    value = subject.value(operands)
    named = list(operands)
    named[place] = (operands[place] + 1) % x.shape[1]
    if one_hot(operands[place], x) is None or close(value, subject.value(named)):
        return False  # labels that are only equal or not, as of distances
    by_class = [*operands]
    by_class[subject.predictions[0]] = x + torch.arange(x.shape[1], dtype=x.dtype)
    by_row = [*operands]
    by_row[subject.predictions[0]] = x + torch.arange(x.shape[0], dtype=x.dtype)[:, None]
    return close(value, subject.value(by_class)) and not close(value, subject.value(by_row), 1e-3)


def _composed(subject: Subject, operands: Sequence[Any]) -> Iterator[Finding]:
    """Whether the value follows from the rows': a sum, a mean, or a weighted mean whose weights belong to rows."""
    whole = subject.value(operands).double()
    if whole.ndim:
        singles = [subject.value(subject.take(operands, [i])).double() for i in range(subject.rows)]
        axis = next((d for d, n in enumerate(whole.shape) if n == subject.rows), None)
        if axis is None or any(x.ndim != whole.ndim for x in singles):
            return
        joined = torch.cat(singles, axis)
        if not close(joined, whole, tolerance(subject)):
            at = int((joined - whole).abs().reshape(-1).argmax())
            yield fault(
                f"a row alone has the loss {short(float(joined.reshape(-1)[at]))}, and within "
                f"the batch {short(float(whole.reshape(-1)[at]))}.",
                call_of(subject, operands),
            )
        return
    n = subject.rows
    ones = [float(subject.value(subject.take(operands, [i])).double()) for i in range(n)]
    if any(x != x for x in ones):
        return
    value, room = float(whole), 10 * tolerance(subject) * max(abs(x) for x in ones)
    total = sum(ones)
    if abs(value - total / n) <= room:
        return
    if abs(value - total) <= n * room:
        if subject.reduction in ("mean", "batchmean"):
            yield fault(
                "reduction='mean' gives the sum of the rows' losses, whatever their number.", call_of(subject, operands)
            )
        elif subject.reduction != "sum" and "sum" not in subject.name.lower():
            yield warning(
                "the loss is a sum over the rows: its gradient grows with the batch, and it "
                "has no reduction='sum' that would say so.",
                call_of(subject, operands),
            )
        return
    if _weighted(subject, operands, ones, value, room):
        return
    if _chooses(subject, operands):
        yield note("only some rows count, as of a median or of the hardest ones.", call_of(subject, operands))
        return
    masks = [subject.names[i] for i, kind in enumerate(subject.kinds) if kind.of == "mask"]
    small = smallest(subject, operands, lambda c: not _explained(subject, c))
    told = [short(float(subject.value(subject.take(small, [i])))) for i in range(2)]
    alone = f"rows alone have {' and '.join(told)}, together {short(float(subject.value(small)))}"
    if masks:
        yield note(f"the mean of two halves is not that of the whole with {masks[0]}.", call_of(subject, operands))
        return
    yield fault(
        f"the loss of a batch is neither the sum nor a mean of its rows' losses: {alone}.", call_of(subject, small)
    )


def _chooses(subject: Subject, operands: Sequence[Any]) -> bool:
    """Whether a row without a gradient in the batch has one alone."""
    place = subject.predictions[0]
    whole = subject.run(operands).gradients[0]
    for i in range(subject.rows):
        alone = subject.run(subject.take(operands, [i])).gradients[0]
        if whole is None or alone is None or not bool((alone != 0).any()):
            continue
        if not bool((whole.select(subject.axes[place] or 0, i) != 0).any()):
            return True
    return False


def _explained(subject: Subject, operands: Sequence[Any]) -> bool:
    axis = subject.axes[subject.predictions[0]] or 0
    n = int(operands[subject.predictions[0]].shape[axis])
    if n < 2:
        return True
    ones = [float(subject.value(subject.take(operands, [i]))) for i in range(n)]
    value = float(subject.value(operands))
    room = 1e-6 * max(abs(x) for x in ones)
    if n == 2:  # a mean lies between
        return min(ones) - room <= value <= max(ones) + room or abs(value - sum(ones)) <= room
    return False


def _weighted(subject: Subject, operands: Sequence[Any], ones: list[float], value: float, room: float) -> bool:
    """Whether there are weights of rows that make the value the weighted mean, found from pairs with the first row."""
    n = len(ones)
    weights = [1.0]
    for i in range(1, n):
        if abs(ones[i] - ones[0]) <= 1e-9 * abs(ones[0]):
            return True  # nothing can be told
        pair = float(subject.value(subject.take(operands, [0, i])).double())
        share = (pair - ones[0]) / (ones[i] - ones[0])  # of row i
        if not -1e-9 <= share < 1.0:
            return False
        weights.append(max(share, 0.0) / (1.0 - share))
    expected = sum(w * x for w, x in zip(weights, ones, strict=True)) / sum(weights)
    return abs(expected - value) <= 100 * room


@check("batches", "Does the order of rows not matter?", shrinks=True)
def permutation(subject: Subject) -> Iterator[Finding]:
    """Rows in another order: the same loss, the gradients in that order."""
    if subject.rows < 2:
        raise Skipped("the loss has one row, or no dimension of rows")
    operands = subject.example()
    shared = [a is None and isinstance(x, Tensor) and x.ndim > 0 for a, x in zip(subject.axes, operands, strict=True)]
    if any(shared) and subject.declared is None:
        raise Skipped("not every operand has a dimension of rows")
    if not _differs(subject, operands):
        return
    small = smallest(subject, operands, lambda c: _differs(subject, c))
    a, b = (float(subject.value(x).sum()) for x in (small, _turned(subject, small)))
    yield fault(f"the loss is {short(a)}, and {short(b)} with the rows in another order.", call_of(subject, small))


def _turned(subject: Subject, operands: Sequence[Any]) -> list[Any]:
    place = subject.predictions[0]
    n = int(operands[place].shape[subject.axes[place] or 0])
    return subject.take(operands, [*range(1, n), 0] if n > 2 else [1, 0])


def _differs(subject: Subject, operands: Sequence[Any]) -> bool:
    place = subject.predictions[0]
    axis = subject.axes[place] or 0
    n = int(operands[place].shape[axis])
    if n < 2:
        return False
    order = [*range(1, n), 0] if n > 2 else [1, 0]
    turned = subject.take(operands, order)
    a, b = subject.run(operands), subject.run(turned)
    if not close(a.value.sum(), b.value.sum(), 10 * tolerance(subject)):
        return True
    ga, gb = a.gradients[0], b.gradients[0]
    if ga is None or gb is None or a.value.ndim:
        return False
    return not close(ga.index_select(axis, torch.tensor(order)), gb, 100 * tolerance(subject))


@check("batches", "Is a batch without rows no crash?")
def empty(subject: Subject) -> Iterator[Finding]:
    """No rows: the sum is 0, the mean NaN or 0."""
    if not subject.rows:
        raise Skipped("the loss has no dimension of rows")
    operands = subject.take(subject.example(), [])
    try:
        got = subject.run(operands)
    except Exception as problem:  # whatever a loss raises
        text = str(problem).strip().split("\n")[0][:120]
        if isinstance(problem, ValueError) and subject.declared is not None and subject.declared.name in text:
            yield note(f"a batch without rows is refused: {text}", call_of(subject, operands))
            return
        yield warning(f"a batch without rows raises {type(problem).__name__}: {text}", call_of(subject, operands))
        return
    total = float(got.value.sum())
    if subject.reduction == "sum" and total != 0.0:
        yield fault(f"the sum over nothing is {short(total)}.", call_of(subject, operands))
    elif got.value.ndim == 0 and total == total and total != 0.0:
        yield note(f"a batch without rows has the loss {short(total)}.", call_of(subject, operands))
