"""Layouts, in-place writes, broadcasting, other dtypes of targets: what is done with the operands."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.audit.counterexample import call_of, short
from losskit.audit.coupling import close, crossed
from losskit.audit.findings import Finding, Skipped, check, fault, note, warning
from losskit.audit.operands import one_hot, put
from losskit.audit.points import truth
from losskit.audit.subject import Subject, line_of, seed


@check("inputs", "Does the layout in memory not matter?")
def layouts(subject: Subject) -> Iterator[Finding]:
    """Transposed, strided, expanded and channels-last operands against contiguous ones of the same numbers."""
    operands = subject.example()
    want = subject.run(operands)
    room = 1e-9 if subject.dtype == torch.float64 else 1e-4
    for told, change in (("transposed in memory", _transposed), ("every other number of a larger tensor", _strided)):
        changed = [change(x) if isinstance(x, Tensor) else x for x in operands]
        yield from _same(subject, changed, want.value, want.flat(), told, room)
    if subject.first.ndim == 4:
        last = [
            x.contiguous(memory_format=torch.channels_last) if isinstance(x, Tensor) and x.ndim == 4 else x
            for x in operands
        ]
        yield from _same(subject, last, want.value, want.flat(), "channels last", room)
    place = subject.predictions[0]
    x = operands[place]
    if subject.rows > 1 and subject.axes[place] == 0 and x.ndim:
        row = subject.take(operands, [0] * subject.rows)
        wanted = subject.run(row)
        expanded = list(row)
        for i, y in enumerate(row):
            if isinstance(y, Tensor) and subject.axes[i] == 0 and i != place:
                expanded[i] = y[:1].expand(y.shape)
        yield from _same(subject, expanded, wanted.value, wanted.flat(), "expanded from one row", room)


def _transposed(x: Tensor) -> Tensor:
    return x.movedim(0, -1).contiguous().movedim(-1, 0) if x.ndim > 1 else x


def _strided(x: Tensor) -> Tensor:
    if not x.ndim:
        return x
    wide = torch.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _same(
    subject: Subject, changed: Sequence[Any], value: Tensor, slope: Tensor, told: str, room: float
) -> Iterator[Finding]:
    made = [x.detach() if isinstance(x, Tensor) else copy.copy(x) for x in changed]
    for i in subject.predictions:
        made[i] = made[i].requires_grad_()
    try:
        seed()
        got = subject.call(subject.instance(subject.dtype), made)
        gradients: Any = [None]
        if got.requires_grad:
            gradients = torch.autograd.grad(got.sum(), [made[i] for i in subject.predictions], allow_unused=True)
    except Exception as problem:  # whatever a loss raises
        yield fault(
            f"operands {told} raise {type(problem).__name__}: {line_of(problem)}",
            call_of(subject, [x.mT if isinstance(x, Tensor) and x.ndim == 2 else x for x in changed]).replace(
                "), ", ").mT, ", 1
            )
            if told.startswith("transposed")
            else "",
        )
        return
    own = torch.cat([g.reshape(-1) for g in gradients if g is not None] or [torch.zeros(0, dtype=slope.dtype)])
    for what, a, b in (("value", got.detach(), value), ("gradient", own, slope)):
        if a.shape == b.shape and bool(((a - b).abs() > room * (1.0 + b.abs())).any()):
            yield fault(f"operands {told} give another {what}.", call_of(subject, changed))
            return


@check("inputs", "Are the operands left as they were?")
def in_place(subject: Subject) -> Iterator[Finding]:
    """Numbers and versions of all operands before and after forward and backward; leaves that want a gradient."""
    operands = subject.example()
    loss = subject.instance(subject.dtype)
    for leaf in (True, False):
        made = subject.prepared(operands)
        if not leaf:
            made = [x * 1.0 if i in subject.predictions else x for i, x in enumerate(made)]
        before = [x.detach().clone() if isinstance(x, Tensor) else copy.deepcopy(x) for x in made]
        versions = [x._version if isinstance(x, Tensor) else 0 for x in made]
        try:
            seed()
            value = subject.call(loss, made)
            if any(made[i].is_leaf and made[i].grad is not None for i in subject.predictions):
                yield fault("the loss calls backward itself: gradients are counted twice.", call_of(subject, operands))
                return
            if value.requires_grad:
                value.sum().backward()
        except Exception as problem:  # whatever a loss raises
            if "in-place" not in str(problem) and "inplace" not in str(problem):
                raise
            yield fault(f"the loss writes into its operands: {line_of(problem)}", call_of(subject, operands))
            return
        for name, x, old, version in zip(subject.names, made, before, versions, strict=True):
            if isinstance(x, Tensor):
                same = torch.equal(x.detach().nan_to_num(0.1), old.nan_to_num(0.1)) and x._version == version
            else:
                same = bool(x == old)
            if not same:
                yield fault(f"the loss writes into {name}.", call_of(subject, operands))
                return


@check("inputs", "Is backward right when an operand is overwritten after the call?")
def kept_operands(subject: Subject) -> Iterator[Finding]:
    """What is saved for backward must be protected: autograd's saving raises, a plain attribute is silently wrong."""
    operands = subject.example()
    want = subject.run(operands).flat()
    for place, x in enumerate(operands):
        if not isinstance(x, Tensor) or not x.numel() or x.dtype == torch.bool:
            continue
        made = subject.prepared(operands)
        made = [y * 1.0 if i in subject.predictions else y for i, y in enumerate(made)]
        value = subject.call(subject.instance(subject.dtype), made)
        if not value.requires_grad:
            raise Skipped("there is no gradient")
        with torch.no_grad():
            made[place].copy_(made[place].roll(1, 0) * 0 + made[place].reshape(-1)[0] if made[place].ndim else x)
            if made[place].is_floating_point():
                made[place].mul_(3.0)
        try:
            got = torch.autograd.grad(value.sum(), [made[i] for i in subject.predictions], allow_unused=True)
        except RuntimeError:  # autograd has seen it
            continue
        flat = torch.cat([g.reshape(-1) for g in got if g is not None] or [torch.zeros(0, dtype=want.dtype)])
        if flat.shape == want.shape and bool(((flat - want).abs() > 1e-5 * (1e-3 + want.abs())).any()):
            yield warning(
                f"overwriting {subject.names[place]} between forward and backward "
                "changes the gradient silently; save it by ctx.save_for_backward, which would raise.",
                call_of(subject, operands),
            )


