"""NaN, overflow and lost digits: over magnitudes and dtypes, at ties, zeros and the ends of domains.

A result in a dtype is compared with float64's at the very same numbers. What rounding of the operands alone would
change is allowed for: it is measured, by moving them by one rounding error in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.audit.counterexample import call_of, short, smallest
from losskit.audit.findings import Finding, Skipped, check, fault, note, passed, warning
from losskit.audit.operands import Kind, one_hot, put
from losskit.audit.points import aligned, at_scale, signs_of, ties, truth
from losskit.audit.subject import Result, Subject
from losskit.domains import Interval

SCALES = (1e-30, 1e-20, 1e-10, 1e-5, 1e-3, 1e-2, 0.1, 1.0, 5.0, 12.0, 20.0, 40.0, 100.0, 1e3, 1e4, 1e10, 1e20, 1e30)
NOTHING, ONE_SIDED = "a target of zeros", "all labels"
ORDINARY = 100.0  # what predictions reach in training
HALVES = (torch.float16, torch.bfloat16)
LOST = {torch.float32: 1000.0, torch.float16: 64.0, torch.bfloat16: 64.0}  # rounding errors that are too many
LETTERS = {"ok": ".", "digits": "d", "overflow": "o", "vanish": "0", "nan": "N", "raises": "x", "beyond": " "}


@check("numbers", "Are value and gradient right at every magnitude, in every dtype?", shrinks=True)
def scales(subject: Subject) -> Iterator[Finding]:
    """The map of where: for each dtype and magnitude ok, lost digits, overflow, NaN."""
    if subject.first.numel() > 5000:
        raise Skipped("the example has more than 5000 numbers")
    maps: dict[str, str] = {}
    worst: dict[tuple[str, str], tuple[float, torch.dtype, list[Any], str, str]] = {}
    dtypes = [torch.float64, torch.float32, *HALVES]
    for dtype in dtypes:
        if not _computes(subject, dtype):
            continue
        row = ""
        for size in SCALES:
            found = "beyond"
            for told, operands in _at(subject, size, dtype):
                state, said = judge(subject, operands, dtype)
                if _worse(state, found):
                    found = state
                if state not in ("ok", "beyond"):
                    far = size > ORDINARY or size < 1e-3 or dtype in HALVES
                    level = "warning" if far or state in ("digits", "vanish") else "fault"
                    key = (state, level)
                    if key not in worst or abs(math.log10(size)) < abs(math.log10(worst[key][0])):
                        worst[key] = (size, dtype, operands, told, said)
            row += LETTERS[found]
        maps[str(dtype).removeprefix("torch.")] = row
    seen = set()
    for (state, level), (_size, dtype, operands, told, _said) in sorted(worst.items(), key=lambda x: x[0][1]):
        if state in seen or (state == "overflow" and "nan" in seen):
            continue
        seen.add(state)
        small = smallest(subject, operands, _still(subject, state, dtype))
        sentence = judge(subject, small, dtype)[1]
        yield Finding(
            level,
            f"{str(dtype).removeprefix('torch.')}, {told}: {sentence}",
            call_of(subject, small),
            {"map": maps, "scales": SCALES},
        )
    if not seen:
        yield passed("value and gradient hold at all magnitudes.", map=maps, scales=SCALES)


def _still(subject: Subject, state: str, dtype: torch.dtype) -> Callable[[list[Any]], bool]:
    """Whether other operands show the same."""

    def shown(operands: list[Any]) -> bool:
        return judge(subject, operands, dtype)[0] == state

    return shown


def _worse(a: str, b: str) -> bool:
    order = ["beyond", "ok", "digits", "vanish", "overflow", "raises", "nan"]
    return order.index(a) > order.index(b)


def _computes(subject: Subject, dtype: torch.dtype) -> bool:
    """Whether the loss takes the dtype; `dtypes` tells of those that it does not take."""
    try:
        subject.run(subject.cast(subject.operands, dtype))
        return True
    except Exception:  # whatever a loss raises
        return False


def _at(subject: Subject, size: float, dtype: torch.dtype) -> Iterator[tuple[str, list[Any]]]:
    """Predictions of a magnitude in a dtype: the example's, and right and wrong ones."""
    if size > 0.01 * torch.finfo(dtype).max or (size < torch.finfo(dtype).tiny and dtype != torch.float64):
        return
    example = subject.cast(subject.operands, torch.float64)
    yield f"predictions times {size:g}", subject.cast(at_scale(subject, example, size), dtype)
    place = subject.predictions[0]
    if ORDINARY <= size <= 1e4 and subject.kinds[place].domain.everything:
        moved = put(example, place, example[place] + size)
        yield f"predictions plus {size:g}", subject.cast(moved, dtype)
    for right in (True, False):
        found = aligned(subject, example, size, right) if 0.5 < size <= 1e10 else None
        if found is not None:
            yield f"{'right' if right else 'wrong'} predictions of about {size:g}", subject.cast(found, dtype)


