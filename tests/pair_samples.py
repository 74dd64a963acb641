"""Calls of losses of pairs, and what their tests share."""

from __future__ import annotations

import proofs
import torch
from row_samples import Sample

SAMPLES = [Sample(name=name, **vars(v)) for name, proof in proofs.of_pairs().items() for v in proof.variants]
FIRST = [next(sample for sample in SAMPLES if sample.name == name) for name in proofs.of_pairs()]


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def value_and_gradients(function, *leaves):
    leaves = [x.detach().requires_grad_() for x in leaves]
    loss = function(*leaves)
    return [loss.detach(), *torch.autograd.grad(loss.sum(), leaves)]


def same(got, expected, rtol=1e-9, atol=1e-11):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
