"""MONAI: losses that hold a loss, and tensors that carry the geometry of an image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # its usual name
from agreement import assert_same, both, train
from torch import nn

import losskit

pytest.importorskip("monai")

from monai import losses as monai_losses
from monai.data import MetaTensor

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.randn(2, 1, 16, 16, generator=DRAW)
ORGANS = torch.randint(0, 3, (2, 1, 16, 16), generator=DRAW)
EACH = F.one_hot(ORGANS[:, 0], 3).permute(0, 3, 1, 2).float()
WEIGHT = torch.tensor([1.0, 2, 3])


def organs() -> nn.Module:
    return nn.Conv2d(1, 3, 3, padding=1)


def tumour() -> nn.Module:
    return nn.Conv2d(1, 1, 3, padding=1)


@pytest.mark.parametrize(
    "make, loss, target",
    [
        (organs, monai_losses.DiceCELoss(to_onehot_y=True, softmax=True), ORGANS),
        (organs, monai_losses.DiceCELoss(to_onehot_y=True, softmax=True, weight=WEIGHT, label_smoothing=0.1), ORGANS),
        (tumour, monai_losses.DiceCELoss(sigmoid=True), (ORGANS > 1).float()),
        (tumour, monai_losses.PatchAdversarialLoss(criterion="least_squares"), None),
        (tumour, monai_losses.PatchAdversarialLoss(criterion="bce"), None),
    ],
    ids=["dice", "dice, weighted", "dice, sigmoid", "least squares", "adversarial"],
)
def test_its_losses_on_losskits_functions(make, loss, target):
    def loss_of(model):
        return loss(model(IMAGES), True, for_discriminator=True) if target is None else loss(model(IMAGES), target)

    assert_same(*both(make, loss_of))


@pytest.mark.parametrize("name", ["MSELoss", "L1Loss", "SmoothL1Loss"])
def test_a_class_of_ours_masked_in_space(name):
    inside = (ORGANS > 0).float()
    losses = [monai_losses.MaskedLoss(getattr(library, name), reduction="sum") for library in (losskit, nn)]
    assert_same(
        *(train(tumour, lambda model, loss=loss: loss(model(IMAGES), IMAGES, inside), rate=1e-4) for loss in losses)
    )


@pytest.mark.parametrize("name", ["CrossEntropyLoss", "BCEWithLogitsLoss"])
def test_a_loss_of_ours_at_several_resolutions(name):
    losses = [monai_losses.DeepSupervisionLoss(getattr(library, name)()) for library in (losskit, nn)]

    def loss_of(model, loss):
        scores = model(IMAGES)
        return loss([scores, F.avg_pool2d(scores, 2)], EACH)

    assert_same(*(train(organs, lambda model, loss=loss: loss_of(model, loss)) for loss in losses))


@pytest.mark.parametrize("scale", ["gaussian", "cauchy"])
def test_several_scales(scale):
    losses = [monai_losses.MultiScaleLoss(library.MSELoss(), scales=[0, 1], kernel=scale) for library in (losskit, nn)]
    assert_same(*(train(tumour, lambda model, loss=loss: loss(model(IMAGES), IMAGES)) for loss in losses))


def test_tensors_with_geometry():
    """A MetaTensor goes through a loss as it goes through torch's, and comes out as one."""

    def loss_of(model, library):
        scores = model(MetaTensor(IMAGES))
        return library.CrossEntropyLoss()(scores, MetaTensor(ORGANS)[:, 0]) + library.MSELoss()(
            scores, MetaTensor(EACH)
        )

    assert_same(
        *(
            train(organs, lambda model, library=library: loss_of(model, library).as_tensor())
            for library in (losskit, nn)
        )
    )
