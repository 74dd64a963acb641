"""Whether the loss is the same each time: for another call, another mode, another number of threads."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losskit.audit.counterexample import call_of, short
from losskit.audit.coupling import coupled
from losskit.audit.findings import Finding, Skipped, check, fault, note, warning
from losskit.audit.subject import MANY, Subject, copied, line_of, off, raises, seed


@check("execution", "Are two calls with the same operands the same?")
def determinism(subject: Subject) -> Iterator[Finding]:
    """Without a new seed between the calls; and generators of random numbers and torch's settings are left alone."""
    operands = subject.example()
    loss = copied(subject.instance(subject.dtype))
    seed()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    before = _generators()
    values = [subject.call(loss, subject.prepared(operands)).detach() for _ in range(3)]
    after = _generators()
    torch.set_grad_enabled(True)
    call = call_of(subject, operands)
    random_ = any(before[name] != after[name] for name in list(before)[:-3])
    if any(off(values[0], x, 0.0) for x in values[1:]):
        still = random_ and _quiet_in_eval(subject, operands)
        cause = (
            "random numbers are drawn inside" if random_ else "something is kept between calls, or read from outside"
        )
        a, b = (short(float(x.sum())) for x in values[:2])
        told = f"the same call gives {a} and then {b}: {cause}.{' In eval mode it does not.' if still else ''}"
        yield Finding("note" if still else "fault", told, call, {} if random_ else {"unsteady": True})
    elif after != before:
        changed = ", ".join(name for name in before if before[name] != after[name])
        yield fault(f"the call changes {changed}: what runs after it is no longer what it was.", call)


def _quiet_in_eval(subject: Subject, operands: Sequence[Any]) -> bool:
    """Whether random numbers are drawn in training alone."""
    if not isinstance(subject.loss, nn.Module) or (quiet := copied(subject.loss)) is subject.loss:
        return False
    quiet.eval()
    values = [subject.call(quiet, subject.prepared(operands)).detach() for _ in range(2)]
    return not off(values[0], values[1], 0.0)


def _generators() -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    found: dict[str, Any] = {
        "the state of torch's generator": torch.get_rng_state().tolist(),
        "the state of random": random.getstate(),
        "the state of numpy.random": str(numpy.random.get_state()) if numpy is not None else "",
    }
    found["torch's default dtype"] = str(torch.get_default_dtype())
    found["torch's gradient mode"] = str(torch.is_grad_enabled())
    found["the number of threads"] = str(torch.get_num_threads())
    return found


@check("execution", "Does a call leave no trace in the next one?")
def state(subject: Subject) -> Iterator[Finding]:
    """The loss of A, then of another batch, then of A again; in training and after copies."""
    operands = subject.example()
    loss = subject.instance(subject.dtype)
    loss = copied(loss)
    other = [
        torch.flip(x, [subject.axes[i] or 0]) * (0.5 if subject.kinds[i].domain.everything else 1)
        if isinstance(x, Tensor) and x.ndim and x.is_floating_point() and subject.axes[i] is not None
        else x
        for i, x in enumerate(operands)
    ]
    for i, kind in enumerate(subject.kinds):
        if kind.of in ("classes", "labels") and subject.axes[i] is not None:
            other[i] = operands[i].flip(subject.axes[i] or 0)
    batches = [operands, other, operands]
    if subject.rows > 2:
        batches[2:2] = [subject.take(operands, [0, 1])]
    found = []
    for batch in batches:
        seed()
        try:
            value = subject.call(loss, subject.prepared(batch))
        except Exception as problem:  # whatever a loss raises
            if batch is operands or batch is other:
                yield fault(
                    f"after another batch the loss raises {type(problem).__name__}: {line_of(problem)}",
                    call_of(subject, operands),
                )
                return
            alone = raises(subject, batch)
            if not alone:
                yield fault(
                    f"after a larger batch a smaller one raises {type(problem).__name__}: {line_of(problem)}",
                    call_of(subject, batch),
                )
                return
            continue
        if batch is not other and value.requires_grad:
            try:
                value.sum().backward()
            except Exception as problem:  # whatever a loss raises
                yield fault(
                    f"backward after another call raises {type(problem).__name__}: {line_of(problem)}",
                    call_of(subject, batch),
                )
                return
        found.append((batch, value.detach()))
    values = [value for batch, value in found if batch is operands]
    if len(values) > 1 and off(values[0], values[-1], 1e-9):
        yield fault(
            f"the same batch has the loss {short(float(values[0].sum()))}, and "
            f"{short(float(values[-1].sum()))} after another one: the loss remembers.",
            call_of(subject, operands),
        )
        return
    fresh = subject.value(other)
    middle = next((value for batch, value in found if batch is other), None)
    if middle is not None and off(fresh, middle, 1e-9):
        yield fault(
            f"a batch has the loss {short(float(fresh.sum()))}, and after another one "
            f"{short(float(middle.sum()))}: the loss remembers.",
            call_of(subject, other),
        )


@check("execution", "Is the value the same without a gradient, in eval mode, and in inference mode?")
def modes(subject: Subject) -> Iterator[Finding]:
    """no_grad, inference_mode and module.eval() must not change what the loss is."""
    operands = subject.example()
    want = subject.run(operands).value
    made = [x.detach().clone() if isinstance(x, Tensor) else x for x in operands]
    for told, mode in (("under no_grad", torch.no_grad), ("under inference_mode", torch.inference_mode)):
        with mode():
            seed()
            try:
                got = subject.call(subject.instance(subject.dtype), [copy.copy(x) for x in made])
            except Exception as problem:  # whatever a loss raises
                yield warning(
                    f"{told} the loss raises {type(problem).__name__}: {line_of(problem)}", call_of(subject, operands)
                )
                continue
        if off(got, want):
            yield fault(
                f"{told} the value is {short(float(got.sum()))}, else {short(float(want.sum()))}.",
                call_of(subject, operands),
            )
            return
    if isinstance(subject.loss, nn.Module) and (quiet := copied(subject.instance(subject.dtype))) is not subject.loss:
        got = subject.value(operands, loss=quiet.eval())
        if off(got, want):
            yield warning(
                f"in eval mode the value is {short(float(got.sum()))}, in training {short(float(want.sum()))}.",
                call_of(subject, operands),
            )


@check("execution", "Does the number of threads not matter?", slow=True)
def threads(subject: Subject) -> Iterator[Finding]:
    """One thread against two, on many rows."""
    if not subject.rows:
        raise Skipped("the loss has no dimension of rows")
    operands = subject.cast(subject.operands, torch.float32)
    fewer = 1 if coupled(subject, subject.example()) is None else 20  # memory may grow with the square of the rows
    times = max(1, min(2000, MANY // max(1, subject.first.numel()) // fewer))
    many = subject.take(operands, list(range(subject.rows)) * times)
    before = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(subject.run(many))
    finally:
        torch.set_num_threads(before)
    a, b = found
    if off(a.value, b.value, 1e-4) or (a.flat().numel() and off(a.flat(), b.flat(), 1e-3)):
        yield fault(
            f"with one thread the value is {short(float(a.value.sum()))}, with two {short(float(b.value.sum()))}."
        )
    elif not torch.equal(a.value, b.value) or not torch.equal(a.flat(), b.flat()):
        yield note("with two threads the last bits differ from those of one.")
