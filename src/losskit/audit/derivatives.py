"""Whether the gradient is the derivative of the value, and the second derivative that of the gradient.

Differences are central, in float64, at two steps, and taken to their limit (Richardson); where the two steps disagree
there is a kink or a jump, and any gradient between the slopes of both sides is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from losskit.audit.counterexample import call_of, short, smallest
from losskit.audit.findings import Finding, Skipped, check, fault, note, warning
from losskit.audit.points import places
from losskit.audit.subject import Subject, copied
from losskit.domains import Interval

ENTRIES = 12  # numbers of an operand whose derivative is looked at, one by one


def weights_of(subject: Subject, operands: Sequence[Any]) -> Tensor:
    """What a result is multiplied by, so that every entry of it counts, and none as another."""
    value = subject.value(operands)
    if value.ndim == 0:
        return torch.ones((), dtype=value.dtype)
    return (torch.arange(value.numel(), dtype=value.dtype) * 0.37 + 0.5).reshape(value.shape)


def differences(at: Callable[[float], Tensor], step: float, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The derivative at 0, how far it is to be trusted, and the slopes to both sides."""
    middle = at(0.0)
    near, far = (at(step / 2), at(-step / 2)), (at(step), at(-step))
    fine, coarse = (near[0] - near[1]) / step, (far[0] - far[1]) / (2 * step)
    found = (4 * fine - coarse) / 3
    doubt = (fine - coarse).abs() + 8 * eps * (middle.abs() + near[0].abs()) / step
    right, left = (near[0] - middle) / (step / 2), (middle - near[1]) / (step / 2)
    return found, doubt, left, right


def mismatch(subject: Subject, operands: Sequence[Any], outer: Callable[[list[Any]], list[Any]] | None = None) -> Any:
    """The entry whose gradient is farthest from the difference: (operand, index, gradient, difference), or None."""
    eps = torch.finfo(subject.dtype).eps
    weights = weights_of(subject, operands)
    gradients = subject.run(operands, weights=weights).gradients
    if outer is not None:
        gradients = _through(subject, operands, outer, gradients)
    found = [x for x in gradients if x is not None]
    scale = max((float(x.abs().max()) for x in found if x.numel()), default=0.0)
    worst, most = None, 1.0
    for place, gradient in zip(subject.predictions, gradients, strict=True):
        x = operands[place]
        for index in _entries(x):
            size = max(abs(float(x.reshape(-1)[index])), 1e-3)
            step = size * (1e-3 if subject.dtype == torch.float64 else 3e-2)
            step = min(step, _room(subject, place, float(x.reshape(-1)[index])) / 4)
            if step <= 0.0:
                continue

            def at(t: float, place: int = place, index: int = index) -> Tensor:
                moved = list(operands)
                moved[place] = operands[place].clone()
                moved[place].view(-1)[index] += t
                value = subject.value(moved if outer is None else outer(moved))
                return (value * weights).sum().double()

            given = 0.0 if gradient is None else float(gradient.reshape(-1)[index])
            if given != given:
                continue
            excess = _excess(at, given, step, eps, scale)
            if excess is not None and excess[0] > most:
                most, worst = excess[0], (place, index, given, excess[1])
    return worst


def _room(subject: Subject, place: int, x: float) -> float:
    """How far a number is from the ends of its domain."""
    domain = subject.kinds[place].domain
    if not isinstance(domain, Interval) or subject.kinds[place].normalized is not None:
        return float("inf")
    return min(x - domain.low, domain.high - x)


def _excess(at: Callable[[float], Tensor], given: float, step: float, eps: float, scale: float) -> Any:
    """By how many tolerances a gradient is off, and the difference; None where differences say nothing."""
    for size in (step, step / 30):
        found, doubt, left, right = (float(x) for x in differences(at, size, eps))
        if found != found or abs(found) == float("inf"):
            return None
        kink = abs(left - right) > 0.05 * (abs(left) + abs(right)) + doubt
        if kink:
            low, high = min(left, right), max(left, right)
            room = 0.05 * (high - low) + doubt
            if low - room <= given <= high + room:
                return None
        if doubt <= 0.02 * abs(found) + 1e-7 * scale or (not kink and size < step):
            tolerance = (1e-5 if eps < 1e-10 else 3e-2) * (abs(found) + abs(given)) + 4 * doubt
            tolerance += (1e-8 if eps < 1e-10 else 1e-3) * scale
            if not tolerance:
                tolerance = 1e-30
            return abs(found - given) / tolerance, found
    return None


