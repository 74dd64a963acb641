"""Whether the value has jumps, of which no gradient knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from losskit.audit.counterexample import call_of, short, smallest
from losskit.audit.coupling import close, coupled
from losskit.audit.findings import Finding, Skipped, check
from losskit.audit.operands import put, scaled
from losskit.audit.subject import Subject


@check("derivatives", "Is the value without jumps?", shrinks=True)
def jumps(subject: Subject) -> Iterator[Finding]:
    """Along lines between predictions: where the value changes most, the line is halved, again and again."""
    if subject.dtype != torch.float64 or subject.first.numel() > 500:
        raise Skipped("the loss does not compute in float64, or the example has more than 500 numbers")
    place = subject.predictions[0]
    operands = subject.example()
    for factor in (-3.0, 4.0):
        a, b = operands[place], scaled(operands[place], subject.kinds[place], abs(factor))
        if factor < 0 and subject.kinds[place].domain.everything:
            b = -b.roll(1, 0)
        found = _jump(lambda t, a=a, b=b: put(operands, place, a + t * (b - a)), subject)  # type: ignore[misc]
        if found is not None:
            at, size = found
            small = smallest(subject, at, lambda c: _jumps_at(subject, c))
            # Where numbers see each other, a rank or a choice of them may change: that has to jump.
            alone = coupled(subject, operands) is None and not _neighbours(subject, operands)
            yield Finding(
                "fault" if alone else "warning",
                f"the value jumps by {short(size)} between neighbouring predictions: no gradient knows of it.",
                call_of(subject, small),
            )
            return


def _neighbours(subject: Subject, operands: list[Any]) -> bool:
    """Whether the gradient of a prediction depends on another one of its row."""
    place = subject.predictions[0]
    if operands[place].ndim < 2:
        return False
    other = put(operands, place, operands[place].clone())
    other[place].select(-1, -1).mul_(0.5)
    before, after = (subject.run(x).gradients[0] for x in (operands, other))
    return before is None or after is None or not close(before[..., :-1], after[..., :-1])


def _jump(at: Callable[[float], list[Any]], subject: Subject) -> tuple[list[Any], float] | None:
    """A place where the value jumps, and by how much."""
    count = 64
    values = [subject.value(at(k / count)).sum() for k in range(count + 1)]
    if not all(bool(v.isfinite()) for v in values):
        return None
    scale = max(float(v.abs()) for v in values) + 1e-12
    steps = [float((values[k + 1] - values[k]).abs()) for k in range(count)]
    for k in sorted(range(count), key=steps.__getitem__)[-4:]:
        low, high, left, right = k / count, (k + 1) / count, values[k], values[k + 1]
        for _ in range(44):
            middle = (low + high) / 2
            centre = subject.value(at(middle)).sum()
            if float((centre - left).abs()) >= float((right - centre).abs()):
                high, right = middle, centre
            else:
                low, left = middle, centre
        if float((right - left).abs()) > 1e-8 * scale:
            return at(low), float((right - left).abs())
    return None


def _jumps_at(subject: Subject, operands: Sequence[Any]) -> bool:
    """Whether the value jumps next to these predictions."""
    place = subject.predictions[0]
    x = operands[place]
    a, b = (subject.value(put(operands, place, x * (1 + t))).sum() for t in (-1e-12, 1e-12))
    return float((a - b).abs()) > 1e-8 * (float(a.abs()) + 1e-12)