def judge(subject: Subject, operands: Sequence[Any], dtype: torch.dtype) -> tuple[str, str]:
    """How a call in a dtype compares with float64 at the same numbers: a state and a sentence."""
    if not _allowed(subject, operands):
        return "beyond", ""
    got = subject.run(operands)
    if dtype == torch.float64 or subject.dtype != torch.float64:
        return _alone(got, operands)
    exact = subject.cast(operands, torch.float64)
    want = subject.run(exact)
    a, b = got.value.double().reshape(-1), want.value.reshape(-1)
    ga, gb = got.flat().double(), want.flat()
    if a.shape != b.shape or ga.shape != gb.shape:
        return "ok", ""
    limit = torch.finfo(dtype).max
    for what, x, y in (("value", a, b), ("gradient", ga, gb)):
        bad = x.isnan() & y.isfinite() & (y.abs() < limit)
        if bool(bad.any()):
            i = int(bad.int().argmax())
            return "nan", f"the {what} is NaN where float64 has {short(float(y[i]))}."
    for what, x, y in (("value", a, b), ("gradient", ga, gb)):
        bad = x.isinf() & y.isfinite() & (y.abs() < 0.5 * limit / subject.first.numel())
        if bool(bad.any()):
            i = int(bad.int().argmax())
            return "overflow", f"the {what} is {short(float(x[i]))} where float64 has {short(float(y[i]))}."
    state, said = _alone(want, exact)
    if state != "ok":
        return state, said
    return _digits(subject, exact, dtype, (a, b), (ga, gb))


def _digits(
    subject: Subject, exact: list[Any], dtype: torch.dtype, value: tuple[Tensor, Tensor], slope: tuple[Tensor, Tensor]
) -> tuple[str, str]:
    """Whether more digits are lost than the rounding of operands costs."""
    eps, tiny, limit = (getattr(torch.finfo(dtype), what) for what in ("eps", "tiny", "max"))
    factor, errors, rooms = LOST[dtype], [], []
    for x, y in (value, slope):
        errors.append(torch.where(x.isfinite() & y.isfinite() & (y.abs() < 0.5 * limit), (x - y).abs(), 0.0))
        # A gradient is as right as the row's largest entry; the sum of a row's gradients may cancel.
        rooms.append(factor * eps * y.abs() + 4 * tiny)
    if all(bool((e <= r).all()) for e, r in zip(errors, rooms, strict=True)):
        return "ok", ""
    spread = [torch.zeros_like(value[1]), torch.zeros_like(slope[1])]
    generator = torch.Generator().manual_seed(1)
    for _ in range(4):
        moved = [
            _moved(x, eps, generator, i in subject.predictions) if i in _floats(subject) else x
            for i, x in enumerate(exact)
        ]
        other = subject.run(moved)
        for k, (y, base) in enumerate(((other.value.reshape(-1), value[1]), (other.flat(), slope[1]))):
            if y.shape == base.shape:
                spread[k] = torch.maximum(spread[k], (y - base).abs().nan_to_num(float("inf")))
    for what, e, room, s, (x, y) in zip(("value", "gradient"), errors, rooms, spread, (value, slope), strict=True):
        bad = e > room + factor * s
        if bool(bad.any()):
            i = int(torch.where(bad, e / (y.abs() + tiny), 0.0).argmax())
            if float(x[i]) == 0.0 and what == "gradient":
                return "vanish", f"the gradient is 0 where float64 has {short(float(y[i]))}."
            return "digits", f"the {what} is {short(float(x[i]))} where float64 has {short(float(y[i]))}."
    return "ok", ""


def _floats(subject: Subject) -> list[int]:
    return [i for i, kind in enumerate(subject.kinds) if kind.of == "float"]


def _moved(x: Tensor, eps: float, generator: torch.Generator, prediction: bool) -> Tensor:
    """Numbers off by up to one rounding; labels of 0 and 1 are exact."""
    other = x * (1.0 + eps * (2.0 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1.0))
    return other if prediction else torch.where(x == 1.0, x, other)


