"""The proof that the tests of the losses of rows are awake: each is broken in one way, and a check must see it.

Kernels are broken by their arguments and results, formulas of rows by their code; the checks are those of the laws.
"""

import math

import pytest
import test_class_scores
import test_rows
import torch
from row_samples import SAMPLES
from tiers import rest

import losskit
from losskit.families import class_scores_plan, embeddings_plan, margins_plan, sequence_plan
from losskit.kernels import fused, library, node, wire

MUTANTS = {}


def mutant(name):
    def register(function):
        MUTANTS[name] = function
        return function

    return register


def op(family, change):
    """A mutant of the op of a family: `change` is given its arguments as a list, and changes them."""

    def break_it(patch):
        assert library.loaded()
        real = getattr(torch.ops.losskit, family).default._op

        def broken(*args):
            args = list(args)
            change(args)
            return real(*args)

        patch.setitem(fused._ops, family, broken)

    return break_it


def result(family, change):
    """A mutant of what the op of a family gives: the loss, the gradients, the status."""

    def break_it(patch):
        assert library.loaded()
        real = getattr(torch.ops.losskit, family).default._op

        def broken(*args):
            found = list(real(*args))
            change(found, args)
            return found

        patch.setitem(fused._ops, family, broken)

    return break_it


def formula(owner, name, wrap):
    """A mutant of the formula in torch operations."""
    return lambda patch: patch.setattr(owner, name, wrap(getattr(owner, name)))


# The kernel's arguments: kernel, code, operands, weight, sample_weight, mask, upstream, numbers
CODE, OPERANDS, WEIGHT, SAMPLE_WEIGHT, MASK, UPSTREAM, NUMBERS = range(1, 8)
A, B, C, D = range(4)  # the operands


def put(position, make):
    def change(args):
        if args[position] is not None:
            args[position] = make(args[position])

    return change


def operand(which, make):
    def change(args):
        if which < len(args[OPERANDS]):
            args[OPERANDS] = [make(x) if i == which else x for i, x in enumerate(args[OPERANDS])]

    return change


def number(index, make):
    return put(NUMBERS, lambda numbers: [make(x) if i == index else x for i, x in enumerate(numbers)])


def bit(family, name, on=False):
    """A bit of the family, set or cleared."""
    mask = wire.OPTIONS.pack(family=wire.OPS[family].family.mask(name))
    return op(family, put(CODE, lambda code: code | mask if on else code & ~mask))


def flipped(found, args):
    found[1] = [-found[1][0], *found[1][1:]] if found[1] else []


def first_row_lost(found, args):
    if found[1]:
        found[1][0].view(-1)[0] = 0.0


def exchange(args):
    operands = list(args[OPERANDS])
    if len(operands) > C and operands[C].ndim > 1:
        operands[B], operands[C] = operands[C], operands[B]
        args[OPERANDS] = operands


for family in ("class_scores", "margins", "embeddings", "two_rows", "ctc"):
    MUTANTS[f"{family}: gradient with the wrong sign"] = result(family, flipped)
    MUTANTS[f"{family}: one entry of the gradient lost"] = result(family, first_row_lost)
    MUTANTS[f"{family}: sample_weight lost"] = op(family, put(SAMPLE_WEIGHT, lambda w: None))
    MUTANTS[f"{family}: mask lost"] = op(family, put(MASK, lambda m: None))
    MUTANTS[f"{family}: mask inverted"] = op(family, put(MASK, lambda m: ~m))
    MUTANTS[f"{family}: upstream gradient lost"] = op(family, put(UPSTREAM, torch.ones_like))
    MUTANTS[f"{family}: normalizer off"] = op(family, number(0, lambda n: n * 1.5))
    MUTANTS[f"{family}: recomputed gradient not scaled"] = op(family, number(1, lambda n: 1.0))

