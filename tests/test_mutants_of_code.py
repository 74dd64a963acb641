"""The proof that the checks of behaviour are awake: the code around the formulas is broken, and one must see it.

A mutant patches something, one mistake at a time; `patch` is pytest's MonkeyPatch.
"""

import copy
import functools
import math

import checks
import pytest
import samples
import torch

from losskit import dtypes
from losskit.families import pointwise_plan as pointwise
from losskit.kernels import eager, fused, node

MUTANTS = {}


def mutant(function):
    """Register a way to break losskit."""
    MUTANTS[function.__name__] = function
    return function


def wrapped(patch, owner, name, wrap):
    """Replace `owner.name` by `wrap(original)`."""
    original = getattr(owner, name)
    patch.setattr(owner, name, functools.wraps(original)(wrap(original)))


def packed(change):
    """A mutant of `fused.pack`, by its arguments (reduction, weight_in_mean, rows, broadcast)."""

    def wrap(pack):
        names = ("weight_in_mean", "rows", "broadcast")
        return lambda reduction, **given: (lambda r, *rest: pack(r, **dict(zip(names, rest))))(
            *change(reduction, *(given[name] for name in names))
        )

    return lambda patch: wrapped(patch, fused, "pack", wrap)


def afterwards(init, change):
    """A constructor with something changed at its end."""

    def broken(self, *args):
        init(self, *args)
        change(self)

    return broken


def attempted(change):
    """A mutant of `fused.attempt`, by its arguments as a dict."""
    names = ("plan", "numbers", "operands", "weight", "sample_weight", "mask")

    def patching(patch):
        def wrap(attempt):
            def broken(*args, **kwargs):
                given = dict(zip(names, args))
                change(given)
                return attempt(*given.values(), **kwargs)

            return broken

        wrapped(patch, fused, "attempt", wrap)

    return patching


def reduced(change):
    """A mutant of the eager reduction, by its keyword arguments."""

    def patching(patch):
        def wrap(reduce):
            def broken(values, reduction, **kwargs):
                change(values, kwargs)
                return reduce(values, reduction, **kwargs)

            return broken

        wrapped(patch, pointwise, "reduce_eagerly", wrap)

    return patching


def dropped(name):
    return lambda given: given.update({name: None})


def _count_masked(given):
    if given["mask"] is not None and math.isnan(given["numbers"][0]):
        given["numbers"] = [float(given["operands"][0].numel()), *given["numbers"][1:]]


def _exchange(given):
    first, second, *rest = (*given["operands"], None)
    given["operands"] = [x for x in (second, first, *rest) if x is not None]


def count_masked_eagerly(patch):
    def wrap(counting):
        def broken(reduction, shape, like, *, mask, **kwargs):
            return mask, counting(reduction, shape, like, mask=None, **kwargs)[1]

        return broken

    wrapped(patch, pointwise, "counting", wrap)


def weighed(counts):
    """A mutant of what the eager mean divides by: whether weights count."""

    def patching(patch):
        def wrap(eager):
            def broken(self, arguments, checks):
                plan = copy.copy(self)
                plan.weight_in_mean = counts
                return eager(plan, arguments, checks)

            return broken

        wrapped(patch, pointwise.PointwisePlan, "eager", wrap)

    return patching