def _through(subject: Subject, operands: Sequence[Any], outer: Any, gradients: Any) -> list[Tensor | None]:
    place = subject.predictions[0]
    x = operands[place].detach().clone().requires_grad_()
    moved = list(operands)
    moved[place] = x
    y = outer(moved)[place]
    g = gradients[0] if gradients[0] is not None else torch.zeros_like(y)
    return [torch.autograd.grad(y, x, g)[0], *gradients[1:]]


def _entries(x: Tensor) -> list[int]:
    count = x.numel()
    if count <= ENTRIES:
        return list(range(count))
    return sorted({int(i) for i in torch.linspace(0, count - 1, ENTRIES)})


@check("derivatives", "Is the gradient the derivative of the value?", shrinks=True)
def gradient(subject: Subject) -> Iterator[Finding]:
    """Autograd's gradient against differences of the value, at ordinary places and at large and small ones."""
    if subject.stopped:
        raise Skipped("the declaration says that part of the value is a constant for differentiation")
    operands = subject.example()
    result = subject.run(operands)
    if all(x is None for x in result.gradients):
        yield fault(
            f"the result has no gradient by {subject.names[subject.predictions[0]]}: it "
            "was detached, or went through .item(), argmax or numpy.",
            call_of(subject, operands),
        )
        return
    if subject.first.numel() and _flat(subject):
        yield fault(
            "the gradient is 0 everywhere, and the value changes: it was rounded, or counted.",
            call_of(subject, operands),
        )
        return
    for told, place in places(subject):
        worst = mismatch(subject, place)
        if worst is None:
            continue
        if _manifold(subject) and mismatch(subject, place, lambda moved: _normalized(subject, moved)) is None:
            yield note(
                "the gradient is right through a log_softmax before the loss, and not "
                "as a function of free log-probabilities.",
                call_of(subject, place),
            )
            return
        small = smallest(subject, place, lambda candidate: mismatch(subject, candidate) is not None)
        where, index, given, found = mismatch(subject, small) or worst
        yield fault(
            f"the gradient by {subject.names[where]} is {short(given)} and the slope of the value is {short(found)}, "
            f"at entry {index} {told}.",
            call_of(subject, small),
            gradient=given,
            difference=found,
            operand=subject.names[where],
        )
        return


def _flat(subject: Subject) -> bool:
    """Whether all gradients are 0 at all places although the value is not the same."""
    values = set()
    for _, operands in places(subject):
        got = subject.run(operands)
        if bool((got.flat() != 0).any()):
            return False
        values.add(round(float(got.value.double().sum()), 9))
    return len(values) > 1


def _manifold(subject: Subject) -> bool:
    return subject.kinds[subject.predictions[0]].normalized is not None


def _normalized(subject: Subject, moved: Sequence[Any]) -> list[Any]:
    place = subject.predictions[0]
    found = list(moved)
    found[place] = moved[place].log_softmax(subject.kinds[place].normalized)
    return found


