"""Operands that are changed between forward and backward, as torch lets them be."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import losskit.functional as LF

INF = float("inf")
REDUCTIONS = ("none", "mean", "sum")


def _twins() -> list[Any]:
    g = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g)

    signs, labels = torch.tensor([1.0, -1, 1, 1]), torch.tensor([0, 2, 1, 4])
    scores = normal(4, 5)
    operands = {
        "l1_loss": [scores, normal(4, 5)], "mse_loss": [scores, normal(4, 5)], "huber_loss": [scores, normal(4, 5)],
        "smooth_l1_loss": [scores, normal(4, 5)], "soft_margin_loss": [normal(4), signs],
        "binary_cross_entropy": [scores.sigmoid(), normal(4, 5).sigmoid()],
        "binary_cross_entropy_with_logits": [scores, normal(4, 5).sigmoid()],
        "kl_div": [scores.log_softmax(1), normal(4, 5).softmax(1)], "poisson_nll_loss": [scores, normal(4, 5).abs()],
        "gaussian_nll_loss": [scores, normal(4, 5), normal(4, 5).abs() + 0.1],
        "hinge_embedding_loss": [normal(4), signs], "margin_ranking_loss": [normal(4), normal(4), signs],
        "multilabel_soft_margin_loss": [scores, (normal(4, 5) > 0).float()], "multi_margin_loss": [scores, labels],
        "multilabel_margin_loss": [scores, torch.tensor([[3, 0, -1, 1, 2]] * 4)],
        "cross_entropy": [scores, labels], "nll_loss": [scores.log_softmax(1), labels],
        "cosine_embedding_loss": [scores, normal(4, 5), signs],
        "triplet_margin_loss": [scores, normal(4, 5), normal(4, 5)],
        "ctc_loss": [normal(6, 4, 5).log_softmax(2), torch.tensor([[1, 2], [3, 3], [1, 4], [2, 1]]),
                     torch.full((4,), 6), torch.full((4,), 2)],
    }  # fmt: skip
    twins = [pytest.param(name, given, id=name) for name, given in operands.items()]
    return [*twins, pytest.param("cross_entropy", [scores, normal(4, 5).softmax(1)], id="cross_entropy-probabilities")]


def _changed(function: Any, operands: list[Tensor], wanted: Any, changed: int, reduction: str) -> Any:
    """Gradients where one operand was changed after forward; None where that is an error."""
    leaves = [x.clone().requires_grad_(i in wanted) for i, x in enumerate(operands)]
    given = [x * 1 if i in wanted else x for i, x in enumerate(leaves)]
    try:
        loss = function(*given, reduction=reduction)
    except RuntimeError:  # torch has no gradient by every target
        return None
    with torch.no_grad():
        given[changed].mul_(0.5) if given[changed].is_floating_point() else given[changed].copy_(given[changed].flip(0))
    try:
        found = torch.autograd.grad(loss, [leaves[i] for i in wanted], torch.full_like(loss, 1.5), allow_unused=True)
    except RuntimeError:
        return None
    return [torch.zeros_like(leaves[i]) if g is None else g for i, g in zip(wanted, found, strict=True)]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")  # torch's, of kl_div
@pytest.mark.parametrize(("name", "operands"), _twins())
def test_operands_may_be_changed_where_torch_lets_them(name, operands):
    floating = [i for i, x in enumerate(operands) if x.is_floating_point()]
    for reduction, changed in itertools.product(REDUCTIONS, range(len(operands))):
        for count in range(1, len(floating) + 1):
            for wanted in itertools.combinations(floating, count):
                expected = _changed(getattr(F, name), operands, wanted, changed, reduction)
                if expected is None:
                    continue
                got = _changed(getattr(LF, name), operands, wanted, changed, reduction)
                assert got is not None, (reduction, changed, wanted)
                if name == "hinge_embedding_loss" and 1 in wanted:
                    got, expected = got[:1], expected[:1]  # torch's `where` has no gradient by the target
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_a_second_derivative_of_what_was_changed_is_torchs_error():
    scores = torch.randn(4, 5, requires_grad=True)
    given = scores * 1
    loss = LF.cross_entropy(given, torch.tensor([0, 1, 2, 3]), reduction="none")
    given.detach().mul_(0.5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss.sum(), scores, create_graph=True)


def test_what_does_not_count_has_no_gradient_whatever_the_upstream_one():
    """Masked elements and ignored rows: exact zeros, where an upstream gradient of NaN or inf times 0 is NaN."""
    upstream = torch.tensor([float("nan"), 1.0, INF])
    scores = torch.randn(3, 4, requires_grad=True)
    loss = LF.cross_entropy(scores, torch.tensor([-100, 1, -100]), reduction="none")
    (gradient,) = torch.autograd.grad(loss, scores, upstream)
    assert gradient[[0, 2]].eq(0).all() and gradient[1].isfinite().all()
    x = torch.randn(3, requires_grad=True)
    loss = LF.mse_loss(x, torch.zeros(3), mask=torch.tensor([False, True, False]), reduction="none")
    assert torch.autograd.grad(loss, x, upstream)[0].tolist() == [0.0, 2 * x[1].item(), 0.0]
