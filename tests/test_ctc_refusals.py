"""CTC: NaN in gives NaN out; what is refused, in which words, and what the other modes of checking make of it."""

import pytest
import torch
from ctc_batches import MODES, NAN, batch, both, ctc_loss

import losskit
from losskit.losses.ctc import CTCLoss
from losskit.plans import plan_of


@pytest.mark.parametrize("mode", MODES, ids=lambda m: next(iter(m), "default"))
@pytest.mark.parametrize("where", [0, 1, 4])
def test_nan_in_gives_nan_out(where, mode):
    x, targets, inputs, lengths = batch(torch.float32)
    x[2, 0, where] = NAN
    x[10:, 1] = NAN  # beyond its 9 frames
    loss, _ = both(x.double(), targets, inputs, lengths, reduction="none", **mode)
    assert loss.isnan().tolist() == [True, False, False, False, False]
    y = x.requires_grad_()
    loss = ctc_loss(y, targets, inputs, lengths, reduction="none", zero_infinity=True, **mode)
    loss.sum().backward()
    assert y.grad[:, 0].isnan().all()
    assert y.grad[:, 1:].isfinite().all()


X, TARGETS, INPUTS, LENGTHS = batch()
X = X.log_softmax(2)
LONG = torch.tensor([1, 2, 3, 4, 5])


def changed(tensor, index, value):
    result = tensor.clone()
    result[index] = value
    return result


VIOLATIONS = {
    "input_lengths must be in [0, 14], the number of frames, got 15 at index (1,).": (
        TARGETS, changed(INPUTS, 1, 15), LENGTHS),
    "input_lengths must be in [0, 14], the number of frames, got -1 at index (2,).": (
        TARGETS, changed(INPUTS, 2, -1), LENGTHS),
    "target_lengths must be in [0, 4], the width of targets, got 5 at index (0,).": (
        TARGETS, INPUTS, changed(LENGTHS, 0, 5)),
    "target_lengths must be in [0, 5], the number of targets, got 6 at index (3,).": (
        LONG, INPUTS, torch.tensor([1, 1, 1, 6, 1])),
    "target_lengths must be lengths that add up to 5, the number of targets, got 4.": (
        LONG, INPUTS, torch.tensor([1, 1, 1, 1, 0])),
    "target_lengths must be lengths that add up to 5, the number of targets, got 7.": (
        LONG, INPUTS, torch.tensor([2, 2, 2, 1, 0])),
    "targets must be labels in [0, 6), got 6 at index (4, 2).": (changed(TARGETS, (4, 2), 6), INPUTS, LENGTHS),
    "targets must be labels in [0, 6), got -1 at index (0, 0).": (changed(TARGETS, (0, 0), -1), INPUTS, LENGTHS),
    "targets must be labels in [0, 6), got 9 at index (3,). It is label 1 of sample 1.": (
        changed(LONG, 3, 9), INPUTS, torch.tensor([2, 2, 0, 1, 0])),
    "targets must be labels other than the blank, 0, got 0 at index (1, 0).": (
        changed(TARGETS, (1, 0), 0), INPUTS, LENGTHS),
}  # fmt: skip


@pytest.mark.parametrize("message", VIOLATIONS)
def test_violations(message):
    targets, inputs, lengths = VIOLATIONS[message]
    plan = plan_of(CTCLoss, "sum", 0, False, False, False)
    given = plan.validated((X, targets, inputs, lengths), None, None, None, None)
    for call in (
        lambda: ctc_loss(X, targets, inputs, lengths, reduction="sum"),
        lambda: plan.eager(given, "raise"),
        lambda: torch.func.vmap(lambda x: ctc_loss(x, targets, inputs, lengths, reduction="sum"))(torch.stack([X, X])),
    ):
        with pytest.raises(ValueError) as refused:  # noqa: PT011  # the text is compared
            call()
        assert str(refused.value) == "ctc_loss: " + message
    with pytest.raises(ValueError, match=r"^ctc_loss: "):  # nobody knows which of the batch
        torch.func.vmap(lambda t, n, m: ctc_loss(X, t, n, m))(
            *(torch.stack([y, y]) for y in (targets, inputs, lengths))
        )
    for checks in ("nan", "off"):
        with losskit.checks(checks):
            loss, gradient = both(X, targets, inputs, lengths, reduction="none", zero_infinity=True)
            if "add up" not in message:
                assert 1 <= loss.isnan().sum() < 5
            bad = loss.isnan()
            assert gradient[:, bad].isnan().all()
            assert gradient[:, ~bad].isfinite().all()


