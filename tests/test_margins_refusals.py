"""The score-margins family: what is refused, in which words, and what the other modes of checking make of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # its usual name
from margin_rows import multi, multilabel, scores, with_gradient

import losskit

X = torch.zeros(4, 3)
Y = torch.tensor([0, 1, 2, 0])
REFUSED = [
    (lambda: multi(X, torch.tensor([0, 1, 3, -1])), "target must be a class in [0, 3), got 3 at row (2,). Class ind"),
    (lambda: multi(X, torch.tensor([0, 1, 2, -1])), "target must be a class in [0, 3), got -1 at row (3,)."),
    (lambda: multi(X[0], torch.tensor(3)), "target must be a class in [0, 3), got 3 at row ()."),
    (lambda: multi(X, Y.float()), "target must be class indices of shape (4,) for input (4, 3), got torch.float32 of "
     "shape (4,). Use target.long()."),
    (lambda: multi(X, X > 0), "target must be class indices of shape (4,) for input (4, 3), got torch.bool of "
     "shape (4, 3). Use target.argmax(-1)."),
    (lambda: multi(X, Y[:, None]), "target must be class indices of shape (4,) for input (4, 3), got torch.int64 of "
     "shape (4, 1). Did you mean target.squeeze(1)?"),
    (lambda: multi(X, Y[:3]), "target must be class indices of shape (4,) for input (4, 3), got torch.int64 of shape "
     "(3,)."),
    (lambda: multi(X.long(), Y), "input must be floating point, got torch.int64. Use input.float()."),
    (lambda: multi(X[None], Y), "input must be of shape (N, C) or (C,), got shape (1, 4, 3)."),
    (lambda: multi(X[:, :0], Y), "input must have at least one class, got shape (4, 0)."),
    (lambda: multi(X, Y, weight=torch.ones(4)), "weight must have one entry for each of 3 classes, got shape (4,)."),
    (lambda: multi(X, Y, weight=torch.ones(3).half()), "weight is torch.float16 but input is torch.float32."),
    (lambda: multi(X, Y, p=3), "p must be 1 or 2, got 3."),
    (lambda: multi(X, Y, sample_weight=torch.ones(3)), "sample_weight (3,) must broadcast to (4,)."),
    (lambda: multi(X, Y, mask=torch.ones(4)), "mask must be boolean (True = counts), got torch.float32."),
    (lambda: multilabel(X, torch.tensor([[0, 1, -1]] * 3 + [[2, 3, 0]])), "target must be class indices in [0, 3), "
     "ended by -1, got 3 at index (3, 1)."),
    (lambda: multilabel(X[0], torch.tensor([2, -2, 0])), "target must be class indices in [0, 3), ended by -1, got -2 "
     "at index (1,)."),
    (lambda: multilabel(X, torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])), "target must be the class "
     "indices of each row, ended by -1, got rows of 0 and 1 alone, which is a mask: multilabel_soft_margin_loss takes "
     "one."),
    (lambda: multilabel(X, X > 0), "target must be integer class indices, ended by -1, got torch.bool."),
    (lambda: multilabel(X, Y), "input (4, 3) and target (4,) must have the same shape."),
]  # fmt: skip


@pytest.mark.parametrize("path", ["fused", "eager"])
@pytest.mark.parametrize(("call", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_refusals(call, message, path, monkeypatch):
    if path == "eager":
        monkeypatch.setattr("losskit.kernels.dispatch.observed", lambda: True)
    with pytest.raises((ValueError, TypeError)) as raised:
        call()
    assert str(raised.value).split(": ", 1)[1].startswith(message)


@pytest.mark.parametrize("path", ["fused", "eager"])
def test_other_modes_of_checking(path, monkeypatch):
    """An index that is no class makes its row NaN, without reading memory that is not there."""
    if path == "eager":
        monkeypatch.setattr("losskit.kernels.dispatch.observed", lambda: True)
    x = scores((4, 3), torch.float32)
    for mode in ("nan", "off"):
        with losskit.checks(mode):
            value, gradient = with_gradient(multi, x, torch.tensor([0, 2**40, 2, -(2**40)]), reduction="none")
            assert value.isnan().tolist() == [False, True, False, True]
            assert gradient.isnan().all(1).tolist() == [False, True, False, True]
            y = torch.tensor([[0, 2**40, -1], [-1, 7, 7], [1, -5, 0], [2, -1, 0]])
            value, gradient = with_gradient(multilabel, x, y, reduction="none")
            assert value.isnan().tolist() == [True, False, True, False]
            assert gradient.isnan().all(1).tolist() == [True, False, True, False]
    masks = torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])
    with losskit.checks("nan"):
        assert multilabel(x, masks, reduction="none").isnan().all()
    with losskit.checks("off"):
        torch.testing.assert_close(multilabel(x, masks), F.multilabel_margin_loss(x, masks))


def test_what_only_resembles_a_mask():
    """A row of 0 and 1 among rows that are none, two classes, masked rows."""
    x = scores((3, 3), torch.float64)
    repeated = torch.tensor([[0, 1, 0], [1, 0, 2], [0, 0, 0]])
    torch.testing.assert_close(multilabel(x, repeated), F.multilabel_margin_loss(x, repeated))
    two = torch.tensor([[0, 1], [1, 0], [1, 1]])
    torch.testing.assert_close(multilabel(x[:, :2], two), F.multilabel_margin_loss(x[:, :2], two))
    counts = torch.tensor([True, False, True])
    with pytest.raises(ValueError, match="which is a mask"):
        multilabel(x, repeated, mask=counts)
    assert multilabel(x, repeated, mask=~counts).isfinite()