def _alone(got: Result, operands: Sequence[Any]) -> tuple[str, str]:
    """What is wrong without anything to compare with: NaN from finite numbers."""
    if bool(got.value.isnan().any()):
        return "nan", "the value is NaN."
    if bool(got.value.isfinite().all()) and bool(got.flat().isnan().any()):
        return "nan", f"the gradient is NaN where the value is {short(float(got.value.sum()))}."
    return "ok", ""


def _allowed(subject: Subject, operands: Sequence[Any]) -> bool:
    """Whether the numbers are finite and in their domains, as they are rounded."""
    for x, kind in zip(operands, subject.kinds, strict=True):
        floats = isinstance(x, Tensor) and x.is_floating_point()
        if floats and (not bool(x.isfinite().all()) or bool(kind.domain.outside(x).any())):
            return False
    return True


@check("numbers", "Is nothing NaN at ties, zeros and the ends of what is allowed?", shrinks=True)
def special_points(subject: Subject) -> Iterator[Finding]:
    """Predictions that equal the target, zeros, equal numbers, probabilities of exactly 0 and 1."""
    for dtype in dict.fromkeys((torch.float32, subject.dtype, *HALVES)):
        if not _computes(subject, dtype):
            continue
        for told, operands in _special(subject, dtype):
            try:
                state, said = judge(subject, operands, dtype)
                if state not in ("nan", "overflow"):
                    continue
                got = subject.run(operands)
            except Exception as problem:  # whatever a loss raises
                if not isinstance(problem, ValueError | IndexError):
                    text = str(problem).strip().split("\n")[0][:100]
                    call = call_of(subject, operands)
                    yield warning(f"{told}: the loss raises {type(problem).__name__}: {text}.", call)
                    return
                continue
            nothing = told == NOTHING or told.startswith(ONE_SIDED)
            if nothing and bool(got.value.isnan().any()) and not bool(got.flat().any()):
                call = call_of(subject, operands)
                yield note(f"{told}: the loss is NaN and its gradient 0, as of a mean over nothing.", call)
                continue
            small = smallest(subject, operands, _still(subject, state, dtype))
            name = str(dtype).removeprefix("torch.")
            said = judge(subject, small, dtype)[1] or said
            yield Finding("warning" if dtype in HALVES else "fault", f"{name}, {told}: {said}", call_of(subject, small))
            return


def _special(subject: Subject, dtype: torch.dtype) -> Iterator[tuple[str, list[Any]]]:
    example = subject.cast(subject.operands, dtype)
    place = subject.predictions[0]
    x, kind = example[place], subject.kinds[place]
    tied = ties(subject, example)
    if tied is not None:
        yield "predictions equal to the target", tied
    for other in subject.predictions[1:]:
        if example[other].shape == x.shape and subject.kinds[other].domain == kind.domain:
            yield (
                f"{subject.names[other]} equal to {subject.names[place]}",
                put(example, other, x.clone()),
            )
    for other, own in enumerate(subject.kinds):
        if other != place and isinstance(example[other], Tensor):
            for told, y in _other(example[other], own):
                yield told.format(subject.names[other]), put(example, other, y)
    yield from _one_sided(subject, example)
    if kind.normalized is not None:
        return
    for value, told in ((0.0, "predictions of 0"), (1.0, "predictions of 1"), (-1.0, "predictions of -1")):
        yield told, put(example, place, torch.full_like(x, value))
    if x.ndim > 1:
        alone = torch.zeros_like(x).scatter(1, x.abs().argmax(1, keepdim=True), 1.0)
        yield "rows of which one number is not 0", put(example, place, alone)
    if x.ndim:
        partly = x.clone()
        partly[(0,) if x.ndim == 1 else (slice(None), 0)] = 0.0
        yield "some predictions of 0", put(example, place, partly)
    numbers = [i for i, own in enumerate(subject.kinds) if own.of == "float" and own.domain.everything]
    if place in numbers and len(numbers) > 1:
        yield "all numbers 0", [torch.zeros_like(y) if i in numbers else y for i, y in enumerate(example)]
    domain = kind.domain
    if isinstance(domain, Interval) and (domain.low, domain.high) == (0.0, 1.0):
        towards = signs_of(subject, example)
        if towards is not None:
            for sign, told in ((1.0, "probabilities that are exactly right"), (-1.0, "exactly wrong probabilities")):
                yield told, put(example, place, (towards * sign > 0).to(dtype))
        elif x.ndim > 1:
            hot = one_hot(x.argmax(1 if x.ndim > 1 else 0), x)
            if hot is not None:
                yield "probabilities of exactly 0 and 1", put(example, place, hot.to(dtype))


