"""Calls that are repeated: launched as a call before them was, when their tensors differ only in their place."""

import pytest
import row_samples
import samples
import torch

import losskit
import losskit.functional as LF
from losskit.kernels import gpu
from losskit.kernels.gpu import recording, violations
from losskit.plans import plan_of

CASES = [*map(samples.Setup, samples.built_in()), *row_samples.SAMPLES]


pytestmark = pytest.mark.usefixtures("repeating")


def operands_of(case, seed):
    shape = [(5, 4)] if isinstance(case, samples.Setup) else []
    given = case.loss._plan_class.gradients
    operands = enumerate(case.operands(*shape, dtype=torch.float32, seed=seed))
    return [x.requires_grad_(x.is_floating_point() and bool(given >> i & 1)) for i, x in operands]


def results(case, reduction, seed):
    """The loss and its gradients, of leaves that are new each time."""
    leaves = operands_of(case, seed)
    loss = case(*leaves, reduction=reduction)
    wanted = [x for x in leaves if x.requires_grad]
    return [loss.detach(), *torch.autograd.grad((loss * 1.5).sum(), wanted, allow_unused=True, materialize_grads=True)]


def prepared(case):
    """Whether each call makes tensors first: changed scores, weights with a factor, what a row has one of; or is not noted at all."""
    loss = case.loss
    changed = issubclass(loss, losskit.ClassScoresLoss) and (loss.target_score or loss.scaled_by)
    stretched = (
        issubclass(loss, losskit.PointwiseLoss)
        and loss.rows
        and any(operand.per_row for operand in loss.operands.values())
    )
    pooled = issubclass(loss, losskit.RegionsLoss) and loss.weigh is not None
    unrecorded = pooled or issubclass(loss, losskit.PairsLoss)
    return changed or stretched or unrecorded or (loss.name == "softmax_focal_loss" and "alpha" in case.params)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_is_the_call_that_it_repeats(case, reduction, seen, monkeypatch):
    repeated = [results(case, reduction, seed) for seed in (0, 1)]
    composed = issubclass(case.loss, losskit.PointwiseLoss) and case.loss._composed()  # each component is a view
    if str(case) == "multilabel_soft_margin_loss" and reduction == "none":  # torch takes the mean of its elements
        assert seen == {"noted": 0, "repeated": 0}
    elif issubclass(case.loss, losskit.ComposedLoss):
        pass  # what it calls may be recorded
    elif composed or prepared(case):
        assert seen["repeated"] == 0
    else:
        assert seen["repeated"] == seen["noted"] == (2 if reduction == "none" else 1)
    monkeypatch.setattr(gpu, "template_of", lambda *_: None)
    for seed, got in enumerate(repeated):
        for a, b in zip(got, results(case, reduction, seed), strict=True):
            assert torch.equal(a, b)


def mse(x, y, **options):
    return LF.mse_loss(x, y, **options)


def leaf(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype).requires_grad_()


CHANGES = {
    "shape": lambda: mse(leaf(3, 5), torch.randn(3, 5)),
    "strides": lambda: mse(leaf(4, 3).t(), torch.randn(3, 4)),
    "dtype": lambda: mse(leaf(3, 4, dtype=torch.float64), torch.randn(3, 4)),
    "no gradient": lambda: mse(torch.randn(3, 4), torch.randn(3, 4)),
    "both gradients": lambda: mse(leaf(3, 4), leaf(3, 4)),
    "alignment": lambda: mse(leaf(13)[1:].view(3, 4), torch.randn(3, 4)),
    "reduction": lambda: mse(leaf(3, 4), torch.randn(3, 4), reduction="sum"),
    "mask": lambda: mse(leaf(3, 4), torch.randn(3, 4), mask=torch.rand(3, 4) > 0.5),
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_call_is_not_like_it(change, by, seen):
    losskit.get("mse_loss")._plans.clear()
    mse(leaf(3, 4), torch.randn(3, 4)).backward()
    torch.manual_seed(0)
    got = CHANGES[change]()
    assert seen["repeated"] == 0
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu, "template_of", lambda *_: None)
        assert torch.equal(got, CHANGES[change]())


def test_settings_are_part_of_a_call(by, seen):
    x, bad = leaf(3), torch.tensor([0.5, 2.0, 0.0])

    def loss():
        return LF.binary_cross_entropy_with_logits(x, bad)

    assert loss().isnan()
    with losskit.checks("off"):
        assert not loss().isnan()
    assert loss().isnan()
    with torch.no_grad():
        assert not loss().requires_grad
    assert seen["repeated"] == 1


def test_operands_in_the_same_place(by):
    """The first call gives one tensor twice; the next like it does not."""
    x, y = torch.randn(2, 3, 4).unbind()
    losskit.get("mse_loss")._plans.clear()
    assert mse(x, x) == 0
    torch.testing.assert_close(mse(x, y), torch.nn.functional.mse_loss(x, y))
    assert mse(y, y) == 0


def test_violations_are_told_of_repeated_calls(by, seen):
    scores = torch.randn(4, 3)
    for place in (1, 3):
        target = torch.zeros(4, dtype=torch.int64)
        target[place] = 7
        assert LF.cross_entropy(scores, target).isnan()
        assert f"got 7 at row ({place},)" in losskit.last_violation()
    assert seen["repeated"] == 1
    for width in range(violations.MOST + 1):  # so many other calls that the id of the first is given away
        violations.number_of(plan_of(losskit.get("mse_loss"), "mean"), (width,))
    assert LF.cross_entropy(scores, target).isnan()
    assert "got 7 at row (3,)" in losskit.last_violation()
    assert seen["noted"] == 2


def test_what_autograd_asks_of_a_repeated_call(by, seen):
    """A second backward, a double backward, an operand that was changed in between."""
    target = torch.randn(3, 4)
    for _ in range(2):
        x = leaf(3, 4)
        loss = mse(x, target)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    (again,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(again, first)
    (second,) = torch.autograd.grad(again.sum(), x)
    torch.testing.assert_close(second, torch.full((3, 4), 2 / 12))
    loss = mse(x, target, reduction="none")
    with torch.no_grad():
        x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.sum().backward()
    assert seen["repeated"] >= 1


def test_a_shape_that_changes_with_every_call_does_not_fill_the_memory():
    plan = plan_of(losskit.get("mse_loss"), "mean")
    for n in range(1, recording.MOST + 3):
        recording.template_of(plan, [torch.empty(n), torch.empty(n)], None)
    assert len(plan.templates) <= recording.MOST
