"""Units that cannot have a loss, one rule for all families: such a unit is as if it were masked.

A row without a positive, a list without a pair, a set without an event, a class that is not there: each is exactly 0
under 'none', adds nothing to 'sum', does not count in the mean, nor does its weight, and has no gradient. The mean
over nothing follows `losskit.empty`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

import losskit
from losskit.families.base import Family
from losskit.kernels import library


@dataclass
class Case:
    """A call of two units or more, of which some have a loss, and a call of which none has."""

    loss: str
    operands: list[Tensor]
    has: list[bool]
    nothing: list[Tensor]
    params: dict[str, Any] = field(default_factory=dict)
    alone: bool = True  # whether the gradient by what only units without a loss take must be 0

    def __str__(self) -> str:
        return self.loss


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape) + shape[0]), dtype=torch.float64)


ROWS, LABELS, ALONE = draw(5, 3), torch.tensor([0, 0, 1, 1, 2]), torch.arange(5)
SCORES = draw(2, 4)
GRADES = torch.tensor([[2.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
NO_GRADES = torch.zeros(2, 4, dtype=torch.float64)
RELEVANT = torch.tensor([[2.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
TIMES = draw(2, 4).abs()
EVENTS = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
NO_EVENTS = torch.zeros(2, 4, dtype=torch.float64)

CASES = [
    Case(
        "cross_entropy", [draw(2, 4), torch.tensor([1, -100])], [True, False], [draw(2, 4), torch.tensor([-100, -100])]
    ),
    *(
        Case(name, [ROWS, LABELS], [True, True, True, True, False], [ROWS, ALONE], alone=False)
        for name in ("sup_con_loss", "circle_loss", "multi_similarity_loss", "batch_hard_triplet_loss")
    ),
    *(Case(name, [SCORES, GRADES], [True, False], [SCORES, NO_GRADES]) for name in ("rank_net_loss", "lambda_loss")),
    *(
        Case(name, [SCORES, RELEVANT], [True, False], [SCORES, NO_GRADES])
        for name in ("approx_ndcg_loss", "neural_ndcg_loss")
    ),
    Case(
        "soft_dtw_loss",
        [draw(2, 3, 1), draw(2, 4, 1), torch.tensor([3, 0])],
        [True, False],
        [draw(2, 3, 1), draw(2, 4, 1), torch.tensor([0, 0])],
    ),
]


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "formula"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_unit_without_a_loss(case, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(library, "available", lambda formula: False)
    function = losskit.get(case.loss).functional
    has = torch.tensor(case.has)
    first, *others = case.operands
    first = first.clone().requires_grad_()
    each = function(first, *others, **case.params, reduction="none")
    assert each.shape == has.shape
    assert torch.equal(each == 0, ~has), "the units with a loss must have one here"
    torch.testing.assert_close(function(first, *others, **case.params, reduction="sum"), each.sum())
    mean = function(first, *others, **case.params)
    torch.testing.assert_close(mean, each.sum() / has.sum())
    if case.alone:
        (slope,) = torch.autograd.grad(mean, first)
        assert not slope[~has].any()
        assert slope[has].any()
    weights = torch.arange(1.0, 1 + len(has), dtype=torch.float64)
    weighed = function(first, *others, **case.params, sample_weight=weights)
    torch.testing.assert_close(weighed, (each * weights).sum() / weights[has].sum())
    masked = function(first, *others, **case.params, mask=~has)
    assert masked.isnan(), "nothing is left that counts"


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "formula"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nothing_but_units_without_a_loss(case, kernel, monkeypatch):
    if not kernel:
        monkeypatch.setattr(library, "available", lambda formula: False)
    function = losskit.get(case.loss).functional
    first, *others = case.nothing
    first = first.clone().requires_grad_()
    mean = function(first, *others, **case.params)
    assert mean.isnan()
    (slope,) = torch.autograd.grad(mean, first)
    assert torch.equal(slope, torch.zeros_like(first))
    assert function(first, *others, **case.params, reduction="sum") == 0
    with losskit.empty("zero"):
        assert function(first, *others, **case.params) == 0


# Losses whose units always have a loss, by family: a declaration elsewhere must be in CASES.
ALWAYS = {"elements", "margins", "embeddings"}


def test_families_are_here():
    """Every family in which a unit may be without a loss has a case."""
    families = {cls._label for cls in losskit.list_losses().values() if issubclass(cls, Family)}
    here = {losskit.get(case.loss)._label for case in CASES}
    assert families - here - ALWAYS <= here
