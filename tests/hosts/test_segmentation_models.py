"""segmentation-models-pytorch: its networks, its losses, and maps with pixels that do not count."""

from __future__ import annotations

import pytest
import torch
from agreement import assert_same, both, train
from torch import nn

import losskit

smp = pytest.importorskip("segmentation_models_pytorch")

DRAW = torch.Generator().manual_seed(0)
IMAGES = torch.randn(2, 3, 32, 32, generator=DRAW)
CLASSES = torch.randint(0, 4, (2, 32, 32), generator=DRAW)
PARTLY = CLASSES.clone()
PARTLY[:, :4] = 255
FOREGROUND = (CLASSES > 1).float()


def unet(classes: int) -> nn.Module:
    return smp.Unet(
        "timm-mobilenetv3_small_minimal_100",
        encoder_weights=None,
        classes=classes,
        encoder_depth=3,
        decoder_channels=(16, 8, 8),
    )


@pytest.mark.parametrize(
    "options, target",
    [
        ({}, CLASSES),
        ({"ignore_index": 255}, PARTLY),
        ({"ignore_index": 255, "weight": torch.arange(1.0, 5), "label_smoothing": 0.1}, PARTLY),
    ],
    ids=["plain", "ignored", "weighted"],
)
def test_maps_of_classes(options, target):
    losses = losskit.CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options)
    assert_same(*(train(lambda: unet(4), lambda model, loss=loss: loss(model(IMAGES), target)) for loss in losses))


def test_a_map_of_one_class():
    losses = losskit.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss()
    assert_same(
        *(train(lambda: unet(1), lambda model, loss=loss: loss(model(IMAGES)[:, 0], FOREGROUND)) for loss in losses)
    )


@pytest.mark.parametrize(
    "classes, loss, target",
    [
        (1, smp.losses.SoftBCEWithLogitsLoss(), FOREGROUND),
        (1, smp.losses.SoftBCEWithLogitsLoss(smooth_factor=0.1, pos_weight=torch.tensor(2.0)), FOREGROUND),
        (1, smp.losses.FocalLoss("binary", alpha=0.25), FOREGROUND),
        (4, smp.losses.FocalLoss("multiclass", ignore_index=255), PARTLY),
    ],
    ids=["soft", "smoothed", "focal", "focal of classes"],
)
def test_its_losses_on_losskits_functions(classes, loss, target):
    """In float64: in float32 a pixel at a kink of the network takes torch's training 0.6 % from the exact one."""

    def loss_of(model):
        scores = model(IMAGES.double())
        return loss(scores[:, 0] if classes == 1 else scores, target)

    assert_same(*both(lambda: unet(classes).double(), loss_of))


def test_pixels_that_are_scored_before_they_are_masked():
    """SoftBCEWithLogitsLoss scores the padding value, too, as torch lets it; `mask=` is the clean way."""
    target = torch.where(PARTLY == 255, 255.0, FOREGROUND)
    masked_afterwards = smp.losses.SoftBCEWithLogitsLoss(ignore_index=255)

    def loss_of(model):
        return masked_afterwards(model(IMAGES)[:, 0], target)

    with pytest.raises(ValueError, match=r"target must be in \[0, 1\], got 255"):
        losskit.BCEWithLogitsLoss()(IMAGES[:, 0], target)
    ours, theirs = both(lambda: unet(1), loss_of)
    assert_same(ours, theirs)

    counts = PARTLY != 255

    def clean(model):  # the host divides by all pixels
        return losskit.BCEWithLogitsLoss()(model(IMAGES)[:, 0], target, mask=counts, normalizer=counts.numel())

    assert_same(train(lambda: unet(1), clean), theirs)