MUTANTS |= {
    "the mean is a sum": packed(lambda r, *rest: ("sum" if r == "mean" else r, *rest)),
    "the sum is a mean": packed(lambda r, *rest: ("mean" if r == "sum" else r, *rest)),
    "weight not in the denominator": packed(lambda r, w, *rest: (r, False, *rest)),
    "weight always in the denominator": packed(lambda r, w, *rest: (r, True, *rest)),
    "rows forgotten": packed(lambda r, w, rows, s: (r, w, 0, s)),
    "everything is rows": packed(lambda r, w, rows, s: (r, w, 1, s)),
    "every operand broadcasts": packed(lambda r, w, rows, s: (r, w, rows, 255)),
    "weight ignored": attempted(dropped("weight")),
    "sample_weight ignored": attempted(dropped("sample_weight")),
    "mask ignored": attempted(dropped("mask")),
    "normalizer ignored": attempted(lambda given: given.update(numbers=[math.nan, *given["numbers"][1:]])),
    "masked elements counted": attempted(_count_masked),
    "sample_weight for weight": attempted(lambda g: g.update(weight=g["sample_weight"], sample_weight=g["weight"])),
    "input and target exchanged": attempted(_exchange),
    "parameters reversed": attempted(lambda g: g.update(numbers=[g["numbers"][0], *(2 * x for x in g["numbers"][1:])])),
    "eager: weight ignored": reduced(lambda values, kwargs: kwargs.update(weight=None)),
    "eager: sample_weight ignored": reduced(lambda values, kwargs: kwargs.update(sample_weight=None)),
    "eager: mask ignored": reduced(lambda values, kwargs: kwargs.update(mask=None)),
    "eager: normalizer ignored": reduced(lambda values, kwargs: kwargs.update(normalizer=None)),
    "eager: masked elements counted": count_masked_eagerly,
    "eager: weight always in the denominator": weighed(True),
    "eager: weight not in the denominator": weighed(False),
}


@mutant
def gradient_not_scaled_by_what_comes_from_above(patch):
    def backward(ctx, upstream):
        if ctx.gradients is None:
            return fused._placed(ctx, fused.again(ctx.call, ctx.saved_tensors, upstream))
        gradients, ctx.gradients = ctx.gradients, None
        return fused._placed(ctx, gradients)

    patch.setattr(fused.Fused, "backward", staticmethod(backward))


@mutant
def gradient_handed_over_twice(patch):
    def wrap(original):
        def backward(ctx, upstream):
            kept = list(ctx.gradients)
            result = original(ctx, upstream)
            ctx.gradients = kept
            return result

        return backward

    patch.setattr(fused.Fused, "backward", staticmethod(wrap(fused.Fused.backward)))


@mutant
def upstream_gradient_ignored_by_elements(patch):
    wrapped(patch, fused, "again", lambda again: lambda *left: again(*left[:-1], torch.ones_like(left[-1])))
    wrapped(patch, fused, "times", lambda times: lambda *left: times(*left[:-1], torch.ones_like(left[-1])))


@mutant
def second_derivative_ignores_upstream(patch):
    def wrap(gradients):
        return lambda *args: gradients(*args[:-2], torch.ones_like(args[-2]), args[-1])

    wrapped(patch, fused, "differentiable", wrap)


@mutant
def eager_gradient_not_scaled(patch):
    original = eager._Formula.backward
    broken = staticmethod(lambda ctx, upstream: original(ctx, torch.ones_like(upstream)))
    patch.setattr(eager._Formula, "backward", broken)


@mutant
def checks_never_raise(patch):
    patch.setattr(fused, "_CHECK_BITS", dict.fromkeys(fused._CHECK_BITS, 0))


@mutant
def nan_mode_lost(patch):
    patch.setattr(fused, "_CHECK_BITS", {**fused._CHECK_BITS, "nan": 0})


@mutant
def nan_mode_raises(patch):
    patch.setattr(fused, "_CHECK_BITS", {**fused._CHECK_BITS, "nan": fused._CHECK_BITS["raise"]})


@mutant
def off_mode_still_checks(patch):
    patch.setattr(fused, "_CHECK_BITS", {**fused._CHECK_BITS, "off": fused._CHECK_BITS["raise"]})


@mutant
def refusal_lost(patch):
    patch.setattr(pointwise.PointwisePlan, "refuse", lambda *args: None)


@mutant
def eager_checks_lost(patch):
    patch.setattr(pointwise.PointwisePlan, "_bad", lambda *args: None)


