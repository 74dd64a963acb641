"""Odd declarations and the ends of derivatives on a GPU: what the eager formula computes, the Triton kernel does."""

import math

import pytest
import test_declarations
import test_derivatives
import torch

import losskit
from losskit.loss import registered


def both(loss, operands, device):
    """Value and gradients of the GPU's kernel and of the eager formula."""
    found = []
    for weight in ({}, {"sample_weight": torch.ones(1, dtype=operands[0].dtype, device=device, requires_grad=True)}):
        leaves = [x.to(device).requires_grad_() for x in operands]
        value = loss(*leaves, **weight)
        found.append([value.detach(), *torch.autograd.grad(value.sum(), leaves, materialize_grads=True)])
    assert losskit.why(loss, *(x.to(device) for x in operands)).implementation == "fused GPU kernel"
    return found


@pytest.mark.parametrize("what", [what for what in test_declarations.ODD if what != "many terms"])
def test_every_path_computes_the_same(what, device):
    cls = test_declarations.declare(test_declarations.ODD[what])
    operands = [torch.randn(9) for _ in cls._call_operands()]
    kernel, eager = both(cls("none"), operands, device)
    for got, want in zip(kernel, eager):
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", test_derivatives.LOSSES)
def test_the_ends_of_what_people_write(name, device):
    function = test_derivatives.LOSSES[name][0]

    class EndsLoss(losskit.PointwiseLoss):
        """One of the losses that people write."""

        value = staticmethod(lambda input: function(input))

    registered.pop("ends_loss")
    points = torch.tensor([0.0, math.inf, -math.inf, math.nan, 1.5, -0.3])
    kernel, eager = both(EndsLoss("none"), [points], device)
    for got, want in zip(kernel, eager):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_what_only_parameters_decide_is_computed_in_double(device):
    cls = test_declarations.declare(test_declarations.formula_body("input * log(1.0 - q)", "input, q"))
    kernel, eager = both(cls("none", q=0.99), [torch.ones(3)], device)
    exact = torch.tensor(math.log1p(-0.99), dtype=torch.float64).float().item()
    assert kernel[0].tolist() == kernel[1].tolist() == eager[0].tolist() == [exact] * 3