def test_no_foreign_memory_whatever_the_indices_are():
    x, targets, inputs, lengths = batch(torch.float32)
    huge = 2**62
    with losskit.checks("off"):
        for given in (
            (changed(targets, (0, 0), huge), inputs, lengths),
            (changed(targets, (0, 0), -huge), inputs, lengths),
            (targets, changed(inputs, 0, huge), lengths),
            (targets, inputs, changed(lengths, 0, huge)),
            (LONG, inputs, torch.tensor([huge, huge, huge, huge, 1])),
            (LONG, inputs, torch.tensor([-huge, 3, 3, 3, 3])),
        ):
            assert ctc_loss(x.requires_grad_(), *given, reduction="none")[0].isnan()


MISTAKES = {
    "log_probs must be a tensor, got list. Use torch.as_tensor(log_probs).": lambda: ctc_loss([1.0], TARGETS, INPUTS, LENGTHS),
    "log_probs must be floating point, got torch.int64. Use log_probs.float().": lambda: ctc_loss(
        X.long(), TARGETS, INPUTS, LENGTHS),
    "log_probs must be of shape (T, N, C) or (T, C) with at least one class, got shape (14,).": lambda: ctc_loss(
        X[:, 0, 0], TARGETS, INPUTS, LENGTHS),
    "log_probs must be of shape (T, N, C) or (T, C) with at least one class, got shape (14, 5, 0).": lambda: ctc_loss(
        X[:, :, :0], TARGETS, INPUTS, LENGTHS),
    "blank must be a class in [0, 6), got 6.": lambda: ctc_loss(X, TARGETS, INPUTS, LENGTHS, blank=6),
    "blank must be non-negative, got -1.": lambda: ctc_loss(X, TARGETS, INPUTS, LENGTHS, blank=-1),
    "blank must be an integer, got 0.5.": lambda: ctc_loss(X, TARGETS, INPUTS, LENGTHS, blank=0.5),
    "targets must be integer labels, got torch.float32.": lambda: ctc_loss(X, TARGETS.float(), INPUTS, LENGTHS),
    "targets must be of shape (5, S) or, one after another, (L,), for log_probs (14, 5, 6), got shape (4, 5).":
        lambda: ctc_loss(X, TARGETS.T, INPUTS, LENGTHS),
    "targets must be of shape (S,), for log_probs (14, 6), got shape (5, 4).": lambda: ctc_loss(X[:, 0], TARGETS, 3, 3),
    "targets must be a tensor, got list. Use torch.as_tensor(targets).": lambda: ctc_loss(X, [1, 2], INPUTS, LENGTHS),
    "input_lengths must be 5 integers, one for each sample, got torch.float32.": lambda: ctc_loss(
        X, TARGETS, INPUTS.float(), LENGTHS),
    "input_lengths must be 5 integers, one for each sample, got shape (4,).": lambda: ctc_loss(
        X, TARGETS, INPUTS[:4], LENGTHS),
    "input_lengths must be 5 integers, one for each sample, got [1.0, 2, 3, 4, 5].": lambda: ctc_loss(
        X, TARGETS, [1.0, 2, 3, 4, 5], LENGTHS),
    "target_lengths must be 5 integers, one for each sample, got shape ().": lambda: ctc_loss(X, TARGETS, INPUTS, 3),
    "target_lengths must be 5 integers, one for each sample, got NoneType.": lambda: ctc_loss(X, TARGETS, INPUTS, None),
    "target_lengths must be an integer, got shape (2,).": lambda: ctc_loss(X[:, 0], TARGETS[0], 3, [1, 2]),
    "mask (4,) must broadcast to (5,).": lambda: ctc_loss(X, TARGETS, INPUTS, LENGTHS, mask=torch.ones(4).bool()),
    "mask must be boolean (True = counts), got torch.float32. Use mask.bool().": lambda: ctc_loss(
        X, TARGETS, INPUTS, LENGTHS, mask=torch.ones(5)),
    "reduction must be one of 'none', 'mean', 'sum', got 'avg'.": lambda: ctc_loss(
        X, TARGETS, INPUTS, LENGTHS, reduction="avg"),
    "targets is on meta but log_probs is on cpu.": lambda: ctc_loss(X, TARGETS.to("meta"), INPUTS, LENGTHS),
}  # fmt: skip


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes(message):
    with pytest.raises((ValueError, TypeError)) as refused:
        MISTAKES[message]()
    assert str(refused.value) == "ctc_loss: " + message
