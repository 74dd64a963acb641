"""The proof that claims are measured: facts, cases and deviations are turned into lies, which must be caught."""

import copy
import dataclasses
import functools
import math

import numpy as np
import pointwise_truth
import pytest
import samples
import test_facts
import test_truth
import torch
from tiers import rest

from losskit import probability


def raises(check, *args):
    try:
        check(*args)
    except AssertionError:
        return True
    return False


def lies(loss, fact):
    """False claims in the place of a true one."""
    truth = getattr(loss.facts, fact)
    if fact not in ("lipschitz", "minimum"):
        return [not truth]
    if fact == "lipschitz":
        return [1.0, 2.0] if truth is None else [None, 3.0 if isinstance(truth, str) else truth / 2, 7.0]
    if truth is None:
        return [0.0, -1e3]
    # That it depends on the target is no lie where labels may be soft: it is their entropy, and 0 for hard ones.
    depends = "target" in loss.operands and loss.operands["target"].domain is probability
    depends |= (loss.name, fact) in test_facts.DEFAULTS_ONLY  # nor where it depends on a parameter
    return [truth + 0.1, truth - 0.1, *([] if depends else [None])]


SOME = ["binary_cross_entropy_with_logits", "gaussian_nll_loss"]
LOSSES = pytest.mark.parametrize(
    "loss",
    rest(samples.built_in(), lambda loss: loss.name in SOME, "elements: lies about every loss"),
    ids=lambda loss: loss.name,
)


@LOSSES
def test_false_facts_are_caught(loss):
    """Every fact of a loss, turned around."""
    believed, count = [], 0
    for fact, check in test_facts.CHECKS.items():
        for claim in lies(loss, fact):
            count += 1
            if not raises(check, samples.Setup(loss), claim):
                believed.append(f"{fact}={claim}")
    assert not believed, f"{len(believed)} of {count}: {believed}"


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")  # torch's, of kl_div
@LOSSES
def test_false_cases_are_caught(loss):
    """A wrong value or gradient in a worked example or in a deviation."""
    believed = []
    for case in loss.cases:
        wrong = [("value", case.value + 1e-6)]
        wrong += [("grad", case.grad + 1e-5 * (1 + abs(case.grad)))] if case.grad is not None else []
        for name, number in wrong:
            lie = copy.copy(case)
            object.__setattr__(lie, name, number)
            if not raises(test_truth.check_case, loss, lie):
                believed.append(f"{lie}")
    for deviation in loss.deviations:
        for side in ("torch", "losskit"):
            true = getattr(deviation, side)
            lie = dataclasses.replace(deviation, **{side: true * 1.01 + 1.0 if math.isfinite(true) else 1.0})
            if not raises(test_truth.check_deviation, loss, lie):
                believed.append(f"{lie}")
    assert not believed, believed


def test_errors_in_ulp_are_counted():
    """The measure itself: results moved by 5 ULP, made infinite, NaN or 0 are seen."""
    setup = samples.Setup(samples.built_in()[0])
    for dtype in test_truth.WIDE:
        right = pointwise_truth.fused(setup)

        def moved(operands, change, right=right):
            value, gradients = right(operands)
            return change(value), gradients

        eps = torch.finfo(dtype).eps
        for change in (
            lambda x: x * (1 + 5 * eps), lambda x: x + math.inf, lambda x: x * math.nan, torch.zeros_like, torch.neg,
        ):  # fmt: skip
            broken_loss = functools.partial(moved, change=change)
            assert raises(test_truth.check_accuracy, setup, dtype, "fused", "ordinary", broken_loss)
    half = lambda operands: tuple(
        x + x * 2**-7 if isinstance(x, torch.Tensor) else x for x in pointwise_truth.fused(setup)(operands)
    )
    assert raises(test_truth.check_halves, setup, torch.bfloat16, half)
    assert np.isinf(
        pointwise_truth.Quantity(np.ones(1), np.zeros(1), np.ones(1)).errors(torch.tensor([math.nan]))
    ).all()
