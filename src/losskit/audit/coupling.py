"""Whether rows of a batch see each other: through their predictions, or through the targets of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.audit.operands import put
from losskit.audit.subject import Subject


def close(a: Tensor, b: Tensor, tolerance: float = 1e-7) -> bool:
    if a.shape != b.shape:
        return False
    scale = torch.maximum(a.abs(), b.abs()).max() if a.numel() else torch.zeros(())
    return bool(((a - b).abs() <= tolerance * scale + 1e-12).all()) or bool((a.isnan() & b.isnan()).all())


def tolerance(subject: Subject) -> float:
    return 1e-7 if subject.dtype == torch.float64 else 1e-4


def coupled(subject: Subject, operands: Sequence[Any]) -> tuple[int, int] | None:
    """Two rows of which the prediction of the second changes the gradient of the first; None where there are none.

    The second keeps its target, and its prediction is another row's, which is as allowed.
    """
    if subject.rows < 2:
        return None
    total = subject.reduced("sum") if _has_sum(subject) else subject
    place = subject.predictions[0]
    axis = subject.axes[place] or 0
    before = total.run(operands).gradients[0]
    if before is None:
        return None
    last = subject.rows - 1
    for i, j in ((0, last), (last, 0)):
        moved = list(operands)
        for k in subject.predictions:
            along = subject.axes[k]
            if along is not None:
                moved[k] = operands[k].clone()
                moved[k].select(along, j).add_(operands[k].select(along, (j + 1) % subject.rows)).mul_(0.5)
        after = total.run(moved).gradients[0]
        if after is not None and not close(before.select(axis, i), after.select(axis, i), 10 * tolerance(subject)):
            return i, j
    return None


def _has_sum(subject: Subject) -> bool:
    if not subject.reduction:
        return False
    try:
        subject.reduced("sum").value(subject.operands)
        return True
    except Exception:  # whatever a loss raises
        return False


def crossed(subject: Subject, operands: Sequence[Any]) -> tuple[str, str] | None:
    """What another row's target does to a row's gradient beyond a common factor.

    A factor w(targets) times a function of the row itself is a weight, by class or by batch. Beyond that, the row is
    pulled by other rows' targets. Where it does not even matter which target belongs to which row, and targets add up,
    shapes (N,) and (N, 1) have broadcast to (N, N); else rows are compared on purpose.
    """
    place = subject.predictions[0]
    axis = subject.axes[place] or 0
    count = int(operands[place].shape[axis])
    targets = [i for i, a in enumerate(subject.axes) if a is not None and i not in subject.predictions]
    if count < 2 or not targets:
        return None
    other = _with_target(subject, operands, targets, count - 1)
    ratios: list[float | None] = []
    same = True
    for share in (0.0, 0.5):
        x = operands[place] * (1 - share) + operands[place].roll(1, axis) * share
        try:
            a, b = (subject.run(put(ops, place, x)).gradients[0] for ops in (operands, other))
        except Exception:  # targets that do not go together
            return None
        if a is None or b is None:
            return None
        a, b = a.select(axis, 0).reshape(-1).double(), b.select(axis, 0).reshape(-1).double()
        same = same and close(a, b, 1e-6)
        ratios.append(ratio_of(a, b))
    one, two = ratios
    if same or (one is not None and two is not None and abs(one - two) <= 1e-5 * abs(one)):
        return None
    if _unpaired(subject, operands, targets) and _additive(subject, operands, targets, count):
        return "fault", (
            "it does not matter which target belongs to which row: each row is compared with the targets "
            "of all, as where (N,) and (N, 1) broadcast to (N, N)."
        )
    return "note", "rows see each other: the gradient of a row depends on the target of another one."


def _with_target(subject: Subject, operands: Sequence[Any], targets: Sequence[int], j: int) -> list[Any]:
    """Row j with another row's target."""
    other = list(operands)
    for i in targets:
        a = subject.axes[i] or 0
        y = operands[i].clone()
        source = next((k for k in range(j) if not torch.equal(y.select(a, k), y.select(a, j))), 0)
        y.select(a, j).copy_(operands[i].select(a, source))
        other[i] = y
    return other


def _unpaired(subject: Subject, operands: Sequence[Any], targets: Sequence[int]) -> bool:
    """Whether targets may go to other rows and nothing changes."""
    turned = list(operands)
    for i in targets:
        turned[i] = operands[i].roll(1, subject.axes[i] or 0)
    return close(subject.value(operands).sum(), subject.value(turned).sum(), 10 * tolerance(subject))


def _additive(subject: Subject, operands: Sequence[Any], targets: Sequence[int], count: int) -> bool:
    """Whether what one target does to the first row's gradient does not depend on another row's target."""
    if count < 3:
        return True
    place = subject.predictions[0]
    axis = subject.axes[place] or 0
    one = _with_target(subject, operands, targets, count - 1)
    two = _with_target(subject, operands, targets, count - 2)
    both = [
        two[i] if i not in targets else _joined(one[i], two[i], subject.axes[i] or 0, count - 1)
        for i in range(len(operands))
    ]
    g = [subject.run(ops).gradients[0] for ops in (operands, one, two, both)]
    if any(x is None for x in g):
        return False
    a, b, c, d = (x.select(axis, 0).double() for x in g if x is not None)
    return close(b - a, d - c, 1e-5)


def _joined(one: Tensor, two: Tensor, axis: int, j: int) -> Tensor:
    found = two.clone()
    found.select(axis, j).copy_(one.select(axis, j))
    return found


def ratio_of(a: Tensor, b: Tensor) -> float | None:
    """The common factor of two gradients."""
    if float(a.abs().max()) < 1e-12:
        return 1.0 if float(b.abs().max()) < 1e-12 else None
    i = int(a.abs().argmax())
    ratio = float(b[i] / a[i])
    return ratio if close(ratio * a, b, 1e-6) else None
