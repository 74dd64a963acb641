"""Behaviour around the formula: weights, masks, denominators, checks, the hand-over of gradients.

Each check computes what is right by hand and takes both implementations: the kernel, and the eager formula, made to run
by a gradient that is wanted by a sample weight. A check raises AssertionError; tests call it on losskit,
`test_mutants_of_code.py` on broken versions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import losskit

NAN = math.nan
X = torch.tensor([3.0, -1.0, 0.5, 2.0])
T = torch.tensor([1.0, 1.0, 0.0, -2.0])
W = torch.tensor([0.5, 2.0, 1.0, 3.0])
KEEP = torch.tensor([True, False, True, True])


def _equal(got: torch.Tensor, want: Any) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    assert torch.allclose(got.detach(), want, rtol=1e-6, atol=0.0, equal_nan=True), f"got {got}, want {want}"


def both_ways(call: Callable[..., torch.Tensor], want: Any, **extra: Any) -> None:
    """The result of the kernel, and of the eager formula."""
    _equal(call(**extra), want)
    ones = extra.pop("sample_weight", None)
    ones = torch.ones(()) if ones is None else ones
    _equal(call(**extra, sample_weight=ones.clone().requires_grad_()), want)


def check_reductions_differ() -> None:
    """Mean, sum and none of a squared error."""
    squares = (X - T) ** 2
    for reduction, want in (("none", squares), ("sum", squares.sum()), ("mean", squares.mean())):
        both_ways(lambda reduction=reduction, **k: losskit.functional.mse_loss(X, T, reduction=reduction, **k), want)


def check_sample_weight() -> None:
    """Sample weights multiply the losses and make the denominator."""
    squares = (X - T) ** 2 * W
    call = losskit.functional.mse_loss
    for reduction, want in (("none", squares), ("sum", squares.sum()), ("mean", squares.sum() / W.sum())):
        both_ways(lambda reduction=reduction, **k: call(X, T, reduction=reduction, **k), want, sample_weight=W)


def check_mask() -> None:
    """Masked elements count nowhere, whatever stands in them."""
    x = X.masked_fill(~KEEP, NAN)
    squares = (X - T) ** 2 * KEEP
    call = losskit.functional.mse_loss
    for reduction, want in (("none", squares), ("sum", squares.sum()), ("mean", squares.sum() / 3)):
        both_ways(lambda reduction=reduction, **k: call(x, T, reduction=reduction, mask=KEEP, **k), want)


def check_masked_gradient() -> None:
    """The gradient of a masked element is an exact zero."""
    for weight in (None, torch.ones((), requires_grad=True)):
        x = X.masked_fill(~KEEP, NAN).requires_grad_()
        losskit.functional.mse_loss(x, T, mask=KEEP, sample_weight=weight).backward()
        _equal(x.grad, torch.where(KEEP, 2 * (X - T) / 3, 0.0))


def check_weight_in_the_denominator() -> None:
    """mse divides by the sum of `weight`, huber by the number of elements, as torch does."""
    squares, line = (X - T) ** 2, torch.nn.functional.huber_loss(X, T, reduction="none")
    both_ways(lambda **k: losskit.functional.mse_loss(X, T, weight=W, **k), (squares * W).sum() / W.sum())
    both_ways(lambda **k: losskit.functional.huber_loss(X, T, weight=W, **k), (line * W).mean())


def check_normalizer() -> None:
    """`normalizer` is the denominator, of the value and of the gradient."""
    squares = (X - T) ** 2
    both_ways(lambda **k: losskit.functional.mse_loss(X, T, normalizer=10.0, **k), squares.sum() / 10)
    x = X.clone().requires_grad_()
    losskit.functional.mse_loss(x, T, normalizer=10.0).backward()
    _equal(x.grad, 2 * (X - T) / 10)


def check_empty_rule() -> None:
    """The mean over nothing is NaN, or 0 when asked for; the sum is 0."""
    nothing = torch.empty(0)
    none = torch.zeros(4, dtype=torch.bool)
    call = losskit.functional.mse_loss
    both_ways(lambda **k: call(nothing, nothing, **k), NAN)
    both_ways(lambda **k: call(X, T, mask=none, **k), NAN)
    both_ways(lambda **k: call(nothing, nothing, reduction="sum", **k), 0.0)
    with losskit.empty("zero"):
        both_ways(lambda **k: call(nothing, nothing, **k), 0.0)
        both_ways(lambda **k: call(X, T, mask=none, **k), 0.0)


def check_rows() -> None:
    """A row's loss is the mean over its classes."""
    x, t = torch.stack([X, W, T]), torch.eye(3, 4)
    want = torch.nn.functional.multilabel_soft_margin_loss(x, t, reduction="none")
    call = losskit.functional.multilabel_soft_margin_loss
    for reduction, expected in (("none", want), ("sum", want.sum()), ("mean", want.mean())):
        both_ways(lambda reduction=reduction, **k: call(x, t, reduction=reduction, **k), expected)


def check_batchmean() -> None:
    """KL's batchmean divides by the batch, not by the elements."""
    x, t = torch.log_softmax(torch.stack([X, W]), -1), torch.softmax(torch.stack([T, X]), -1)
    total = (t * (t.log() - x)).sum()
    both_ways(lambda **k: losskit.functional.kl_div(x, t, reduction="batchmean", **k), total / 2)


