"""checks("torch"): what torch refuses is refused, with an exception of its kind, and nothing else."""

import pytest
import torch
import torch.nn.functional as F

import losskit
import losskit.functional as LF
from losskit.kernels import library

torch.manual_seed(0)
X, SHARES, CLASSES = torch.randn(4, 5), torch.rand(4, 5), torch.tensor([1, 2, 3, 4])


TORCHS_CALLS = {
    "a class that is none": lambda lib: lib.cross_entropy(X, CLASSES + 1),
    "soft targets above 1": lambda lib: lib.cross_entropy(X, 3 * SHARES),
    "log-probabilities above 0": lambda lib: lib.nll_loss(X.abs(), CLASSES),
    "log-probabilities above 0, and a class that is none": lambda lib: lib.nll_loss(X.abs(), CLASSES + 1),
    "scores for probabilities": lambda lib: lib.binary_cross_entropy(X, SHARES),
    "labels above 1": lambda lib: lib.binary_cross_entropy(SHARES, 3 * SHARES),
    "labels in a column": lambda lib: lib.binary_cross_entropy(SHARES, SHARES[:, :1]),
    "labels of scores above 1": lambda lib: lib.binary_cross_entropy_with_logits(X, 3 * SHARES),
    "labels of scores in a column": lambda lib: lib.binary_cross_entropy_with_logits(X, SHARES[:, :1]),
    "numbers in a column": lambda lib: lib.mse_loss(X, SHARES[:, :1]),
    "numbers that do not broadcast": lambda lib: lib.mse_loss(X, SHARES[:, :2]),
    "negative counts": lambda lib: lib.poisson_nll_loss(X, -SHARES),
    "negative shares": lambda lib: lib.kl_div(X, -SHARES, reduction="sum"),
    "negative variances": lambda lib: lib.gaussian_nll_loss(X, X, -SHARES),
    "signs that are 0": lambda lib: lib.hinge_embedding_loss(X, 0 * X),
    "labels for signs": lambda lib: lib.soft_margin_loss(X, SHARES.round()),
    "no sign of a pair": lambda lib: lib.cosine_embedding_loss(X, SHARES, torch.zeros(4)),
    "no sign of a rank": lambda lib: lib.margin_ranking_loss(X, SHARES, 0 * X),
    "a class of a margin that is none": lambda lib: lib.multi_margin_loss(X, CLASSES + 1),
    "a mask for a list": lambda lib: lib.multilabel_margin_loss(X, torch.ones(4, 5, dtype=torch.int64)),
    "a list with a class that is none": lambda lib: lib.multilabel_margin_loss(
        X, CLASSES.unsqueeze(1) + 0 * X.long() + 1
    ),
    "scores that a softmax was applied to": lambda lib: lib.cross_entropy(SHARES, CLASSES),
    "scores for log-probabilities of frames": lambda lib: lib.ctc_loss(
        X.abs().unsqueeze(1), CLASSES[1:3], torch.tensor([4]), torch.tensor([2])
    ),
    "more frames than there are": lambda lib: lib.ctc_loss(
        X.log_softmax(1).unsqueeze(1), CLASSES[1:3], torch.tensor([5]), torch.tensor([2])
    ),
    "a triplet that broadcasts": lambda lib: lib.triplet_margin_loss(X, SHARES[:1], SHARES),
}


@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("call", TORCHS_CALLS.values(), ids=TORCHS_CALLS.keys())
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_torchs_checks(call, kernel, monkeypatch):
    """What torch refuses is refused, with an exception of its kind; what it computes is computed."""
    if not kernel:
        monkeypatch.setattr(library, "available", lambda formula: False)
    try:
        expected = call(F)
    except Exception as problem:
        with losskit.checks("torch"), pytest.raises(type(problem)):
            call(LF)
    else:
        with losskit.checks("torch"):
            torch.testing.assert_close(call(LF), expected, equal_nan=True)


def test_torchs_checks_in_a_graph():
    with losskit.checks("torch"):
        step = torch.compile(LF.nll_loss, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(step(X.abs(), CLASSES), F.nll_loss(X.abs(), CLASSES))
        with pytest.raises(IndexError):
            step(X.abs(), CLASSES + 1)
        free = torch.compile(LF.poisson_nll_loss, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(free(X, -SHARES), F.poisson_nll_loss(X, -SHARES))


def test_torchs_checks_of_losses_that_torch_lacks():
    with losskit.checks("torch"), pytest.raises(ValueError, match="must have the same shape"):
        LF.bradley_terry_loss(torch.zeros(3), torch.zeros(2))
    with losskit.checks("torch"), pytest.raises(ValueError, match="must be"):
        LF.log_normal_nll_loss(torch.zeros(3), -torch.ones(3), torch.ones(3))
