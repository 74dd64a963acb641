"""Measured facts against declared ones, and a declaration's worked cases.

A fact is refuted by a point: a chord that the value lies above, a gradient steeper than the constant, a value below the
minimum. What is not refuted is believed, and said to be measured, not proven. Facts speak of the unreduced loss as a
function of its first prediction.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.audit.counterexample import call_of, short, smallest
from losskit.audit.findings import Finding, Skipped, check, fault, note, passed
from losskit.audit.operands import put, scaled
from losskit.audit.points import aligned, at_scale, ties
from losskit.audit.subject import Subject
from losskit.domains import Interval
from losskit.facts import Facts

SIZES = (0.01, 0.3, 1.0, 3.0, 10.0, 30.0)
DRAWS = 6
DIGITS = 2e-5  # cases are written with six digits


def samples(subject: Subject, generator: torch.Generator) -> Iterator[list[Any]]:
    """Operands with other predictions, at several magnitudes."""
    example = subject.example()
    place = subject.predictions[0]
    x, kind = example[place], subject.kinds[place]
    for size in SIZES:
        for _ in range(DRAWS):
            if kind.normalized is not None:
                moved = (torch.randn(x.shape, generator=generator, dtype=x.dtype) * size).log_softmax(kind.normalized)
            elif kind.domain.everything:
                moved = torch.randn(x.shape, generator=generator, dtype=x.dtype) * size
            elif isinstance(kind.domain, Interval) and math.isinf(kind.domain.high):
                moved = kind.domain.low + torch.rand(x.shape, generator=generator, dtype=x.dtype) * size + 1e-6
            else:
                moved = torch.rand(x.shape, generator=generator, dtype=x.dtype) * 0.998 + 0.001
            yield put(example, place, moved)


def measured(subject: Subject) -> dict[str, Any]:
    """What sampling says: not convex, with the chord; the steepest gradient; the smallest value; symmetric or not."""
    generator = torch.Generator().manual_seed(11)
    found: dict[str, Any] = {"convex": True, "steepest": 0.0, "smallest": math.inf, "where": {}}
    place = subject.predictions[0]
    drawn = list(samples(subject, generator))
    for i, operands in enumerate(drawn):
        got = subject.run(operands)
        value, gradient = got.value, got.gradients[0]
        if gradient is not None and float(gradient.abs().max()) > found["steepest"]:
            found["steepest"], found["where"]["steepest"] = float(gradient.abs().max()), operands
        if float(value.min()) < found["smallest"]:
            found["smallest"], found["where"]["smallest"] = float(value.min()), operands
        other = drawn[(i * 7 + 3) % len(drawn)]
        for share in (0.5, 0.2):
            above = _above(subject, operands, other[place], share)
            if above > 0.0 and found["convex"]:
                found["convex"], found["where"]["convex"] = False, (operands, other[place], share)
    return found


def _above(subject: Subject, operands: Sequence[Any], other: Tensor, share: float) -> float:
    """By how much the value lies above a chord, entry by entry, beyond rounding."""
    place = subject.predictions[0]
    x = operands[place]
    ends = [subject.value(put(operands, place, y)) for y in (x, other)]
    middle = subject.value(put(operands, place, share * x + (1 - share) * other))
    chord = share * ends[0] + (1 - share) * ends[1]
    excess = middle - chord - 1e-9 * (1e-3 + ends[0].abs() + ends[1].abs())
    return float(excess.max()) if bool(excess.isfinite().all()) else -1.0


@check("facts", "Are the declared facts true?", shrinks=True)
def facts(subject: Subject) -> Iterator[Finding]:
    """convex, smooth, lipschitz, minimum, symmetric and robust: each is refuted by a point, or believed."""
    none = subject.unreduced
    if subject.dtype != torch.float64:
        raise Skipped("the loss does not compute in float64")
    if subject.first.numel() > 500:
        raise Skipped("the example has more than 500 numbers")
    declared = subject.facts
    try:
        found = measured(none)
    except ValueError as problem:
        raise Skipped(f"its values cannot be sampled: {str(problem)[:80]}") from None
    if declared is None:
        yield note(f"measured, none declared: {_told(found)}.", "", **_data(found))
        return
    where = found["where"]
    before = 0
    for finding in (_convex, _lipschitz, _minimum, _symmetric, _smooth, _understated):
        for one in finding(none, declared, found, where):
            before += 1
            yield one
    if not before:
        yield passed(f"measured: {_told(found)}.", **_data(found))


def _told(found: dict[str, Any]) -> str:
    convex = "no chord below the value was found" if found["convex"] else "not convex"
    return f"{convex}, values from {short(found['smallest'])} on, gradients up to {short(found['steepest'])}"


def _data(found: dict[str, Any]) -> dict[str, Any]:
    return {key: found[key] for key in ("convex", "steepest", "smallest")}


def _convex(subject: Subject, declared: Facts, found: dict[str, Any], where: dict[str, Any]) -> Iterator[Finding]:
    first = subject.names[subject.predictions[0]]
    if declared.convex is False or (isinstance(declared.convex, str) and declared.convex != first):
        return
    if not found["convex"]:
        operands, other, share = where["convex"]
        place = subject.predictions[0]
        for i in range(subject.rows):
            a = subject.take(operands, [i])
            b = subject.take(put(operands, place, other), [i])[place]
            if _above(subject, a, b, share) > 0.0:
                operands, other = a, b
                break
        middle = put(operands, place, share * operands[place] + (1 - share) * other)
        yield fault(
            f"declared convex, but the value at {share:g} a + {1 - share:g} b is above the "
            f"chord: {short(float(subject.value(middle).sum()))} there.",
            call_of(subject, middle),
            a=operands[place].tolist(),
            b=other.tolist(),
            share=share,
        )


def _numbers(subject: Subject) -> dict[str, float]:
    cls: Any = subject.declared
    source = subject.loss
    found = {}
    for name in getattr(cls, "params", {}):
        x = getattr(source, name, None)
        if isinstance(x, int | float):
            found[name] = float(x)
    return found


def _lipschitz(subject: Subject, declared: Facts, found: dict[str, Any], where: dict[str, Any]) -> Iterator[Finding]:
    try:
        limit = declared.steepest(_numbers(subject))
    except Exception:  # parameters that are tensors
        return
    if limit is None:
        return
    steepest, operands = found["steepest"], where.get("steepest")
    far = at_scale(subject, subject.example(), 1e4)
    gradient = subject.run(far).gradients[0]
    if gradient is not None and bool(gradient.isfinite().all()) and float(gradient.abs().max()) > steepest:
        steepest, operands = float(gradient.abs().max()), far
    if steepest > limit * (1 + 1e-6) + 1e-9 and operands is not None:
        small = smallest(subject, operands, lambda c: float(subject.run(c).flat().abs().max()) > limit * (1 + 1e-6))
        steepest = float(subject.run(small).flat().abs().max())
        yield fault(
            f"declared lipschitz={declared.lipschitz!r}, which is {short(limit)}, but a gradient is {short(steepest)}.",
            call_of(subject, small),
        )


def _minimum(subject: Subject, declared: Facts, found: dict[str, Any], where: dict[str, Any]) -> Iterator[Finding]:
    claim = declared.minimum
    if claim is None:
        return
    if found["smallest"] < claim - 1e-9 * (1.0 + abs(claim)):
        small = smallest(subject, where["smallest"], lambda c: float(subject.value(c).min()) < claim - 1e-9)
        yield fault(
            f"declared minimum={claim:g}, but a value is {short(float(subject.value(small).min()))}.",
            call_of(subject, small),
        )
        return
    tied = ties(subject, subject.example())
    if tied is not None and len(subject.operands) == 2 and declared.symmetric:
        each = subject.value(tied)
        if each.shape != subject.first.shape:  # of rows or batches: the smallest loss may be elsewhere
            return
        at = float(each.min())
        if at > claim + 1e-6 and at <= found["smallest"] + 1e-9:
            yield fault(
                f"declared minimum={claim:g}, but predictions that equal their targets have "
                f"the loss {short(at)}, and no smaller one was found.",
                call_of(subject, tied),
            )


def _symmetric(subject: Subject, declared: Facts, found: dict[str, Any], where: dict[str, Any]) -> Iterator[Finding]:
    place = subject.predictions[0]
    others = [
        i
        for i, x in enumerate(subject.operands)
        if i != place and isinstance(x, Tensor) and x.shape == subject.first.shape and subject.kinds[i].of == "float"
    ]
    other = next((i for i in others if subject.names[i] == "target"), others[0] if others else None)
    if other is None or not declared.symmetric or subject.kinds[other].domain != subject.kinds[place].domain:
        return
    operands = subject.example()

    def apart(c: Sequence[Any]) -> bool:
        swapped = list(c)
        swapped[place], swapped[other] = c[other], c[place]
        a, b = subject.value(c).sum(), subject.value(swapped).sum()
        return bool((a - b).abs() > 1e-9 * (1e-3 + a.abs()))

    if apart(operands):
        small = smallest(subject, operands, apart)
        yield fault(
            f"declared symmetric, but exchanging {subject.names[place]} and {subject.names[other]} changes the loss.",
            call_of(subject, small),
        )


def _smooth(subject: Subject, declared: Facts, found: dict[str, Any], where: dict[str, Any]) -> Iterator[Finding]:
    if not declared.smooth:
        return
    place = subject.predictions[0]
    generator = torch.Generator().manual_seed(7)
    drawn = list(samples(subject, generator))
    for operands in drawn[:: max(1, len(drawn) // 8)]:
        other = drawn[-1][place] if operands is not drawn[-1] else drawn[0][place]
        jump = _jump(subject, operands, operands[place], other)
        if jump is not None:
            at, size = jump
            yield fault(
                f"declared smooth, but the gradient jumps by {short(size)}.",
                call_of(subject, put(operands, place, at)),
            )
            return


def _understated(subject: Subject, declared: Facts, found: dict[str, Any], where: dict[str, Any]) -> Iterator[Finding]:
    """What is declared false, or unbounded, and was found to be otherwise on all samples of single elements."""
    if len(subject.operands) != 2 or subject.value(subject.example()).shape != subject.first.shape:
        return  # of rows, batches and further operands, samples say too little
    if declared.convex is False and found["convex"]:
        yield note("declared not convex, but no value above a chord was found.")
    sizes = [_steepest_at(subject, size) for size in (1e2, 1e5)]
    limit = None
    with contextlib.suppress(Exception):  # parameters that are tensors
        limit = declared.steepest(_numbers(subject))
    steepest = max(found["steepest"], *sizes)
    if declared.lipschitz is None and sizes[1] <= 1.01 * sizes[0] and steepest < 1e3:
        yield note(f"declared with an unbounded gradient, but none above {short(steepest)} was found.")
    if limit is not None and steepest < 0.5 * limit:
        yield note(f"declared lipschitz={declared.lipschitz!r}, but no gradient above {short(steepest)} was found.")


def _steepest_at(subject: Subject, size: float) -> float:
    """The largest gradient where predictions are of a size, right or wrong."""
    example, place = subject.example(), subject.predictions[0]
    batches = [at_scale(subject, example, size), aligned(subject, example, size, False)]
    for factor in (1e-4, 1e4):  # and other targets
        other = [
            x if i == place else scaled(x, kind, factor)
            for i, (x, kind) in enumerate(zip(example, subject.kinds, strict=True))
            if isinstance(x, Tensor)
        ]
        batches.append(other if subject.kinds[1 - place].domain.everything else None)
    gradients = [subject.run(batch).gradients[0] for batch in batches if batch is not None]
    return max((float(g.nan_to_num(0.0).abs().max()) for g in gradients if g is not None), default=0.0)


def _jump(subject: Subject, operands: Sequence[Any], a: Tensor, b: Tensor) -> tuple[Tensor, float] | None:
    """A jump of the gradient between two predictions: the part with the largest change is halved, again and again."""
    place = subject.predictions[0]

    def slope(x: Tensor) -> Tensor:
        g = subject.run(put(operands, place, x)).gradients[0]
        return torch.zeros_like(a) if g is None else g

    low, high = 0.0, 1.0
    steps = [k / 16 for k in range(17)]
    slopes = [slope(a + t * (b - a)) for t in steps]
    if not all(bool(s.isfinite().all()) for s in slopes):
        return None
    scale = max(float(s.abs().max()) for s in slopes) + 1e-12
    second = [float((slopes[k + 1] - slopes[k]).abs().max()) for k in range(16)]
    k = second.index(max(second))
    low, high, left, right = steps[k], steps[k + 1], slopes[k], slopes[k + 1]
    for _ in range(40):
        middle = (low + high) / 2
        centre = slope(a + middle * (b - a))
        if float((centre - left).abs().max()) >= float((right - centre).abs().max()):
            high, right = middle, centre
        else:
            low, left = middle, centre
    size = float((right - left).abs().max())
    return (a + low * (b - a), size) if size > 1e-5 * scale else None


@check("facts", "Do the worked cases of a declaration hold?", shrinks=True)
def cases(subject: Subject) -> Iterator[Finding]:
    """Value and gradient of each case, as it is declared."""
    cls: Any = subject.declared
    if cls is None or type(subject.loss) is not cls or not cls.cases:
        raise Skipped("no cases are declared")
    for case in cls.cases:
        names = cls._call_operands()
        arguments = {k: _tensor(x) if k in names else x for k, x in case.arguments.items()}
        for name, p in cls.params.items():
            if p.kind == "tensor" and name in arguments and not isinstance(arguments[name], Tensor):
                arguments[name] = _tensor(arguments[name])
        first = names[0]
        if not isinstance(arguments.get(first), Tensor):
            continue
        x = arguments[first].requires_grad_()
        more = {} if "reduction" in arguments else {"reduction": "sum"}
        try:
            value = cls.functional(**{**arguments, first: x}, **more).sum()
        except IndexError:  # a loss of rows, whose case is one number
            rows = {k: a[None] if isinstance(a, Tensor) and not a.ndim else a for k, a in arguments.items()}
            value = cls.functional(**{**rows, first: x[None]}, **more).sum()
        if abs(float(value) - case.value) > DIGITS * (1.0 + abs(case.value)):
            yield fault(
                f"the case {case.source!r} says {case.value:g}, and the loss is {short(float(value))}.",
                f"{cls.__name__}: {case.arguments}",
            )
            continue
        if case.grad is not None:
            (g,) = torch.autograd.grad(value, x, allow_unused=True)
            want = torch.as_tensor(case.grad, dtype=torch.float64).expand(x.shape)
            if g is not None and bool(((g - want).abs() > DIGITS * (1.0 + want.abs().max())).any()):
                yield fault(
                    f"the case {case.source!r} says that the gradient is {case.grad}, and it is {g.tolist()}.",
                    f"{cls.__name__}: {case.arguments}",
                )


def _tensor(x: Any) -> Any:
    if isinstance(x, Tensor) or x is None:
        return x
    if isinstance(x, bool) or (isinstance(x, list) and _first(x) is not None and isinstance(_first(x), bool)):
        return torch.tensor(x)
    made = torch.tensor(x)
    return made.double() if made.is_floating_point() else made


def _first(x: Any) -> Any:
    while isinstance(x, list):
        if not x:
            return None
        x = x[0]
    return x