def check_upstream_gradient() -> None:
    """The gradient is scaled by what comes from above."""
    for weight in (None, torch.ones((), requires_grad=True)):
        for reduction, scale in (("mean", 0.25), ("sum", 1.0), ("none", 1.0)):
            x = X.clone().requires_grad_()
            loss = losskit.functional.mse_loss(x, T, reduction=reduction, sample_weight=weight)
            (3.0 * loss).sum().backward()
            _equal(x.grad, 3.0 * 2 * (X - T) * scale)


def check_two_backward_passes() -> None:
    """A second backward pass gives the same gradient again, in memory of its own."""
    x = X.clone().requires_grad_()
    loss = losskit.functional.mse_loss(x, T)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    first.zero_()
    (second,) = torch.autograd.grad(3.0 * loss, x, retain_graph=True)
    (third,) = torch.autograd.grad(loss, x)
    _equal(second, 3.0 * 2 * (X - T) / 4)
    _equal(third, 2 * (X - T) / 4)


def check_double_backward() -> None:
    """The gradient is itself differentiable: that of x**4 through a squared error, and the upstream gradient's."""
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(5.0 * losskit.functional.mse_loss(x, T, reduction="sum"), x, create_graph=True)
    _equal(gradient, 10 * (X - T))
    (second,) = torch.autograd.grad((gradient * W).sum(), x)
    _equal(second, 10 * W)


def _refused(call: Callable[[], Any], *words: str) -> None:
    try:
        call()
    except ValueError as problem:
        assert all(word in str(problem) for word in words), f"{problem} does not name {words}"
        return
    raise AssertionError(f"not refused: {words}")


def check_domains_are_refused() -> None:
    """A value outside its domain raises, and the message names its argument and place; by both implementations."""
    probability = torch.tensor([0.5, 0.25])
    for weight in (None, torch.ones((), requires_grad=True)):
        call = losskit.functional.binary_cross_entropy
        wrong_target, wrong_input = torch.tensor([0.0, 2.0]), torch.tensor([-1.0, 0.5])
        _refused(lambda w=weight, t=wrong_target: call(probability, t, sample_weight=w), "target", "(1,)")
        _refused(lambda w=weight, x=wrong_input: call(x, probability, sample_weight=w), "input", "(0,)")
        hinge = losskit.functional.hinge_embedding_loss
        _refused(lambda w=weight: hinge(X[:2], torch.tensor([1.0, 0.0]), sample_weight=w), "target", "(1,)")
        hinge(torch.tensor([5.0, -7.0]), torch.tensor([1.0, -1.0]), sample_weight=weight)  # the input may be anything


def check_masked_values_are_not_refused() -> None:
    """What is masked may be outside its domain."""
    x = torch.tensor([0.5, 7.0, 0.5, 0.5])
    t = torch.zeros(4)
    both_ways(lambda **k: losskit.functional.binary_cross_entropy(x, t, mask=KEEP, **k), math.log(2))


def check_nan_mode() -> None:
    """Under checks("nan") a bad value is NaN and its neighbours are not."""
    x, t = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 2.0])
    with losskit.checks("nan"):
        call = losskit.functional.binary_cross_entropy
        both_ways(lambda **k: call(x, t, reduction="none", **k), torch.tensor([math.log(2), NAN]))


def check_off_mode() -> None:
    """Under checks("off") the formula runs on anything."""
    x, t = torch.tensor([0.5]), torch.tensor([2.0])
    with losskit.checks("off"):
        call = losskit.functional.binary_cross_entropy
        both_ways(lambda **k: call(x, t, **k), -(2 * math.log(0.5) - math.log(0.5)))


def check_shapes_are_refused() -> None:
    """Shapes that would broadcast are refused."""
    _refused(lambda: losskit.functional.mse_loss(X, T[:, None]), "target")
    _refused(lambda: losskit.functional.mse_loss(X[:, None], T[None, :]), "target")
    _refused(lambda: losskit.functional.mse_loss(X, T[:1]), "target")


def check_dtypes() -> None:
    """A loss of float32 and float64 is float64, of halves a half; under autocast halves give float32."""
    call = losskit.functional.mse_loss
    assert call(X, T.double()).dtype == torch.float64
    assert call(X.half(), T.half()).dtype == torch.float16
    assert call(X.double(), T.double(), sample_weight=torch.ones((), requires_grad=True)).dtype == torch.float64
    with torch.autocast(X.device.type, dtype=torch.bfloat16):
        assert call(X.bfloat16(), T.bfloat16()).dtype == torch.float32


def check_parameters() -> None:
    """Parameters reach the formula, each under its own name."""
    huber = losskit.functional.huber_loss
    both_ways(lambda **k: huber(X, T, delta=0.5, reduction="none", **k), torch.tensor([0.875, 0.875, 0.125, 1.875]))
    call = losskit.functional.poisson_nll_loss
    t = torch.tensor([2.0])
    both_ways(lambda **k: call(torch.tensor([3.0]), t, log_input=False, eps=1.0, **k), 3.0 - 2.0 * math.log(4.0))


def check_positional_reduction() -> None:
    """torch's deprecated arguments mean what they say; a string in their place is the reduction."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _equal(losskit.functional.mse_loss(X, T, False), ((X - T) ** 2).sum())
        _equal(losskit.functional.mse_loss(X, T, None, False), (X - T) ** 2)
        _equal(losskit.functional.mse_loss(X, T, True), ((X - T) ** 2).mean())


def behaviours() -> dict[str, Callable[[], None]]:
    """Every check of this file, by name."""
    return {name: check for name, check in globals().items() if name.startswith("check_")}
