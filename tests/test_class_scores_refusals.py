"""The class-scores family: what is refused, in which words, and indices that are no classes."""

import math
import re

import pytest
import torch

import losskit
import losskit.functional as LF

X, Y = torch.zeros(4, 5), torch.tensor([0, 1, 2, 3])
REFUSED = {
    "input must have a dimension of classes, got a scalar.": lambda: LF.cross_entropy(torch.tensor(1.0), Y),
    "input must have at least one class, got shape (4, 0).": lambda: LF.cross_entropy(torch.zeros(4, 0), Y),
    "input must be floating point, got torch.int64. Use input.float().": lambda: LF.cross_entropy(X.long(), Y),
    "target must be a tensor, got list. Use torch.as_tensor(target).": lambda: LF.cross_entropy(X, [0, 1, 2, 3]),
    "target must be a class in [0, 5), got 5 at row (1,). Class indices start at 0.": lambda: LF.cross_entropy(
        X, torch.tensor([0, 5, 2, 3])
    ),
    "target must be a class in [0, 5), got -1 at row (3,). Pass ignore_index=-1 to skip such rows.": (
        lambda: LF.cross_entropy(X, torch.tensor([0, 1, 2, -1]))
    ),
    "target must be a class in [0, 5), got 255 at row (0, 1). Pass ignore_index=255 to skip such rows.": (
        lambda: LF.cross_entropy(torch.zeros(1, 5, 2), torch.tensor([[0, 255]], dtype=torch.uint8))
    ),
    "target must be class indices of shape (4,) or probabilities of shape (4, 5), got torch.float32 of shape (4,). "
    "Use target.long() for class indices.": lambda: LF.cross_entropy(X, Y.float()),
    "target must be class indices of shape (4,) for input (4, 5), got torch.int64 of shape (4, 5). Use "
    "target.argmax(1) or, for probabilities, target.float().": lambda: LF.cross_entropy(X, X.long()),
    "target must be class indices of shape (4,) for input (4, 5), got torch.int64 of shape (4, 1). Did you mean "
    "target.squeeze(1)?": lambda: LF.cross_entropy(X, Y[:, None]),
    "target must be class indices of shape (2, 4) for input (2, 3, 4), got torch.int64 of shape (2, 3). The classes are "
    "dimension 1: did you mean input.movedim(-1, 1)?": lambda: LF.cross_entropy(
        torch.zeros(2, 3, 4), Y[:1].expand(2, 3)
    ),
    "weight must have one entry for each of 5 classes, got shape (4,).": lambda: LF.cross_entropy(X, Y, torch.ones(4)),
    "weight is torch.float16 but input is torch.float32. Use weight.to(input.dtype).": lambda: LF.cross_entropy(
        X, Y, torch.ones(5).half()
    ),
    "target must be in [0, 1], got 1.5 at index (0, 2).": lambda: LF.cross_entropy(
        X[:1], torch.tensor([[0.0, 0.0, 1.5, 0.0, 0.0]])
    ),
    "ignore_index=2 needs class indices, got probabilities.": lambda: LF.cross_entropy(X, X, ignore_index=2),
    "label_smoothing must be in [0, 1], got 1.5.": lambda: LF.cross_entropy(X, Y, label_smoothing=1.5),
    "ignore_index must be an integer, got 1.5.": lambda: LF.cross_entropy(X, Y, ignore_index=1.5),
    "sample_weight (5,) must broadcast to (4,).": lambda: LF.cross_entropy(X, Y, sample_weight=torch.ones(5)),
    "mask must be boolean (True = counts), got torch.float32. Use mask.bool().": lambda: LF.cross_entropy(
        X, Y, mask=torch.ones(4)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises((ValueError, TypeError), match=f"^{re.escape('cross_entropy: ' + message)}$"):
        REFUSED[message]()


def test_nll_of_probabilities_is_refused():
    with pytest.raises(ValueError, match=r"^nll_loss: input must be a log-probability \(at most 0\), got 0.25 at index "
                       r"\(0, 1\). Pass log_softmax\(scores, dim=1\).$"):  # fmt: skip
        LF.nll_loss(torch.full((2, 4), 0.25), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"^nll_loss: target must be class indices of shape"):
        LF.nll_loss(torch.zeros(2, 4), torch.zeros(2, 4))
    with losskit.checks("off"):
        assert LF.nll_loss(torch.full((2, 4), 0.25), torch.tensor([1, 2])) == -0.25


@pytest.mark.parametrize("classes", [2, 7, 30, 1000])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
def test_wild_indices_never_read_foreign_memory(classes, dtype):
    """In no mode: such rows are NaN, their neighbours are not touched, and under "raise" the row is named."""
    limits = torch.iinfo(dtype)
    for wild in (classes, -1, limits.min, limits.max):
        if not limits.min <= wild <= limits.max or 0 <= wild < classes:
            continue
        x = torch.zeros(5, classes, requires_grad=True)
        y = torch.tensor([0, 1, wild, 1, 0], dtype=dtype)
        for mode in ("off", "nan"):
            with losskit.checks(mode):
                rows = LF.cross_entropy(x, y, reduction="none")
                (gradient,) = torch.autograd.grad(rows.sum(), x)
                assert LF.nll_loss(x, y, reduction="none").isnan().tolist() == [False, False, True, False, False]
                total = LF.cross_entropy(x, y, weight=torch.ones(classes))
            assert rows.isnan().tolist() == [False, False, True, False, False]
            assert gradient.isnan().any(1).tolist() == [False, False, True, False, False]
            assert total.isnan()
        with pytest.raises(ValueError, match=rf"got {wild} at row \(2,\)"):
            LF.cross_entropy(x, y)
        keep = torch.tensor([True, True, False, True, True])
        assert LF.cross_entropy(x, y, mask=keep).item() == pytest.approx(math.log(classes))
