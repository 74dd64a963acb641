"""What the tests of the ordered family share: operands, and both paths."""

from __future__ import annotations

import math

import pytest
import torch
from row_samples import without_kernels

import losskit

NAN, INF = math.nan, math.inf
WIDE = (torch.float64, torch.float32)
PATHS = pytest.mark.parametrize("path", ["fused", "eager"])
LOSSES = (
    losskit.ListMLELoss, losskit.CoxPHLoss, losskit.SquaredEMDLoss, losskit.LovaszHingeLoss, losskit.LovaszSoftmaxLoss
)  # fmt: skip


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def whole(high, *shape, seed=1):
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def with_gradient(function, x, *others, **kwargs):
    x = x.detach().requires_grad_()
    loss = function(x, *others, **kwargs)
    (gradient,) = torch.autograd.grad(loss.sum(), x)
    return loss.detach(), gradient


def operands(cls, dtype=torch.float64):
    """An ordinary call: three units, with ties, and padding where the loss has a mask of elements."""
    if cls is losskit.ListMLELoss:
        return [normal(3, 7, dtype=dtype), whole(4, 3, 7), whole(4, 3, 7, seed=2) > 0]
    if cls is losskit.CoxPHLoss:
        return [normal(3, 7, dtype=dtype), whole(4, 3, 7), whole(2, 3, 7, seed=2), whole(5, 3, 7, seed=3) > 0]
    if cls is losskit.SquaredEMDLoss:
        return [normal(3, 7, dtype=dtype), whole(7, 3)]
    if cls is losskit.LovaszHingeLoss:
        return [normal(3, 2, 5, dtype=dtype), whole(2, 3, 2, 5), whole(4, 3, 2, 5, seed=2) > 0]
    return [normal(3, 4, 2, 5, dtype=dtype), whole(3, 3, 2, 5)]


def take(path, monkeypatch):
    """From now on calls take this path."""
    if path == "eager":
        without_kernels(monkeypatch)


def list_mle(x, t):
    v = x.gather(-1, t.argsort(dim=-1, descending=True, stable=True))
    return (v.flip(-1).logcumsumexp(-1).flip(-1) - v).sum(-1)
