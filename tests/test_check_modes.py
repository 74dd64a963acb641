"""What the modes of checking make of values outside their domain, and that settings are restored."""

import re

import pytest
import samples
import torch

import losskit
import losskit.functional as LF


@pytest.mark.parametrize("mode", ["off", "nan"])
def test_other_modes_do_not_raise(mode):
    with losskit.checks(mode):
        loss = LF.binary_cross_entropy(torch.tensor([0.5, 1.5]), torch.ones(2), reduction="none")
    assert not loss[0].isnan()
    assert loss[1].isnan() or mode == "off"


def test_nan_mode_poisons_only_the_bad_element():
    probability = torch.tensor([0.5, 1.5, 0.25], requires_grad=True)
    with losskit.checks("nan"):
        loss = LF.binary_cross_entropy(probability, torch.ones(3), reduction="none")
        loss.sum().backward()
        mean = LF.binary_cross_entropy(probability, torch.ones(3))
    assert loss.isnan().tolist() == probability.grad.isnan().tolist() == [False, True, False]
    assert mean.isnan()


@pytest.mark.parametrize("create_graph", [False, True])
def test_backward_poisons_what_forward_poisoned(create_graph):
    """The mode is that of the forward pass, whatever it is when backward runs."""
    probability = torch.tensor([0.5, 1.5, 0.25], requires_grad=True)
    with losskit.checks("nan"):
        loss = LF.binary_cross_entropy(probability, torch.ones(3), reduction="none")
    (gradient,) = torch.autograd.grad(loss, probability, torch.ones(3), create_graph=create_graph)
    assert gradient.isnan().tolist() == [False, True, False]


def test_masked_values_are_not_checked():
    probability, mask = torch.tensor([0.5, 1.5]), torch.tensor([True, False])
    assert LF.binary_cross_entropy(probability, torch.ones(2), mask=mask).isfinite()


def test_off_broadcasts_like_torch():
    a, b = torch.randn(4, 1), torch.randn(4)
    with losskit.checks("off"):
        assert LF.mse_loss(a, b, reduction="none").shape == (4, 4)


def test_settings_restore_what_was_before():
    losskit.checks("nan")
    with losskit.checks("off"):
        pass
    with pytest.raises(ZeroDivisionError), losskit.checks("raise"):
        raise ZeroDivisionError
    with losskit.checks("off"), losskit.empty("zero"):
        assert LF.mse_loss(torch.empty(0), torch.empty(0)) == 0
    probability = torch.tensor([1.5])
    assert LF.binary_cross_entropy(probability, torch.ones(1)).isnan()
    assert LF.mse_loss(torch.empty(0), torch.empty(0)).isnan()


@pytest.mark.parametrize("setup", samples.everything())
def test_every_domain_is_enforced(setup):
    """Values just outside each domain, from the domain itself: in operands, fused and eager, and in parameters."""
    names = setup.names
    for position, name in enumerate(names):
        only_with = setup.loss.operands[name].only_with
        if only_with and not setup.params.get(only_with):
            continue  # only warned of
        for value in setup.domain(name).invalid():
            operands = setup.operands((2, 3))
            operands[position][1, 2] = value
            for extra in ({}, {"sample_weight": torch.ones((), requires_grad=True)}):
                with pytest.raises(
                    ValueError, match=rf"^{setup.loss.name}: {name} must be .*, got .* at index \(1, 2\)"
                ):
                    setup(*operands, **extra)
    for name, declared in setup.loss.params.items():
        if declared.kind == "float":
            for value in declared.domain.invalid():
                with pytest.raises(
                    ValueError, match=rf"^{setup.loss.name}: {name} must be {re.escape(declared.domain.description)}"
                ):
                    setup.loss(**{name: value})