@check("derivatives", "Do the loss's own parameters get their gradient?")
def parameters(subject: Subject) -> Iterator[Finding]:
    """Temperatures, centres, weights that are learned: their gradients against differences."""
    own = [name for name, p in subject.loss.named_parameters() if p.requires_grad] if _module(subject) else []
    if not own or subject.dtype != torch.float64 or subject.stopped:
        raise Skipped("the loss has no parameters, or does not compute in float64")
    operands = subject.example()
    for name in own:
        loss = copied(subject.loss).double()
        p = loss.get_parameter(name)
        value = subject.call(loss, subject.prepared(operands)).sum()
        found = torch.autograd.grad(value, p, allow_unused=True)[0] if value.requires_grad else None
        for index in _entries(p):
            size = max(abs(float(p.detach().reshape(-1)[index])), 1e-1)

            def at(t: float, p: Tensor = p, index: int = index, loss: Any = loss) -> Tensor:
                with torch.no_grad():
                    kept = p.view(-1)[index].clone()
                    p.view(-1)[index] += t
                    result = subject.value(operands, loss=loss).sum().double()
                    p.view(-1)[index] = kept
                return result

            given = 0.0 if found is None else float(found.reshape(-1)[index])
            excess = _excess(at, given, 1e-3 * size, torch.finfo(p.dtype).eps, abs(given))
            if excess is not None and excess[0] > 1.0:
                told = f"the gradient by the parameter {name} is {short(given)}, and the slope {short(excess[1])}."
                yield fault(told, call_of(subject, operands))
                return


def _module(subject: Subject) -> bool:
    return isinstance(subject.loss, nn.Module)


@check("derivatives", "Is the second derivative that of the gradient?", shrinks=True)
def second_derivative(subject: Subject) -> Iterator[Finding]:
    """Double backward along random directions against differences of the gradient."""
    if subject.stopped:
        raise Skipped("the declaration says that part of the value is a constant for differentiation")
    if subject.dtype != torch.float64:
        raise Skipped("the loss does not compute in float64, and differences of gradients in float32 say little")
    for told, operands in places(subject, few=True):
        found = _twice(subject, operands)
        if found is None:
            continue
        verdict, said = found
        small = smallest(subject, operands, lambda c, v=verdict: (_twice(subject, c) or ("", ""))[0] == v)  # type: ignore[misc]
        said = (_twice(subject, small) or found)[1]
        yield Finding(verdict, said.format(told=told), call_of(subject, small))
        return


def _twice(subject: Subject, operands: Sequence[Any]) -> tuple[str, str] | None:
    """What is wrong with the second derivative, as a verdict and a sentence."""
    place = subject.predictions[0]
    weights = weights_of(subject, operands)
    generator = torch.Generator().manual_seed(3)
    x = operands[place]
    direction = (torch.rand(x.shape, generator=generator, dtype=x.dtype) + 0.5) * (x.abs() + 1e-3)
    domain = subject.kinds[place].domain
    if isinstance(domain, Interval) and subject.kinds[place].normalized is None:
        direction = torch.minimum(direction, 100.0 * torch.minimum(x - domain.low, domain.high - x))

    def slope(t: float) -> Tensor:
        moved = list(operands)
        moved[place] = x + t * direction
        g = subject.run(moved, weights=weights).gradients[0]
        return torch.zeros_like(x) if g is None else g

    found, doubt, left, right = differences(slope, 1e-3, torch.finfo(x.dtype).eps)
    if not bool(found.isfinite().all()):
        return None
    scale = float(slope(0.0).abs().max()) / max(float(direction.abs().max()), 1e-30) + 1e-30
    smooth = (left - right).abs() <= 0.05 * (left.abs() + right.abs()) + 10 * doubt + 1e-9 * scale
    curved = bool((found.abs() > 1e-6 * scale + 10 * doubt).logical_and(smooth).any())
    made = subject.prepared(operands)
    try:
        value = subject.call(subject.instance(x.dtype), made)
        first = torch.autograd.grad((value * weights).sum(), made[place], create_graph=True, allow_unused=True)[0]
        if first is None:
            return None
        if not first.requires_grad:
            second = None
        else:
            second = torch.autograd.grad(first, made[place], direction, allow_unused=True)[0]
    except Exception as problem:  # whatever a loss raises
        text = str(problem).strip().split("\n")[0][:120]
        return "warning", f"there is no second derivative: {text}."
    own = torch.zeros_like(x) if second is None else second
    # H d by autograd is H^T d, the same where the Hessian is symmetric.
    off = (own - found).abs() > 1e-4 * (own.abs() + found.abs()) + 10 * doubt + 1e-6 * scale
    off = off & smooth
    if not bool(off.any()):
        return None
    at = int(off.reshape(-1).int().argmax())
    a, b = float(own.reshape(-1)[at]), float(found.reshape(-1)[at])
    if second is None and curved:
        return "fault", (
            f"the second derivative is silently lost: autograd has none, and the gradient changes by "
            f"{short(b)} along a direction {{told}}."
        )
    return "fault", f"the second derivative is {short(a)} and the change of the gradient is {short(b)} {{told}}."


