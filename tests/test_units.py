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
    has: list[Any]
    nothing: list[Tensor]
    params: dict[str, Any] = field(default_factory=dict)
    of_nothing: dict[str, Any] = field(default_factory=dict)
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

LISTS = torch.tensor([[True, True, True, True], [False, False, False, False]])
PIXELS = torch.tensor([[0, 1, 1], [-100, -100, -100]])
CASES = [
    Case("cross_entropy", [draw(2, 4), torch.tensor([1, -100])], [True, False], [draw(2, 4), torch.full((2,), -100)]),
    *(
        Case(name, [ROWS, LABELS], [True, True, True, True, False], [ROWS, ALONE], alone=False)
        for name in ("sup_con_loss", "circle_loss", "batch_hard_triplet_loss")
    ),
    *(Case(name, [SCORES, GRADES], [True, False], [SCORES, NO_GRADES]) for name in ("rank_net_loss", "lambda_loss")),
    *(
        Case(name, [SCORES, RELEVANT], [True, False], [SCORES, NO_GRADES])
        for name in ("approx_ndcg_loss", "neural_ndcg_loss")
    ),
    *(
        Case(name, [SCORES, GRADES, LISTS], [True, False], [SCORES, GRADES, LISTS & False])
        for name in ("list_net_loss", "list_mle_loss")
    ),
    Case("lovasz_hinge_loss", [SCORES, EVENTS, LISTS], [True, False], [SCORES, EVENTS, LISTS & False]),
    Case("lovasz_softmax_loss", [draw(3, 3), torch.tensor([0, 1, 1])], [True, True, False],
         [draw(3, 3), torch.full((3,), -100)], alone=False),
    *(
        Case(name, [draw(2, 2, 3), PIXELS], [[True, True], [False, False]], [draw(2, 2, 3), PIXELS[[1, 1]]])
        for name in ("dice_loss", "tversky_loss", "jaccard_loss", "focal_tversky_loss", "log_cosh_dice_loss")
    ),
    Case("linear_chain_crf_loss", [draw(2, 3, 4), torch.ones(2, 3, dtype=torch.int64), draw(4, 4)], [True, False],
         [draw(2, 3, 4), torch.ones(2, 3, dtype=torch.int64), draw(4, 4)], {"lengths": torch.tensor([3, 0])},
         {"lengths": torch.tensor([0, 0])}),
    Case("rnnt_loss", [draw(2, 3, 3, 4), torch.ones(2, 2, dtype=torch.int64), torch.tensor([3, 0]), torch.tensor([2, 0])],
         [True, False], [draw(2, 3, 3, 4), torch.ones(2, 2, dtype=torch.int64), torch.zeros(2).long(), torch.zeros(2).long()]),
    Case(
        "soft_dtw_loss",
        [draw(2, 3, 1), draw(2, 4, 1), torch.tensor([3, 0])],
        [True, False],
        [draw(2, 3, 1), draw(2, 4, 1), torch.tensor([0, 0])],
    ),
]  # fmt: skip


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
    weights = torch.arange(1.0, 1 + has.numel(), dtype=torch.float64).reshape(has.shape)
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
    params = case.params | case.of_nothing
    mean = function(first, *others, **params)
    assert mean.isnan()
    (slope,) = torch.autograd.grad(mean, first)
    assert torch.equal(slope, torch.zeros_like(first))
    assert function(first, *others, **params, reduction="sum") == 0
    with losskit.empty("zero"):
        assert function(first, *others, **params) == 0


# Families whose units always have a loss, if they are not masked.
ALWAYS = {"pointwise", "margins", "embeddings", "two rows", "sequences"}


def test_families_are_here():
    """Every other family has a case."""
    families = {cls._label for cls in losskit.list_losses().values() if issubclass(cls, Family)}
    here = {losskit.get(case.loss)._label for case in CASES}
    assert families - here == ALWAYS
