"""fastai: its losses wrap a class of torch's, or of ours, and its tensors are subclasses."""

from __future__ import annotations

import pickle

import pytest
import torch
from agreement import FLOAT32, assert_near, assert_same, both, flat, train
from torch import nn

import losskit

pytest.importorskip("fastai")

from fastai.callback.progress import ProgressCallback  # noqa: F401  # gives a Learner its `no_bar`
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import (
    BaseLoss,
    BCEWithLogitsLossFlat,
    CrossEntropyLossFlat,
    FocalLossFlat,
    LabelSmoothingCrossEntropyFlat,
    MSELossFlat,
)
from fastai.torch_core import TensorBase, TensorCategory, TensorImage, TensorMask

DRAW = torch.Generator().manual_seed(0)
INPUT = torch.randn(32, 6, generator=DRAW)
LABELS = torch.randint(0, 3, (32,), generator=DRAW)
NUMBERS = torch.randn(32, 1, generator=DRAW)
IMAGES = torch.randn(2, 3, 4, 4, generator=DRAW)
MASKS = torch.randint(0, 4, (2, 4, 4), generator=DRAW)


def three() -> nn.Module:
    return nn.Linear(6, 3)


def one() -> nn.Module:
    return nn.Linear(6, 1)


def segmenter() -> nn.Module:
    return nn.Conv2d(3, 4, 1)


@pytest.mark.parametrize(
    "make, loss, target",
    [
        (three, CrossEntropyLossFlat(), LABELS),
        (three, LabelSmoothingCrossEntropyFlat(), LABELS),
        (three, FocalLossFlat(), LABELS),
        (one, BCEWithLogitsLossFlat(), (NUMBERS > 0).float()),
        (one, MSELossFlat(), NUMBERS),
    ],
    ids=lambda value: getattr(type(value), "__name__", "") if isinstance(value, BaseLoss) else "",
)
def test_fastais_own_losses(make, loss, target):
    assert_same(*both(make, lambda model: loss(model(INPUT), target)))


@pytest.mark.parametrize(
    "make, theirs, ours, options, target",
    [
        (three, nn.CrossEntropyLoss, losskit.CrossEntropyLoss, {"label_smoothing": 0.1}, LABELS),
        (three, nn.MultiMarginLoss, losskit.MultiMarginLoss, {"margin": 0.5}, LABELS),
        (one, nn.MSELoss, losskit.MSELoss, {"is_2d": False}, NUMBERS),
        (one, nn.HuberLoss, losskit.HuberLoss, {"is_2d": False, "delta": 0.3}, NUMBERS),
        (
            one,
            nn.BCEWithLogitsLoss,
            losskit.BCEWithLogitsLoss,
            {"is_2d": False, "floatify": True},
            (NUMBERS > 0).long(),
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) and value.__module__.startswith("losskit") else "",
)
def test_a_wrapped_class(make, theirs, ours, options, target):
    """`BaseLoss` evaluates the annotations of the instance, and takes over its name and its docstring."""
    wrapped = {kind: BaseLoss(kind, **options) for kind in (theirs, ours)}
    assert_same(*(train(make, lambda model, loss=wrapped[kind]: loss(model(INPUT), target)) for kind in (ours, theirs)))
    assert wrapped[ours].reduction == "mean"
    wrapped[ours].reduction = "none"  # as fastai does to find the worst examples
    assert wrapped[ours](make()(INPUT), target).shape == (32,)


@pytest.mark.parametrize("loss", [losskit.get(name) for name in losskit.losses()], ids=lambda loss: loss.__name__)
def test_every_loss_can_be_wrapped(loss):
    BaseLoss(loss, **loss._needed())


def test_images_and_masks():
    wrapped = {kind: BaseLoss(kind, axis=1) for kind in (nn.CrossEntropyLoss, losskit.CrossEntropyLoss)}

    def steps(kind):
        return train(segmenter, lambda model: wrapped[kind](model(TensorImage(IMAGES)), TensorMask(MASKS)))

    assert_same(steps(losskit.CrossEntropyLoss), steps(nn.CrossEntropyLoss))


@pytest.mark.parametrize(
    "of_scores, of_labels",
    [(TensorBase, TensorMask), (TensorMask, TensorBase), (torch.Tensor, TensorMask), (TensorImage, torch.Tensor)],
)
def test_the_result_is_of_the_kind_that_torch_gives(of_scores, of_labels):
    scores, labels = segmenter()(IMAGES).as_subclass(of_scores), MASKS.as_subclass(of_labels)
    assert type(losskit.CrossEntropyLoss()(scores, labels)) is type(nn.CrossEntropyLoss()(scores, labels))


def learned(loss):
    torch.manual_seed(0)
    rows = [(x, TensorCategory(y)) for x, y in zip(INPUT, LABELS)]
    loaders = DataLoaders(DataLoader(rows, bs=8), DataLoader(rows, bs=8))
    learner = Learner(loaders, nn.Linear(6, 3), loss_func=loss)
    with learner.no_bar(), learner.no_logging():
        learner.fit(2, lr=0.1)
    return learner


def test_a_learner():
    theirs = learned(CrossEntropyLossFlat())
    for loss in (BaseLoss(losskit.CrossEntropyLoss), losskit.CrossEntropyLoss()):
        ours = learned(loss)
        assert_near(torch.tensor(ours.recorder.values), torch.tensor(theirs.recorder.values), FLOAT32, "losses")
        assert_near(flat(ours.model.parameters()), flat(theirs.model.parameters()), FLOAT32, "parameters")
        pickle.loads(pickle.dumps(ours.loss_func))  # as Learner.export does
    _, _, losses = learned(losskit.CrossEntropyLoss()).get_preds(with_loss=True)
    assert losses.shape == (32,)
