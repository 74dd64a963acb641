"""Whether a model learns: it is pulled back from wrong predictions, towards the target, by every label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from losskit.audit.counterexample import call_of, short, smallest
from losskit.audit.findings import Finding, Skipped, check, fault, warning
from losskit.audit.operands import one_hot
from losskit.audit.points import aligned, at_scale, signs_of, ties, truth
from losskit.audit.subject import Subject
from losskit.domains import signs


@check("learning", "Does a sure and wrong prediction still get a gradient?", shrinks=True)
def pull(subject: Subject) -> Iterator[Finding]:
    """Where a clamp or a second softmax is saturated, a model never learns from the rows that are most wrong."""
    facts = subject.facts
    if facts is not None and facts.robust:
        raise Skipped("declared robust: rows that are far off are meant to be let go")
    wrong = aligned(subject, subject.example(), 25.0, False)
    right = aligned(subject, subject.example(), 25.0, True)
    if wrong is None or right is None:
        raise Skipped("no labels that say what is right")
    got, other = subject.run(wrong), subject.run(right)
    if not float(got.value.sum()) > float(other.value.sum()) + 1e-3:
        return
    ordinary = subject.run(aligned(subject, subject.example(), 1.0, False) or wrong)
    pulls, usual = got.gradients[0], ordinary.gradients[0]
    if pulls is None or usual is None:
        return
    before = _strongest(subject, wrong, usual)
    most = _strongest(subject, wrong, pulls)
    if most < 1e-6 * before:
        small = smallest(subject, wrong, lambda c: _strongest(subject, c, subject.run(c).gradients[0]) < 1e-6 * before)
        # Whoever declares facts knows that such a loss is bounded.
        yield Finding(
            "warning" if facts is None else "note",
            f"sure and wrong predictions have a gradient of {short(most)}, and unsure ones "
            f"of {short(before)}: nothing draws them back.",
            call_of(subject, small),
        )


def _shifted(gradient: Tensor, target: Tensor) -> int:
    """By how much the one class that each row raises is beside its target; 0 where it is the target, or not alike."""
    if gradient.ndim != 2 or one_hot(target, gradient) is None or len(set(target.tolist())) < 3:
        return 0
    raised = gradient < 0
    if not bool((raised.sum(1) == 1).all()):
        return 0
    beside = {int(x) for x in (raised.int().argmax(1) - target) % gradient.shape[1]}
    return beside.pop() if len(beside) == 1 else 0


def _strongest(subject: Subject, operands: Sequence[Any], gradient: Tensor | None) -> float:
    """The largest gradient; of class scores that by the right class, which has to rise."""
    if gradient is None:
        return 0.0
    place = truth(subject)
    hot = None if place is None else one_hot(operands[place], gradient)
    return float((gradient if hot is None else gradient[hot]).abs().max())


@check("learning", "Does a step down the gradient go towards the target?")
def direction(subject: Subject) -> Iterator[Finding]:
    """A sign that is wrong: every prediction is pushed away from what is right."""
    if len(subject.predictions) > 1 or subject.stopped:
        raise Skipped("more than one prediction" if not subject.stopped else "part of the gradient is stopped")
    operands = subject.example()
    got = subject.run(operands).gradients[0]
    x = operands[subject.predictions[0]]
    towards = signs_of(subject, operands)
    place = truth(subject)
    shift = _shifted(got, operands[place]) if place is not None and got is not None else 0
    if shift:
        told = f"each row raises the score of class target + {shift}, and of no other."
        yield fault(told, call_of(subject, operands))
        return
    if place is not None and subject.kinds[place].domain is signs:
        raise Skipped("labels -1 and 1 do not say whether a prediction should be large")
    if towards is None:
        tied = ties(subject, operands)
        if tied is None or x.numel() < 4:
            raise Skipped("no target that says where to go")
        towards = torch.sign(tied[subject.predictions[0]] - x)
    if got is None:
        raise Skipped("there is no gradient")
    steps = -got * towards
    if place is None or one_hot(operands[place], x) is None:  # of ordered classes, some entries say nothing
        steps = steps[steps != 0]
    if steps.numel() >= 3 and bool((steps < 0).all()):
        yield fault(
            f"a step down the gradient moves every number of "
            f"{subject.names[subject.predictions[0]]} away from its target.",
            call_of(subject, operands),
        )


@check("learning", "Does the loss of right predictions end somewhere?")
def floor(subject: Subject) -> Iterator[Finding]:
    """Where it falls without an end, it pays to be surer and surer: scores where log-probabilities belong."""
    if subject.facts is not None or len(subject.predictions) > 1:
        raise Skipped("the declaration says" if subject.facts is not None else "more than one prediction")
    batches = [aligned(subject, subject.example(), size, True) for size in (1e3, 2e3)]
    if any(batch is None for batch in batches):
        raise Skipped("no labels that say what is right")
    one, two = (float(subject.value(batch).double().sum()) for batch in batches if batch is not None)
    if one < -10.0 and not two > 1.5 * one:  # -inf, too
        call = call_of(subject, batches[0] or [])
        yield warning(
            f"right predictions of 1000 have the loss {short(one)}, of 2000 {short(two)}, without an end.", call
        )


@check("learning", "Does every label teach something?")
def labels(subject: Subject) -> Iterator[Finding]:
    """For each value of the labels: some prediction of such a row must have a gradient."""
    place, first = truth(subject), subject.predictions[0]
    kind = subject.kinds[first]
    if place is None or not kind.domain.everything or kind.normalized is not None or subject.rows < 2:
        raise Skipped("no labels of real scores")
    operands = subject.example()
    y = operands[place]
    if one_hot(y, subject.first) is not None and y.ndim != 1:
        raise Skipped("class indices of more than rows")
    seen: dict[float, bool] = {}
    for factor in (1.0, 10.0, -10.0):
        moved = at_scale(subject, operands, factor)
        gradient = subject.run(moved).gradients[0]
        if gradient is None:
            raise Skipped("there is no gradient")
        for value in set(y.reshape(-1).tolist()):
            where = y == value
            own = gradient[where]
            seen[value] = seen.get(value, False) or bool((own != 0).any())
    for value, taught in seen.items():
        if not taught:
            yield warning(
                f"predictions labelled {value:g} never have a gradient: the loss wants other labels, or lacks a term.",
                call_of(subject, operands),
            )
            return
