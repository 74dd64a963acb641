"""timm: its image models, its mixed targets, and its losses beside ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from agreement import assert_same, both, train
from torch import nn

import losskit

timm = pytest.importorskip("timm")

from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, JsdCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

DRAW = torch.Generator().manual_seed(3)
IMAGES = torch.randn(6, 3, 32, 32, generator=DRAW)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=48, num_heads=3, num_classes=5
    )


def resnet() -> nn.Module:
    return timm.create_model("resnet10t", num_classes=5)


def mixed():
    np.random.seed(2)  # Mixup draws from it
    return Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=5, label_smoothing=0.1)(IMAGES.clone(), LABELS)


@pytest.mark.parametrize("make", [vit, resnet])
@pytest.mark.parametrize(
    "options", [{}, {"weight": torch.arange(1.0, 6), "label_smoothing": 0.1}], ids=["plain", "weighted"]
)
def test_labels(make, options):
    ours, theirs = losskit.CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options)
    assert_same(*(train(make, lambda model, loss=loss: loss(model(IMAGES), LABELS)) for loss in (ours, theirs)))


@pytest.mark.parametrize(
    "theirs", [nn.CrossEntropyLoss(), SoftTargetCrossEntropy()], ids=lambda loss: type(loss).__name__
)
def test_mixed_targets(theirs):
    images, target = mixed()
    assert_same(
        *(
            train(vit, lambda model, loss=loss: loss(model(images), target))
            for loss in (losskit.CrossEntropyLoss(), theirs)
        )
    )


def test_label_smoothing():
    losses = losskit.CrossEntropyLoss(label_smoothing=0.1), LabelSmoothingCrossEntropy(0.1)
    assert_same(*(train(vit, lambda model, loss=loss: loss(model(IMAGES), LABELS)) for loss in losses))


@pytest.mark.parametrize(
    "loss",
    [
        BinaryCrossEntropy(0.1),
        BinaryCrossEntropy(target_threshold=0.2),
        BinaryCrossEntropy(smoothing=0, pos_weight=torch.arange(1.0, 6)),
        JsdCrossEntropy(3, smoothing=0.1),
    ],
    ids=["smoothed", "threshold", "weighted", "jsd"],
)
def test_timms_losses_on_losskits_functions(loss):
    labels = LABELS[:2] if isinstance(loss, JsdCrossEntropy) else LABELS
    assert_same(*both(vit, lambda model: loss(model(IMAGES), labels)))


def test_binary_cross_entropy_of_mixed_targets():
    images, target = mixed()
    assert_same(*both(vit, lambda model: BinaryCrossEntropy(smoothing=0)(model(images), target)))


@pytest.mark.parametrize("soft", [False, True])
def test_its_own_formulas_are_replaced(soft):
    images, target = mixed() if soft else (IMAGES, LABELS)
    loss = SoftTargetCrossEntropy() if soft else LabelSmoothingCrossEntropy(0.1)
    ours, theirs = both(vit, lambda model: loss(model(images), target))
    assert_same(ours, theirs)
    assert ours.calls == {f"{type(loss).__name__}.forward": 3}