def _one_sided(subject: Subject, example: list[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Labels of one kind alone, and predictions that are sure of them: what is divided by may be 0."""
    place = truth(subject)
    sure = aligned(subject, example, 200.0, True)
    if place is None or sure is None or judge(subject, sure, subject.dtype)[0] != "ok":
        return  # or they fail whatever the labels are, as `scales` tells
    y = example[place]
    values = [0, 1] if one_hot(y, subject.first) is None and set(y.reshape(-1).tolist()) <= {0, 1} else [0]
    for value in values:
        if value == 0 and float(y.min()) < 0:
            continue
        only = put(example, place, torch.full_like(y, value))
        found = aligned(subject, only, 200.0, True)
        if found is not None:
            yield f"{ONE_SIDED} {value}, and predictions that are sure of it", found


def _other(y: Tensor, kind: Kind) -> Iterator[tuple[str, Tensor]]:
    """A target with nothing in it, with all, and in part."""
    if kind.of == "labels" and set(y.reshape(-1).tolist()) <= {0, 1}:
        yield NOTHING, torch.zeros_like(y)
        yield "all labels set", torch.ones_like(y)
    if kind.of != "float" or kind.normalized is not None or not y.ndim:
        return
    if y.ndim > 1 and bool(((y.sum(-1) - 1.0).abs() < 1e-2).all()) and bool((y >= 0).all()):  # a distribution
        yield "{} that is certain", torch.zeros_like(y).scatter(-1, y.argmax(-1, keepdim=True), 1.0)
        return
    some = y.clone()
    some.reshape(-1)[::2] = 0.0
    yield "some {} of 0", some
    yield NOTHING if kind.domain.includes(0.0) and not kind.domain.includes(-1.0) else "{} of 0", torch.zeros_like(y)


@check("numbers", "Does each dtype give a result of its own dtype?")
def dtypes(subject: Subject) -> Iterator[Finding]:
    """float64, float32 and the halves: what is taken, what comes back, and how right it is at ordinary numbers."""
    want = None
    for dtype in (torch.float64, torch.float32, *HALVES):
        operands = subject.cast(subject.operands, dtype)
        name = str(dtype).removeprefix("torch.")
        try:
            got = subject.run(operands)
        except Exception as problem:  # whatever a loss raises
            text = str(problem).strip().split("\n")[0][:120]
            yield warning(f"{name} is refused: {type(problem).__name__}: {text}", call_of(subject, operands))
            continue
        if dtype == torch.float64:
            want = got.value
            if got.value.dtype != torch.float64:
                yield warning(f"float64 operands give {_told(got.value)}: digits are lost.", call_of(subject, operands))
        elif dtype == torch.float32 and got.value.dtype != torch.float32:
            yield fault(f"float32 operands give {_told(got.value)}.", call_of(subject, operands))
        elif got.value.dtype == torch.float64:
            yield fault(f"{name} operands give float64.", call_of(subject, operands))
        elif got.value.dtype != dtype:
            yield note(f"{name} operands give {_told(got.value)}.", call_of(subject, operands))
        same = want is not None and got.value.shape == want.shape and bool(want.isfinite().all())
        if want is not None and same and not bool(got.value.isfinite().all()):
            a, b = short(float(got.value.sum())), short(float(want.sum()))
            yield warning(f"{name}: the value is {a} where float64 has {b}.", call_of(subject, operands))


def _told(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


@check("numbers", "Does a NaN in the predictions show in the result?")
def nan_in(subject: Subject) -> Iterator[Finding]:
    """A NaN that is swallowed hides a broken model."""
    operands = subject.example()
    place = subject.predictions[0]
    x = operands[place].clone()
    x.view(-1)[: max(1, x[0].numel() if x.ndim > 1 else 1)] = float("nan")
    operands[place] = x
    try:
        got = subject.run(operands)
    except Exception:  # which refuses NaN
        return
    if not bool(got.value.isnan().any()):
        yield warning(
            f"a row of NaN in {subject.names[place]} gives {short(float(got.value.sum()))} and not NaN.",
            call_of(subject, operands),
        )
