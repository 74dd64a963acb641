"""Closed bounds are meant as computed numbers mean them: a few ULP beyond one counts as the bound, on every path."""

import pytest
import samples
import torch
import torch.nn.functional as F
from tiers import rest

import losskit
import losskit.functional as LF
from losskit.domains import shortest, slack_of


def advised(setup, name):
    """Whether what is outside the domain of an operand is only warned of."""
    switch = setup.loss.operands[name].only_with
    return bool(switch) and not setup.params.get(switch)


DTYPES = rest(samples.DTYPES, [torch.float32], "elements: bounds of domains in every dtype")
CLOSED = [
    pytest.param(setup, operand, bound, id=f"{setup}-{setup.names[operand]}-{bound}")
    for setup in samples.setups()
    for operand, name in enumerate(setup.names)
    for bound, is_open in (
        (getattr(setup.domain(name), "low", float("inf")), getattr(setup.domain(name), "low_open", True)),
        (getattr(setup.domain(name), "high", float("inf")), getattr(setup.domain(name), "high_open", True)),
    )
    if abs(bound) < float("inf") and not is_open and not advised(setup, name)
]


def beyond(bound, dtype, ulps, domain=losskit.probability):
    """A number beyond a bound of a domain by so many ULP of 1."""
    sign = 1.0 if bound == domain.high else -1.0
    return torch.tensor(bound, dtype=dtype) + sign * ulps * torch.finfo(dtype).eps


def domain_of(setup, operand):
    return setup.domain(setup.names[operand])


def value_and_gradients(setup, operands, **extra):
    leaves = [x.clone().requires_grad_() for x in operands]
    loss = setup(*leaves, **extra)
    gradients = torch.autograd.grad(loss.sum(), leaves, allow_unused=True, materialize_grads=True)
    return [loss.detach(), *gradients]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("setup", "operand", "bound"), CLOSED)
def test_a_few_ulp_beyond_a_bound_are_the_bound(setup, operand, bound, dtype):
    at, over = (setup.operands((3, 4), dtype) for _ in range(2))
    at[operand][1, 2] = bound
    over[operand][1, 2] = beyond(bound, dtype, 4, domain_of(setup, operand))
    eager = {"sample_weight": torch.ones((), requires_grad=True)}
    for extra in ({}, {"reduction": "none"}, {**eager, "reduction": "none"}, eager):
        if setup.loss.rows and extra.get("reduction") == "none":
            continue
        for mode in ("raise", "nan"):
            with losskit.checks(mode):
                expected = value_and_gradients(setup, at, **extra)
                found = value_and_gradients(setup, over, **extra)
            for x, y in zip(expected, found, strict=True):
                assert torch.equal(x, y) or torch.equal(x.isnan(), y.isnan()), (extra, mode, x, y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("setup", "operand", "bound"), CLOSED)
def test_more_is_refused_and_printed_so_that_it_is_seen(setup, operand, bound, dtype):
    operands = setup.operands((3, 4), dtype)
    value = beyond(bound, dtype, 8, domain_of(setup, operand))
    operands[operand][1, 2] = value
    for extra in ({}, {"sample_weight": torch.ones((), requires_grad=True)}):
        with pytest.raises(ValueError, match="must be") as refused:
            setup(*operands, **extra)
        told = float(str(refused.value).split(" got ")[1].split(" at ")[0])
        assert not domain_of(setup, operand).includes(told)
        assert told == pytest.approx(float(value), rel=1e-7)


def test_an_interpolation_of_ones_is_a_target():
    ones = F.interpolate(torch.ones(1, 1, 7, 7), size=(5, 5), mode="bilinear")
    ones[0, 0, 0, 0] = 1.0000001  # as most processors have it without
    p = torch.full_like(ones, 0.25, requires_grad=True)
    loss = LF.binary_cross_entropy(p, ones)
    torch.testing.assert_close(loss, torch.tensor(4.0).log())
    loss.backward()
    torch.testing.assert_close(p.grad, torch.full_like(p, -4.0 / p.numel()))
    q = ones.clone().requires_grad_()
    certain = LF.binary_cross_entropy(q, torch.ones_like(q))
    (gradient,) = torch.autograd.grad(certain, q)
    assert certain == 0
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", samples.DTYPES)
@pytest.mark.parametrize("width", [3, 100])  # tiles and rows
def test_class_probabilities_may_be_beyond_a_little(dtype, width):
    scores = torch.randn(4, width, dtype=dtype)
    right, over = torch.zeros(4, width, dtype=dtype), torch.zeros(4, width, dtype=dtype)
    right[:, 1], over[:, 1], over[:, 2] = 1, beyond(1.0, dtype, 4), beyond(0.0, dtype, 4)
    for extra in ({}, {"sample_weight": torch.ones((), requires_grad=True)}):
        expected, found = (LF.cross_entropy(scores, target, **extra).double() for target in (right, over))
        torch.testing.assert_close(found, expected, rtol=60 * slack_of(dtype), atol=0)
        over[3, 1] = beyond(1.0, dtype, 8)
        with pytest.raises(ValueError, match=r"target must be in \[0, 1\]"):
            LF.cross_entropy(scores, over, **extra)
        over[3, 1] = 1


def test_a_second_derivative_at_the_bound_is_finite():
    p = beyond(1.0, torch.float64, 3).reshape(1).requires_grad_()
    loss = LF.binary_cross_entropy(p, torch.ones(1, dtype=torch.float64), reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), p, create_graph=True)
    assert slope.isfinite().all()


def test_integers_have_no_rounding():
    with pytest.raises(ValueError, match="got 2 at"):
        LF.binary_cross_entropy_with_logits(torch.randn(3), torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("value", [1.5, -1.0, 1.0000001192092896, 1.0000000000000002, 1 / 3, 1e300, 0.0, 3.4e38])
def test_the_fewest_digits(value):
    text = shortest(value)
    single = float(torch.tensor(value, dtype=torch.float32))
    assert float(text) == value or (single == value and float(torch.tensor(float(text))) == value)
    assert len(text) <= len(repr(value))
