"""skorch: which asks `isinstance(criterion, torch.nn.CrossEntropyLoss)` to know what a net's output is."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from agreement import FLOAT32, assert_near
from torch import nn

import losskit

skorch = pytest.importorskip("skorch")

DRAW = np.random.default_rng(0)
INPUT = DRAW.normal(size=(96, 4)).astype("float32")
LABELS = (INPUT[:, 0] + INPUT[:, 1] ** 2 > 0.5).astype("int64") + (INPUT[:, 2] > 0.5)
NUMBERS = INPUT @ np.array([[1.0], [2], [-1], [0.5]], dtype="float32")


def classifier(*last: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), *last)


def binary() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Flatten(0))


def fitted(kind: type, module: nn.Module, criterion, target, **options):
    net = kind(
        module,
        criterion=criterion,
        max_epochs=5,
        lr=0.1,
        verbose=0,
        train_split=None,
        iterator_train__shuffle=False,
        **options,
    )
    return net.fit(INPUT, target)


def assert_same_course(ours, theirs) -> None:
    losses = [torch.tensor(net.history[:, "train_loss"]) for net in (ours, theirs)]
    assert_near(*losses, FLOAT32, "losses")
    assert losses[1][-1] < losses[1][0]


@pytest.mark.parametrize(
    "options",
    [{}, {"criterion__weight": torch.tensor([1.0, 2, 3]), "criterion__label_smoothing": 0.1}],
    ids=["plain", "weighted"],
)
def test_probabilities_of_a_classifier(options):
    theirs = fitted(skorch.NeuralNetClassifier, classifier(), nn.CrossEntropyLoss, LABELS, **options)
    ours = fitted(skorch.NeuralNetClassifier, classifier(), losskit.CrossEntropyLoss, LABELS, **options)
    assert_same_course(ours, theirs)
    probabilities = ours.predict_proba(INPUT)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(probabilities, theirs.predict_proba(INPUT), atol=1e-5)


def test_a_classifier_of_log_probabilities():
    """skorch takes the logarithm of a net's output before NLLLoss: torch's, or what is an instance of it."""
    theirs = fitted(skorch.NeuralNetClassifier, classifier(nn.Softmax(-1)), nn.NLLLoss, LABELS)
    ours = fitted(skorch.NeuralNetClassifier, classifier(nn.Softmax(-1)), losskit.NLLLoss, LABELS)
    assert_same_course(ours, theirs)
    np.testing.assert_allclose(ours.predict_proba(INPUT), theirs.predict_proba(INPUT), atol=1e-5)


def test_a_binary_classifier():
    target = (LABELS > 0).astype("float32")
    theirs = fitted(skorch.NeuralNetBinaryClassifier, binary(), nn.BCEWithLogitsLoss, target)
    ours = fitted(skorch.NeuralNetBinaryClassifier, binary(), losskit.BCEWithLogitsLoss, target)
    assert_same_course(ours, theirs)
    probabilities = ours.predict_proba(INPUT)
    assert probabilities.shape == (96, 2)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(probabilities, theirs.predict_proba(INPUT), atol=1e-5)
    assert (ours.predict(INPUT) == theirs.predict(INPUT)).all()


def test_a_regressor():
    torch.manual_seed(0)
    theirs = fitted(skorch.NeuralNetRegressor, nn.Linear(4, 1), nn.HuberLoss, NUMBERS, criterion__delta=0.5)
    torch.manual_seed(0)
    ours = fitted(skorch.NeuralNetRegressor, nn.Linear(4, 1), losskit.HuberLoss, NUMBERS, criterion__delta=0.5)
    assert ours.criterion_.delta == 0.5
    assert_same_course(ours, theirs)


def test_a_loss_with_weights_of_samples():
    """What torch's losses do not take: a net of one's own passes it on."""

    class Weighted(skorch.NeuralNetClassifier):
        def get_loss(self, y_pred, y_true, X=None, *args, **kwargs):  # noqa: N803
            return self.criterion_(y_pred, y_true, sample_weight=X["weight"])

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = classifier()

        def forward(self, x, weight):
            return self.net(x)

    def fit(x, y, weight):
        torch.manual_seed(0)
        net = Weighted(
            Net(),
            criterion=losskit.CrossEntropyLoss,
            criterion__reduction="sum",
            max_epochs=3,
            lr=0.001,
            verbose=0,
            train_split=None,
            iterator_train__shuffle=False,
            batch_size=-1,
        )
        return net.fit({"x": x, "weight": weight.astype("float32")}, y)

    twice = fit(np.concatenate([INPUT, INPUT]), np.concatenate([LABELS, LABELS]), np.ones(192))
    weighed = fit(INPUT, LABELS, np.full(96, 2.0))
    assert_near(torch.tensor(weighed.history[:, "train_loss"]), torch.tensor(twice.history[:, "train_loss"]), FLOAT32)


def test_scikit_learn_clones_searches_and_saves(tmp_path):
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV

    net = fitted(
        skorch.NeuralNetClassifier,
        classifier(),
        losskit.CrossEntropyLoss,
        LABELS,
        criterion__weight=torch.tensor([1.0, 2, 3]),
    )
    assert clone(net).get_params()["criterion"] is losskit.CrossEntropyLoss
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict_proba(INPUT), net.predict_proba(INPUT))

    net.save_params(f_params=tmp_path / "net.pt", f_criterion=tmp_path / "criterion.pt")
    fresh = skorch.NeuralNetClassifier(
        classifier(), criterion=losskit.CrossEntropyLoss, criterion__weight=torch.ones(3)
    ).initialize()
    fresh.load_params(f_params=tmp_path / "net.pt", f_criterion=tmp_path / "criterion.pt")
    assert torch.equal(fresh.criterion_.weight, torch.tensor([1.0, 2, 3]))

    grid = {"lr": [0.01, 0.1], "criterion__label_smoothing": [0.0, 0.1]}
    plain = skorch.NeuralNetClassifier(
        classifier(), criterion=losskit.CrossEntropyLoss, max_epochs=2, verbose=0, train_split=None
    )
    search = GridSearchCV(plain, grid, cv=2, scoring="neg_log_loss", error_score="raise").fit(INPUT, LABELS)
    assert set(search.best_params_) == set(grid)
