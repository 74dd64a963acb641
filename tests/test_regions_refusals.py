"""The regions family: what is refused, in which words; warnings; declarations and a loss of one's own."""

import pytest
import torch
from row_samples import without_kernels
from test_regions import ALL, NAN, SPACE, C, N, generator, scores, targets  # noqa: F401

import losskit
from losskit.losses.dice import DiceLoss

X, T = torch.randn(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)
Y = torch.zeros(2, 4, 5, dtype=torch.int64)


@pytest.mark.parametrize(
    ("operands", "given", "text"),
    [
        ((X, T[:, 0]), {}, "target must be class indices of shape (2, 4, 5) or probabilities of shape (2, 3, 4, 5), got "
         "torch.float32 of shape (2, 4, 5). Use target.long() for class indices."),
        ((X[:, :1], T[:, 0]), {}, "of shape (2, 4, 5). Did you mean target.unsqueeze(1)?"),
        ((X[:, :1], Y), {}, "of shape (2, 4, 5). Did you mean target.unsqueeze(1)?"),
        ((X, Y.unsqueeze(1)), {}, "Did you mean target.squeeze(1)?"),
        ((X, T.movedim(1, -1)), {}, "The classes are dimension 1: did you mean target.movedim(-1, 1)?"),
        ((X, Y, T[:, 0]), {}, "pixel_mask must be boolean (True = counts), got torch.float32. Use pixel_mask.bool()."),
        ((X, Y, T > 0), {}, "pixel_mask (2, 3, 4, 5) must broadcast to (2, 4, 5)."),
        ((X[:, :1], T[:, :1]), {"include_background": False}, "include_background must be True for an input of one "
         "class, got False."),
        ((X[:, :1], T[:, :1]), {"activation": "softmax"}, "activation must be 'sigmoid' or 'none' for an input of one "
         "class, got 'softmax'."),
        ((X[0, 0, 0], T[0, 0, 0]), {}, "input must be of shape (N, C, ...), got shape (5,)."),
        ((X, T), {"ignore_index": 255}, "ignore_index=255 needs class indices, got probabilities."),
        ((X, T), {"weight": torch.ones(4)}, "weight must have one entry for each of 3 classes, got shape (4,)."),
        ((X, T), {"mask": Y > 0}, "mask (2, 4, 5) must broadcast to (2, 3)."),
        ((X.long(), T), {}, "input must be floating point, got torch.int64."),
        ((X, Y + 3), {}, "target must be a class in [0, 3), got 3 at row (0, 0, 0). Class indices start at 0."),
        ((X, Y - 1), {}, "got -1 at row (0, 0, 0). Pass ignore_index=-1 to skip such pixels."),
        ((X, T + 1.5), {}, "target must be in [0, 1], got 1.5 at index (0, 0, 0, 0)."),
        ((X, T + 1.5), {"include_background": False}, "got 1.5 at index (0, 1, 0, 0)."),
        ((X.abs() + 2, T), {"activation": "none"}, "input must be in [0, 1]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["fused", "eager"])
def test_refusals(operands, given, text, path, monkeypatch):
    if path == "eager":
        without_kernels(monkeypatch)
    with pytest.raises(losskit.LossError) as caught:
        DiceLoss.functional(*operands, **given)
    assert f"dice_loss: {text}" in str(caught.value) or text in str(caught.value)


@pytest.mark.parametrize("path", ["fused", "eager"])
def test_bad_values_are_told_at_their_place(path, monkeypatch):
    """In the operand as it was given, whatever its memory is like; or become NaN."""
    if path == "eager":
        without_kernels(monkeypatch)
    y = Y.clone()
    y[1, 2, 3] = 9
    t = T.clone()
    t[1, 2, 3, 4] = -0.5
    for batch in (False, True):
        given = {"batch": batch, "activation": "softmax"}
        with pytest.raises(losskit.LossIndexError, match=r"got 9 at row \(1, 2, 3\)"):
            DiceLoss.functional(X.movedim(1, -1).contiguous().movedim(-1, 1), y, **given)
        with pytest.raises(losskit.LossValueError, match=r"got -0\.5 at index \(1, 2, 3, 4\)"):
            DiceLoss.functional(X, t.movedim(1, -1).contiguous().movedim(-1, 1), **given)
    for mode in ("nan", "off"):
        with losskit.checks(mode):
            each = DiceLoss.functional(X, y, reduction="none")
            assert each[0].isfinite().all()
            assert each[1].isnan().all()
    with losskit.checks("nan"):
        each = DiceLoss.functional(X, t, reduction="none")
        assert each.isnan().tolist() == [[False] * 3, [False, False, True]]
    with losskit.checks("off"):
        assert DiceLoss.functional(X, t).isfinite()


def test_probabilities_for_scores_warn():
    p = torch.rand(2, 3, 100)
    with pytest.warns(losskit.SpaceWarning, match="input looks like probabilities, all of it is in"):
        DiceLoss.functional(p, torch.zeros(2, 3, 100))
    with pytest.warns(losskit.SpaceWarning, match="each row is in"):
        DiceLoss.functional(p.softmax(1), torch.zeros(2, 3, 100), activation="softmax")
    DiceLoss.functional(p, torch.zeros(2, 3, 100), activation="none")


def test_declarations_are_checked():
    with pytest.raises(losskit.DeclarationError, match="`squares` is the name of a switch, got 'twice'"):

        class Squares(losskit.RegionsLoss):
            """A loss."""

            squares = "twice"

            @staticmethod
            def value(overlap, actual):
                return actual - overlap

    with pytest.raises(losskit.DeclarationError, match="classes that are pooled have no `weight`"):

        class Pooled(losskit.RegionsLoss):
            """A loss."""

            @staticmethod
            def weigh(actual):
                return actual

            @staticmethod
            def value(overlap, actual):
                return actual - overlap


def test_a_loss_of_ones_own(monkeypatch):
    """Every statistic, with squares and without."""

    class SizesLoss(losskit.RegionsLoss):
        """How far the sizes of two regions are apart."""

        square: bool = losskit.param(default=False, doc="Whether sizes are sums of squares.")
        squares = "square"

        @staticmethod
        def value(overlap, predicted, actual, false_positives, false_negatives):
            apart = predicted - actual
            return apart * apart + overlap * false_positives - 0.5 * false_negatives

    try:
        x = torch.randn(2, 3, 7, dtype=torch.float64)
        t = torch.rand(2, 3, 7, dtype=torch.float64)
        for square in (False, True):
            leaf = x.clone().requires_grad_()
            p = leaf.sigmoid()
            sizes = [(z * z if square else z).sum(-1) for z in (p, t)]
            wrong = [0.5 * ((p - t) ** 2).sum(-1)] * 2 if square else [(p * (1 - t)).sum(-1), ((1 - p) * t).sum(-1)]
            right = (sizes[0] - sizes[1]) ** 2 + (p * t).sum(-1) * wrong[0] - 0.5 * wrong[1]
            (slope,) = torch.autograd.grad(right.sum(), leaf)
            for _ in range(2):
                got = SizesLoss("none", square=square)(leaf, t, None)
                torch.testing.assert_close(got, right)
                torch.testing.assert_close(torch.autograd.grad(got.sum(), leaf)[0], slope)
                with monkeypatch.context() as patch:
                    without_kernels(patch)
                    torch.testing.assert_close(SizesLoss("none", square=square)(leaf, t, None), right)
    finally:
        losskit.loss.registered.pop("sizes_loss", None)
