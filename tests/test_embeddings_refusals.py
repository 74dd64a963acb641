"""The embeddings family: what is refused, in which words, and what the other modes of checking make of it."""

import pytest
import torch
import torch.nn.functional as F
from embedding_rows import embeddings, manhattan

import losskit
import losskit.functional as LF

X, Y, T = torch.ones(5, 3), torch.ones(5, 3), torch.ones(5)


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (lambda: LF.cosine_embedding_loss(X, Y, torch.tensor([1, 0, 1, 1, 0])), ValueError,
         "cosine_embedding_loss: target must be -1 or 1, got 0 at index (1,). For labels 0 and 1 pass 2 * target - 1."),
        (lambda: LF.cosine_embedding_loss(X, Y, T.unsqueeze(1)), ValueError,
         "cosine_embedding_loss: target must have one entry per row, (5,), got (5, 1)."
         " Did you mean target.squeeze(1)?"),
        (lambda: LF.cosine_embedding_loss(X, Y, torch.ones(())), ValueError,
         "cosine_embedding_loss: target must have one entry per row, (5,), got ()."
         " Did you mean target.expand(5)?"),
        (lambda: LF.cosine_embedding_loss(X, Y[0], T), ValueError,
         "cosine_embedding_loss: input1 (5, 3) and input2 (3,) must have the same shape. "
            "Did you mean input2.unsqueeze(0), one for each along dimension 0?"),
        (lambda: LF.cosine_embedding_loss(X, Y[:, :1], T), ValueError,
         "cosine_embedding_loss: input1 (5, 3) and input2 (5, 1) must have the same shape."),
        (lambda: LF.triplet_margin_loss(X, Y, torch.ones(4, 3)), ValueError,
         "triplet_margin_loss: anchor (5, 3) and negative (4, 3) must have the same shape."),
        (lambda: LF.triplet_margin_loss(T[0], T[0], T[0]), ValueError,
         "triplet_margin_loss: anchor must have a dimension of features, got a scalar."),
        (lambda: LF.triplet_margin_loss(X, Y.long(), X), TypeError,
         "triplet_margin_loss: positive must be floating point, got torch.int64. Use positive.float()."),
        (lambda: LF.triplet_margin_loss(X, Y, 3.0), TypeError,
         "triplet_margin_loss: negative must be a tensor, got float. Use torch.as_tensor(negative)."),
        (lambda: LF.triplet_margin_loss(X, Y, X, margin=0.0), ValueError,
         "triplet_margin_loss: margin must be positive, got 0.0."),
        (lambda: LF.triplet_margin_loss(X, Y, X, p=-1.0), ValueError,
         "triplet_margin_loss: p must be non-negative, got -1.0."),
        (lambda: LF.triplet_margin_loss(X, Y, X, mask=torch.ones(3, dtype=torch.bool)), ValueError,
         "triplet_margin_loss: mask (3,) must broadcast to (5,)."),
        (lambda: losskit.TripletMarginWithDistanceLoss(distance_function=3), TypeError,
         "triplet_margin_with_distance_loss: distance_function must be a function or None, got 3."),
        (lambda: LF.triplet_margin_with_distance_loss(X, Y, X, distance_function=manhattan, margin=-1.0), ValueError,
         "triplet_margin_with_distance_loss: margin must be positive, got -1.0."),
    ],
)  # fmt: skip
def test_messages(call, exception, message):
    with pytest.raises(exception) as caught:
        call()
    assert str(caught.value) == message


def test_other_check_modes():
    target = torch.tensor([1.0, 0.0, 3.0, -1.0, 1.0])
    x, y = (z.requires_grad_() for z in embeddings(5, 3, torch.float32, (1.0, 1.0)))
    with losskit.checks("nan"):
        loss = LF.cosine_embedding_loss(x, y, target, reduction="none")
        assert loss.isnan().tolist() == [False, True, True, False, False]
        (g,) = torch.autograd.grad(LF.cosine_embedding_loss(x, y, target), x)
        assert g.isnan().all(-1).tolist() == [False, True, True, False, False]
    with losskit.checks("off"):
        torch.testing.assert_close(LF.cosine_embedding_loss(x, y, target), F.cosine_embedding_loss(x, y, target))
        assert LF.triplet_margin_loss(x, y[0], y[:1], reduction="none").shape == (5,)