@mutant
def eager_checks_ignore_the_mask(patch):
    wrapped(
        patch,
        pointwise.PointwisePlan,
        "_bad",
        lambda bad: lambda plan, operands, mask, *rest: bad(plan, operands, None, *rest),
    )


@mutant
def domains_of_the_wrong_operand(patch):
    def change(plan):
        plan.checked = [(len(plan.domains) - 1 - i, domain) for i, domain in plan.checked]

    patch.setattr(pointwise.PointwisePlan, "__init__", afterwards(pointwise.PointwisePlan.__init__, change))


@mutant
def domains_all_real(patch):
    init = afterwards(pointwise.PointwisePlan.__init__, lambda plan: plan.checked.clear())
    patch.setattr(pointwise.PointwisePlan, "__init__", init)


@mutant
def the_wrong_operand_is_named(patch):
    def wrap(refusal):
        return lambda self, operand, *found: refusal(self, len(self.names) + 1 - operand, *found)

    wrapped(patch, pointwise.PointwisePlan, "_refusal", wrap)


class _Settings:
    """Settings that never change."""

    checks, empty = "raise", "nan"
    process_checks, process_empty, in_blocks = "raise", "nan", True

    @staticmethod
    def get():
        """As a context variable outside of any block."""


@mutant
def empty_rule_ignored(patch):
    patch.setattr(fused, "state", _Settings)
    patch.setattr(fused, "empty_of_block", _Settings)


@mutant
def eager_empty_rule_ignored(patch):
    import losskit.reduction

    patch.setattr(losskit.reduction, "state", _Settings)


@mutant
def batchmean_is_mean(patch):
    def wrap(init):
        def broken(self, loss, reduction, parameters):
            init(self, loss, "mean" if reduction == "batchmean" else reduction, parameters)

        return broken

    patch.setattr(pointwise.PointwisePlan, "__init__", wrap(pointwise.PointwisePlan.__init__))


@mutant
def result_in_the_dtype_of_the_input(patch):
    patch.setattr(dtypes, "result_dtype", lambda operands: operands[0].dtype)

    def wrap(attempt):
        def broken(*args, **kwargs):
            result = attempt(*args, **kwargs)
            return result if result is None else result.to(args[2][0].dtype)

        return broken

    wrapped(patch, fused, "attempt", wrap)


@mutant
def autocast_ignored(patch):
    patch.setattr(torch, "is_autocast_enabled", lambda *args: False)


@mutant
def shapes_not_matched(patch):
    broadcast = lambda plan, tensors: (list(torch.broadcast_tensors(*tensors)), None)
    patch.setattr(pointwise.PointwisePlan, "_match_shapes", broadcast)


@mutant
def mask_not_validated_before_the_formula(patch):
    """The eager formula sees what is masked: a NaN behind the mask reaches the gradient."""
    patch.setattr(
        eager.torch,
        "where",
        lambda c, a, b, where=torch.where: a if b is not None and isinstance(b, float) else where(c, a, b),
    )


def seen_by_behaviour():
    """The name of the first check of behaviour that fails, or None.

    It fails by an assertion or a refusal of losskit's; any other error is the mutant's own mistake.
    """
    for name, check in checks.behaviours().items():
        try:
            check()
        except (AssertionError, ValueError):
            return name
    return None


def forget_plans():
    for setup in samples.setups():
        setup.loss._plans.clear()


def test_behaviour():
    """The checks of behaviour hold for losskit itself."""
    for check in checks.behaviours().values():
        check()


def test_broken_behaviour_is_caught():
    assert len(MUTANTS) >= 30
    survivors = []
    for name, break_it in MUTANTS.items():
        forget_plans()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node, "on", False)  # what is broken is Python
            break_it(patch)
            if seen_by_behaviour() is None:
                survivors.append(name)
        forget_plans()
    assert seen_by_behaviour() is None, "a mutant was not undone"
    assert not survivors, f"{len(survivors)} of {len(MUTANTS)} survive: {survivors}"
