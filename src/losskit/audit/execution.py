"""How the loss runs: the same each time, without a state, compiled, exported, mapped, pickled, on another device."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losskit.audit.counterexample import call_of, short
from losskit.audit.findings import CHECKS, Finding, Skipped, check, fault, note, warning
from losskit.audit.operands import put
from losskit.audit.subject import Subject, copied, line_of, off, raises, seed
from losskit.loss import Loss


@check("execution", "Does torch.compile take it whole, and give the same?", slow=True)
def compile(subject: Subject) -> Iterator[Finding]:
    """fullgraph=True with the backend "eager": graph breaks and other results are seen, no code is generated."""
    operands = subject.example()
    want = subject.run(operands)
    loss = subject.instance(subject.dtype)
    torch._dynamo.reset()

    def whole(*given: Any) -> Tensor:
        return subject.call(loss, given)

    try:
        compiled = torch.compile(whole, fullgraph=True, backend="eager")
        made = subject.prepared(operands)
        seed()
        value = compiled(*made)
        gradients: Any = []
        if value.requires_grad:
            gradients = torch.autograd.grad(value.sum(), [made[i] for i in subject.predictions], allow_unused=True)
        other = subject.value(subject.take(operands, [*range(subject.rows)][::-1])) if subject.rows > 1 else None
        again = compiled(*subject.take(made, [*range(subject.rows)][::-1])) if other is not None else None
    except Exception as problem:  # whatever the compiler says
        yield warning(
            f"torch.compile(fullgraph=True) fails: {_reason(problem)}", f"torch.compile({subject.text}, fullgraph=True)"
        )
        return
    finally:
        torch._dynamo.reset()
    flat = torch.cat([g.reshape(-1) for g in gradients if g is not None] or [torch.zeros(0, dtype=value.dtype)])
    wrong = other is not None and again is not None and off(again.detach(), other)
    if off(value.detach(), want.value) or (flat.numel() and off(flat, want.flat())) or wrong:
        yield fault("compiled it gives another value or gradient.", call_of(subject, operands))


def _reason(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).split("\n") if line.strip()]
    told = [line for line in lines if line.startswith(("Explanation:", "Graph break", "Unsupported"))]
    return (told[0] if told else lines[0] if lines else type(problem).__name__)[:160]


class _Whole(nn.Module):
    """A call as a module, for export."""

    def __init__(self, subject: Subject, loss: Any) -> None:
        super().__init__()
        self.loss, self.subject = loss, subject

    def forward(self, *operands: Any) -> Tensor:
        return self.subject.call(self.loss, operands)


@check("execution", "Does torch.export take it?", slow=True)
def export(subject: Subject) -> Iterator[Finding]:
    """The exported program must compute the same."""
    operands = subject.example()
    want = subject.value(operands)
    quiet = io.StringIO()  # for the graphs that torch prints where it fails
    try:
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            program = torch.export.export(_Whole(subject, subject.instance(subject.dtype)), tuple(operands))
        got = program.module()(*operands)
    except Exception as problem:  # whatever export says
        yield warning(f"torch.export fails: {_reason(problem)}", f"torch.export.export({subject.text}, ...)")
        return
    if off(got.detach(), want):
        yield fault("exported it gives another value.", call_of(subject, operands))


@check("execution", "Do vmap and torch.func.grad give the same?")
def vmap(subject: Subject) -> Iterator[Finding]:
    """A stack of batches at once, and the gradient as a function."""
    operands = subject.example()
    loss = subject.instance(subject.dtype)
    place = subject.predictions[0]
    others = subject.take(operands, [*range(subject.rows)][::-1]) if subject.rows > 1 else operands
    tensors = [i for i, x in enumerate(operands) if isinstance(x, Tensor)]
    want = torch.stack([subject.value(operands), subject.value(others)])
    dims = tuple(0 if i in tensors else None for i in range(len(operands)))
    stacked = [torch.stack([x, others[i]]) if i in tensors else x for i, x in enumerate(operands)]
    try:
        seed()
        got = torch.vmap(lambda *given: subject.call(loss, given), in_dims=dims)(*stacked)
        if off(got.detach(), want):
            yield fault("under vmap it gives another value.", call_of(subject, operands))
            return
    except Exception as problem:  # whatever a loss raises
        yield warning(f"vmap fails: {line_of(problem)}", call_of(subject, operands))
    try:
        seed()
        slope = torch.func.grad(lambda x: subject.call(loss, put(operands, place, x)).sum())
        got, expected = slope(operands[place]), subject.run(operands).gradients[0]
        if expected is not None and off(got.detach(), expected):
            yield fault("torch.func.grad gives another gradient.", call_of(subject, operands))
    except Exception as problem:  # whatever a loss raises
        yield warning(f"torch.func.grad fails: {line_of(problem)}", call_of(subject, operands))


@check("execution", "Does it run under autocast?")
def autocast(subject: Subject) -> Iterator[Finding]:
    """bfloat16 autocast on the CPU, predictions in float32 and in bfloat16."""
    operands = subject.cast(subject.operands, torch.float32)
    try:
        want = float(subject.run(operands).value.double().sum())
    except Exception:  # `dtypes` tells
        raise Skipped("float32 is refused") from None
    place = subject.predictions[0]
    mixed = put(operands, place, operands[place].bfloat16())
    for told, given in (("float32", operands), ("bfloat16 beside float32", mixed)):
        made = subject.prepared(given)
        try:
            seed()
            with torch.autocast("cpu", torch.bfloat16):
                value = subject.call(subject.instance(torch.float32), made)
            if value.requires_grad:
                value.sum().backward()
        except Exception as problem:  # whatever a loss raises
            if given is mixed and raises(subject, mixed):
                continue  # as without autocast
            yield warning(
                f"under autocast {told} predictions raise {type(problem).__name__}: {line_of(problem)}",
                call_of(subject, given),
            )
            continue
        got = float(value.detach().double().sum())
        if abs(got - want) > 0.1 * (abs(want) + 0.1) or got != got:
            yield warning(
                f"under autocast {told} predictions give {short(got)} and not {short(want)}.", call_of(subject, given)
            )


@check("execution", "Can it be pickled and copied?", shrinks=True)
def pickling(subject: Subject) -> Iterator[Finding]:
    """pickle, deepcopy and torch.save, and the same value after it."""
    operands = subject.example()
    want = subject.value(operands)
    loss = subject.loss
    if not isinstance(loss, nn.Module):
        code = getattr(loss, "__code__", None)
        name = getattr(loss, "__name__", "")
        if name == "<lambda>" or (code is not None and not loss.__closure__ and "<locals>" in loss.__qualname__):
            raise Skipped("a function that is made on the spot has no name to be found by")
    try:
        other = pickle.loads(pickle.dumps(loss))
        torch.save(loss, io.BytesIO())
        copied = copy.deepcopy(loss)
    except Exception as problem:  # whatever pickle says
        text = line_of(problem)
        local = "<locals>" in str(getattr(type(loss), "__qualname__", "")) and isinstance(loss, nn.Module)
        if local and ("local object" in text or "local class" in text) and type(loss).__name__ in text:
            raise Skipped("its class is made within a function") from None
        yield warning(f"it cannot be pickled: {text}", f"pickle.dumps({subject.text})")
        return
    if not isinstance(loss, nn.Module):
        return
    for told, made in (("unpickled", other), ("copied", copied)):
        made = made.to(subject.dtype)
        if off(subject.value(operands, loss=made), want):
            yield fault(f"{told} it gives another value.", call_of(subject, operands))


@check("execution", "Does it follow its operands to another device?")
def devices(subject: Subject) -> Iterator[Finding]:
    """On a GPU where there is one; else on fake tensors of a GPU, which have shapes and a device and no numbers."""
    operands = subject.example()
    loss = subject.instance(subject.dtype)
    if torch.cuda.is_available():
        want = subject.value(operands)
        there = copy.deepcopy(loss).cuda() if isinstance(loss, nn.Module) else loss
        try:
            got = subject.value([x.cuda() if isinstance(x, Tensor) else x for x in operands], loss=there)
        except Exception as problem:  # whatever a loss raises
            yield fault(f"on a GPU it raises {type(problem).__name__}: {line_of(problem)}", call_of(subject, operands))
            return
        if got.device.type != "cuda" or off(got.cpu(), want, 1e-4):
            yield fault(
                f"on a GPU the value is {short(float(got.sum()))} on {got.device}, and "
                f"{short(float(want.sum()))} on the CPU.",
                call_of(subject, operands),
            )
        return
    if not isinstance(loss, nn.Module) and any(one.verdict == "fault" for one in CHECKS["state"].run(subject)):
        # A function has no copy. Would it keep such a tensor, and add it to a real one, Python would be aborted.
        raise Skipped("there is no GPU, and the function keeps something between calls")
    yield from _faked(subject, operands, loss)


def _faked(subject: Subject, operands: Sequence[Any], loss: Any) -> Iterator[Finding]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    there = copied(loss)

    def fake(x: Tensor) -> Tensor:
        with mode:
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")

    try:
        if isinstance(there, nn.Module):
            for part in there.modules():
                for kept in (part._parameters, part._buffers):
                    for name, x in kept.items():
                        if x is not None:
                            kept[name] = fake(x.detach())  # type: ignore[assignment]
        made = [fake(x) if isinstance(x, Tensor) else x for x in operands]
        with mode, torch.no_grad():
            value = subject.call(there, made)
    except Exception as problem:  # whatever a loss raises
        text = str(problem)
        if "two different devices" in text or "same device" in text:
            yield fault(
                "on a GPU it mixes tensors of two devices: something is made on the CPU, "
                "or kept in a plain attribute and not in a buffer.",
                call_of(subject, operands),
            )
            return
        raise Skipped(f"there is no GPU, and without one it cannot be told: {line_of(problem)[:80]}") from None
    if value.device.type != "cuda":
        yield fault(f"for operands on a GPU the result is on {value.device}.", call_of(subject, operands))


@check("execution", "What does it cost?", slow=True)
def cost(subject: Subject) -> Iterator[Finding]:
    """What is kept for backward, how it grows with the rows, and the time; of a declared loss its formula's, too."""
    if not subject.rows or subject.first.numel() > 5000:
        raise Skipped("the loss has no dimension of rows, or the example is large")
    operands = subject.cast(subject.operands, torch.float32)
    times = max(1, 512 // subject.rows)
    small, batch = (subject.take(operands, list(range(subject.rows)) * many) for many in (times, 2 * times))
    before, (kept, seconds) = _measured(subject, small)[0], _measured(subject, batch)
    rows, numbers = subject.rows * 2 * times, sum(x.numel() for x in batch if isinstance(x, Tensor))
    data: dict[str, Any] = {"rows": rows, "seconds": seconds, "saved_bytes": kept, "operand_numbers": numbers}
    if before and kept / before > 3.0 and kept > 2 * rows * rows:
        told = f"memory grows with the square of the rows: {kept / 1e6:.1f} MB are kept for backward at {rows} rows."
        yield note(told, "", **data)
        return
    share = kept / (4 * max(1, numbers))
    told = f"{rows} rows: {seconds * 1e6:.0f} us forward and backward, {share:.1f} times the operands kept"
    if isinstance(subject.loss, Loss):
        # In forward mode losskit's kernels stand aside, and the formula runs.
        with torch.autograd.forward_ad.dual_level():
            data["formula_saved_bytes"], data["formula_seconds"] = _measured(subject, batch)
        share = data["formula_saved_bytes"] / (4 * max(1, numbers))
        told += f"; its formula in torch operations {data['formula_seconds'] * 1e6:.0f} us, {share:.1f} times"
    yield note(f"{told}.", "", **data)


def _measured(subject: Subject, operands: list[Any]) -> tuple[int, float]:
    """The bytes that a call keeps for backward beside its operands, and the median of seconds, forward and backward."""
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    loss, seconds = subject.instance(torch.float32), []
    for number in range(6):
        made = subject.prepared(operands)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x) if not number else contextlib.nullcontext()
        start = time.perf_counter()
        with hooks:
            value = subject.call(loss, made)
        if value.requires_grad:
            value.sum().backward()
        seconds.append(time.perf_counter() - start)
        if not number:
            own = {x.untyped_storage().data_ptr() for x in made if isinstance(x, Tensor)}
            saved = sum(size for where, size in kept.items() if where not in own)
    return saved, statistics.median(seconds[1:])