@check("derivatives", "Does the gradient scale with what comes from behind?")
def grad_output(subject: Subject) -> Iterator[Finding]:
    """The loss times a number, and other weights of its entries, must scale the gradient alike."""
    operands = subject.example()
    one = subject.run(operands)
    if all(g is None for g in one.gradients):
        raise Skipped("there is no gradient")
    tolerance = 1e-6 if subject.dtype == torch.float64 else 1e-3
    for factor in (2.5, -3.0, 0.0):
        many = subject.run(operands, weights=torch.full_like(one.value, factor))
        a, b = many.flat(), factor * one.flat()
        if _differ(a, b, tolerance):
            at = int((a - b).abs().argmax())
            yield fault(
                f"the gradient of {factor:g} times the loss must be {factor:g} times "
                f"its gradient, {short(float(b[at]))}, and is {short(float(a[at]))}.",
                call_of(subject, operands, f"({factor:g} * {subject.text}") + ").backward()",
            )
            return
    for reduced in {id(s): s for s in (subject, subject.unreduced)}.values():
        if reduced.value(operands).ndim:
            yield from _entrywise(reduced, operands, tolerance)


def _entrywise(subject: Subject, operands: Sequence[Any], tolerance: float) -> Iterator[Finding]:
    """Of an unreduced loss: gradients of its entries add up, and so do those of its halves."""
    value = subject.value(operands)
    weights = weights_of(subject, operands)
    first = torch.zeros_like(value)
    first.view(-1)[: (value.numel() + 1) // 2] = 1.0
    parts = [subject.run(operands, weights=weights * part).flat() for part in (first, 1.0 - first)]
    whole = subject.run(operands, weights=weights).flat()
    if _differ(parts[0] + parts[1], whole, tolerance):
        yield fault(
            "with reduction='none' the gradients of both halves of the result do not add up to that of the whole.",
            call_of(subject, operands),
        )


@check("derivatives", "Does a second backward over the same graph give the same?")
def retain_graph(subject: Subject) -> Iterator[Finding]:
    """backward twice, the graph retained; and what comes from behind must not be written to."""
    operands = subject.example()
    made = subject.prepared(operands)
    value = subject.call(subject.instance(subject.dtype), made)
    if not value.requires_grad:
        raise Skipped("there is no gradient")
    inputs = [made[i] for i in subject.predictions]
    behind = torch.full_like(value, 2.0)
    first = torch.autograd.grad(value, inputs, behind, retain_graph=True, allow_unused=True)
    kept = [None if g is None else g.clone() for g in first]
    if bool((behind != 2.0).any()):
        yield fault("backward writes into the gradient that comes from behind.", call_of(subject, operands))
    try:
        second = torch.autograd.grad(value, inputs, torch.full_like(value, 2.0), allow_unused=True)
    except Exception as problem:  # whatever a loss raises
        yield warning(
            f"a second backward fails although the graph was retained: {str(problem).strip().split(chr(10))[0][:120]}.",
            call_of(subject, operands),
        )
        return
    for a, b in zip(kept, second, strict=True):
        if a is not None and b is not None and _differ(a, b, 1e-12 if subject.dtype == torch.float64 else 1e-5):
            yield fault("a second backward over the retained graph gives another gradient.", call_of(subject, operands))
            return


def _differ(a: Tensor, b: Tensor, tolerance: float) -> bool:
    scale = max(float(b.abs().max()) if b.numel() else 0.0, 1e-30)
    return bool(((a - b).abs() > tolerance * scale).any()) or bool((a.isnan() != b.isnan()).any())