@check("inputs", "Are shapes that do not go together refused?")
def broadcast(subject: Subject) -> Iterator[Finding]:
    """(N, 1) beside (N,): the classic mistake, which trains on an (N, N) table of errors."""
    operands = subject.example()
    place = subject.predictions[0]
    x = operands[place]
    own = [
        i
        for i, y in enumerate(operands)
        if i != place and isinstance(y, Tensor) and y.is_floating_point() and y.shape[:1] == x.shape[:1] and y.ndim
    ]
    if not subject.rows or subject.rows < 2 or not own:
        raise Skipped("no other operand has numbers by rows")
    for i in own:
        y = operands[i]
        if {x.ndim, y.ndim} == {1, 2} and 1 in (*x.shape[1:], *y.shape[1:]):  # the example itself
            if crossed(subject, operands) is not None:
                yield fault(
                    f"{subject.names[place]} {tuple(x.shape)} and {subject.names[i]} "
                    f"{tuple(y.shape)} broadcast: each row is compared with the targets of all.",
                    call_of(subject, operands),
                )
            return
    column = subject.take(operands, list(range(subject.rows)))
    i = own[0]
    if operands[i].shape != x.shape:
        raise Skipped("the operands have different shapes as they are")
    if x.ndim > 1:
        x_ = x.reshape(x.shape[0], -1)[:, :1]
        column = [
            y if not isinstance(y, Tensor) else y.reshape(y.shape[0], -1)[:, :1] if y.ndim > 1 else y for y in column
        ]
        x = x_
    else:
        column = [y.unsqueeze(-1) if isinstance(y, Tensor) and y.shape == x.shape else y for y in column]
    mixed = list(column)
    mixed[i] = column[i].reshape(-1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            right, wrong = subject.value(column), subject.value(mixed)
        except Exception:  # which refuses them
            return
    if told or abs(float(wrong.sum() - right.sum())) <= 1e-9 * abs(float(right.sum())):
        return
    yield warning(
        f"{subject.names[place]} {tuple(column[place].shape)} and {subject.names[i]} "
        f"{tuple(mixed[i].shape)} are taken without a word: they broadcast, the loss is "
        f"{short(float(wrong.sum()))} and not {short(float(right.sum()))}.",
        call_of(subject, mixed),
    )


@check("inputs", "Is a class that there is not refused?")
def target_range(subject: Subject) -> Iterator[Finding]:
    """Indexing takes -1 for the last class, so a label that was left out trains it."""
    place, classes = truth(subject), subject.first.shape[1] if subject.first.ndim > 1 else 0
    if place is None or subject.kinds[place].of != "classes" or one_hot(subject.operands[place], subject.first) is None:
        raise Skipped("no class indices")
    others = subject.example()
    others[place] = (others[place] + 1) % classes
    if close(subject.value(others), subject.value(subject.example())):
        raise Skipped("labels that are only equal or not")
    results = []
    for label in (-1, classes - 1):
        operands = subject.example()
        operands[place] = operands[place].clone()
        operands[place][0] = label
        try:
            results.append((operands, subject.value(operands)))
        except Exception:  # which refuses it, or has no such class
            return
    (operands, last), (_, of_last_class) = results
    if torch.equal(last, of_last_class):
        yield warning("a target of -1 is taken for the last class.", call_of(subject, operands))


@check("inputs", "Are targets of other dtypes taken alike?")
def target_dtypes(subject: Subject) -> Iterator[Finding]:
    """int32 and uint8 indices, integer and bool labels: another result is a fault, a refusal a note."""
    operands = subject.example()
    want = float(subject.value(operands).sum())
    refused = []
    for place, kind in enumerate(subject.kinds):
        x = operands[place]
        if kind.of not in ("classes", "labels") or not isinstance(x, Tensor) or place in subject.predictions:
            continue
        values = set(x.reshape(-1).tolist())
        others = [torch.int32, torch.int64]
        others += [torch.uint8] if min(values, default=0) >= 0 else []
        others += [torch.bool] if values <= {0, 1} and kind.of == "labels" else []
        for dtype in others:
            if dtype == x.dtype:
                continue
            other = put(operands, place, x.to(dtype))
            try:
                got = float(subject.value(other).sum())
            except Exception:  # whatever a loss raises
                refused.append(f"{subject.names[place]} of {str(dtype).removeprefix('torch.')}")
                continue
            if abs(got - want) > 1e-6 * (abs(want) + abs(got)):
                yield fault(
                    f"{subject.names[place]} of {dtype} gives {short(got)}, and {short(want)} as {x.dtype}.",
                    call_of(subject, other),
                )
                return
    if refused:
        yield note(f"refused: {', '.join(refused)}.")
