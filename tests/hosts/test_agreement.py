"""That the comparison itself is awake: what is replaced, that it comes back, and that a small error is seen."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F  # its usual name
from agreement import FLOAT32, asked, assert_near, assert_same, both, train
from torch import nn

import losskit

INPUT = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 3


def three() -> nn.Module:
    return nn.Linear(4, 3)


def test_names_that_a_host_has_imported_are_replaced_and_restored(monkeypatch):
    host = ModuleType("a_host")
    host.loss_of_mine = F.cross_entropy
    monkeypatch.setitem(sys.modules, "a_host", host)
    of_torch = F.cross_entropy
    with losskit.accelerate() as report:
        host.loss_of_mine(INPUT, LABELS)
        F.cross_entropy(INPUT, LABELS)
        nn.CrossEntropyLoss()(INPUT, LABELS)
        assert asked(report) == {"cross_entropy": 3}
    assert host.loss_of_mine is F.cross_entropy is of_torch


def test_a_host_that_computes_its_own_loss_proves_nothing():
    with pytest.raises(AssertionError, match="the host computes its own"):
        both(three, lambda model: model(INPUT).square().mean())


def test_an_error_of_a_ten_thousandth_is_seen(monkeypatch):
    def nearly(*args, **kwargs):
        return losskit.CrossEntropyLoss()(*args) * 1.0001

    monkeypatch.setattr("losskit.functional.cross_entropy", nearly)
    ours, theirs = both(three, lambda model: nn.CrossEntropyLoss()(model(INPUT), LABELS))
    with pytest.raises(AssertionError, match="losses: off by"):
        assert_same(ours, theirs)


def test_a_lost_gradient_and_a_lost_nan_are_seen():
    steps = train(three, lambda model: nn.CrossEntropyLoss()(model(INPUT), LABELS))
    steps.gradient.zero_()
    with pytest.raises(AssertionError, match="proves nothing"):
        assert_same(steps, steps)
    with pytest.raises(AssertionError, match="NaN in one"):
        assert_near(torch.tensor([1.0]), torch.tensor([float("nan")]), FLOAT32)