MUTANTS |= {
    "class weights lost": op("class_scores", put(WEIGHT, lambda w: None)),
    "class weights of the neighbour": op("class_scores", put(WEIGHT, lambda w: w.roll(1))),
    "class weights not in the denominator": op("class_scores", put(WEIGHT, lambda w: w / w.mean())),
    "smoothing lost": op("class_scores", number(2, lambda s: 0.0)),
    "smoothing over the other classes only": op("class_scores", number(2, lambda s: s * 5 / 4)),
    "ignore_index off by one": op("class_scores", number(3, lambda i: i + 1)),
    "ignore_index off by one below": op("class_scores", number(3, lambda i: i - 1)),
    "target class shifted": op("class_scores", operand(B, lambda t: t if t.is_floating_point() else (t + 1) % 5)),
    "NLL takes a softmax": bit("class_scores", "log_probabilities"),
    "multi_margin: target shifted": op("margins", operand(B, lambda t: t if t.ndim > 1 else (t + 1) % 5)),
    "multilabel_margin: terminator ignored": op("margins", operand(B, lambda t: t.clamp(min=0) if t.ndim > 1 else t)),
    "multilabel_margin: first label only": op(
        "margins", operand(B, lambda t: torch.where(torch.arange(t.shape[-1]) > 0, -1, t) if t.ndim > 1 else t)
    ),
    "margin lost": op("margins", put(NUMBERS, lambda n: [*n[:2], *(0.0 for _ in n[2:])])),
    "class weight of margins lost": op("margins", put(WEIGHT, lambda w: None)),
    "cosine target inverted": op("embeddings", operand(C, lambda c: -c if c.ndim == 1 else c)),
    "positive and negative exchanged": op("embeddings", exchange),
    "eps lost": op("embeddings", number(3, lambda eps: 0.0)),
    "p is 2": op("embeddings", number(2, lambda p: 2.0)),
    "swap lost": bit("embeddings", "swap"),
    "temperature lost": op("two_rows", number(2, lambda t: 1.0)),
    "squared temperature lost": op("two_rows", number(3, lambda t: 1.0)),
    "student and teacher exchanged": op("two_rows", put(OPERANDS, lambda x: x[::-1])),
    "blank is another class": op("ctc", number(2, lambda b: (b + 1) % 5)),
    "zero_infinity lost": bit("ctc", "zero_infinity"),
    "always the exact gradient": bit("ctc", "exact_gradient", on=True),
    "log-softmax lost": bit("ctc", "from_scores"),
    "one frame fewer": op("ctc", operand(C, lambda lengths: lengths - 1)),
    "one label fewer": op("ctc", operand(D, lambda lengths: (lengths - 1).clamp(min=0))),
    "formula: log-probabilities of the wrong row": formula(
        class_scores_plan, "row_statistics", lambda f: lambda *x: tuple(s.roll(1, 0) for s in f(*x))
    ),
    "formula: one list entry too many": formula(
        margins_plan, "_listed", lambda f: lambda lists: (lists == -1).cumsum(1) <= 1
    ),
    "formula: distance without eps": formula(
        embeddings_plan, "_distance", lambda f: lambda x, y, p, eps: f(x, y, p, 0.0)
    ),
    "formula: cosine not normalised": formula(
        embeddings_plan, "_cosine", lambda f: lambda x, y: ((x * y).sum(-1), 1 - (x * y).sum(-1))
    ),
    "formula: blanks may be skipped between equal labels": formula(
        sequence_plan.SequencePlan, "_alignments", lambda f: lambda self, lp, labels, i, n: f(self, lp, labels + 0, i - 1, n)
    ),
}  # fmt: skip


def infeasible():
    """zero_infinity, and what an infeasible sample costs without it."""
    scores = torch.zeros(1, 1, 3).log_softmax(2).requires_grad_()
    args = torch.tensor([[1, 1]]), torch.tensor([1]), torch.tensor([2])
    assert losskit.functional.ctc_loss(scores, *args) == math.inf
    loss = losskit.functional.ctc_loss(scores, *args, zero_infinity=True)
    assert loss == 0
    assert not torch.autograd.grad(loss, scores)[0].any()


def checks():
    """The checks of rows, those that are cheap first, by name."""
    for sample in SAMPLES:
        if not sample.name.endswith("with_distance_loss"):
            for reduction in ("none", "mean"):
                yield lambda s=sample, r=reduction: fused_is_eager(s, r)
    yield infeasible
    yield lambda: test_class_scores.test_ignore_index()
    for sample in SAMPLES:
        yield lambda s=sample: test_rows.test_backward(s)


def fused_is_eager(sample, reduction):
    with pytest.MonkeyPatch.context() as patch:
        test_rows.test_fused_is_eager(sample, reduction, patch)


def caught():
    for check in checks():
        try:
            check()
        except Exception:  # a mutant may break a check in any way; that the checks hold without one is tested below
            return True
    return False


def test_the_checks_hold():
    assert not caught()


@pytest.mark.parametrize("name", rest(MUTANTS, list(MUTANTS)[::3], "rows: two of three mutants"))
def test_mutant_is_caught(name):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node, "on", False)  # what is broken is Python
        MUTANTS[name](patch)
        assert caught(), name


def test_there_are_thirty():
    assert len(MUTANTS) >= 30
    assert library.loaded()
