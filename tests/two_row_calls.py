"""Losses of two rows, their operands, and calls by the kernel and by the formula in torch."""

from __future__ import annotations

import math

import pytest
import torch

import losskit
from losskit import JensenShannonLoss, KnowledgeDistillationLoss, ReverseKLDivLoss, TotalVariationDistanceLoss

LOSSES = {
    "kd": KnowledgeDistillationLoss(temperature=2.0),
    "reverse": ReverseKLDivLoss(),
    "jsd": JensenShannonLoss(beta=0.3),
    "jsd forward": JensenShannonLoss(beta=0.0),
    "jsd reverse": JensenShannonLoss(beta=1.0),
    "tv": TotalVariationDistanceLoss(),
}
EACH = pytest.mark.parametrize("name", LOSSES)
SHAPES = [(5,), (1, 1), (3, 2), (120, 10), (7, 16), (3, 17), (2, 3, 33), (4, 513), (3, 1024), (2, 1025), (2, 2500)]
NAN, INF = math.nan, math.inf


def with_reduction(loss, reduction):
    return losskit.create(loss.config() | {"reduction": reduction})


def rows(shape, dtype=torch.float64, apart=2.0, seed=0):
    g = torch.Generator().manual_seed(seed)
    teacher = torch.randn(shape, generator=g, dtype=torch.float64) * 2.0
    student = teacher + apart * torch.randn(shape, generator=g, dtype=torch.float64)
    return student.to(dtype), teacher.to(dtype)


def eagerly(loss, *operands, sample_weight=None, mask=None, normalizer=None):
    plan = loss._planned()
    return plan.eager(plan.validated(operands, None, sample_weight, mask, normalizer), "off")


def both(loss, student, teacher, **extras):
    """Value and gradient by the kernel, and by the formula."""
    found = []
    for call in (loss, lambda *x, **k: eagerly(loss, *x, **k)):
        leaf = student.detach().clone().requires_grad_()
        value = call(leaf, teacher, **extras)
        upstream = torch.linspace(1.0, 2.0, max(value.numel(), 1), dtype=value.dtype)[: value.numel()]
        found.append((value.detach(), torch.autograd.grad(value, leaf, upstream.reshape(value.shape))[0]))
    return found
