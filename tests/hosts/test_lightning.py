"""Lightning's Trainer: precision, accumulation, clipping, two processes, and checkpoints that change the library."""

from __future__ import annotations

import logging

import pytest
import torch
from agreement import BFLOAT16, FLOAT32, assert_near, flat
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import losskit

lightning = pytest.importorskip("lightning")
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

DRAW = torch.Generator().manual_seed(0)
INPUT = torch.randn(64, 4, generator=DRAW)
LABELS = torch.randint(0, 3, (64,), generator=DRAW)
WEIGHT = torch.tensor([1.0, 2, 3])


class Classifier(lightning.LightningModule):
    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.net = nn.Linear(4, 3)
        self.criterion = criterion
        self.losses = []

    def training_step(self, batch, index):
        loss = self.criterion(self.net(batch[0]), batch[1])
        self.log("loss", loss)
        self.losses.append(loss.detach().double())
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trained(criterion: nn.Module, folder, **options):
    torch.manual_seed(0)
    model = Classifier(criterion)
    start = flat(model.net.parameters())
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=folder, **quiet, **options)
    trainer.fit(model, DataLoader(TensorDataset(INPUT, LABELS), batch_size=16))
    return model, flat(model.net.parameters()) - start, trainer


@pytest.mark.parametrize(
    "options, tolerance",
    [
        ({}, FLOAT32),
        ({"precision": "bf16-mixed"}, BFLOAT16),
        ({"accumulate_grad_batches": 2, "gradient_clip_val": 0.5}, FLOAT32),
        ({"precision": "64-true"}, 1e-12),
    ],
    ids=["float32", "bf16-mixed", "accumulated", "float64"],
)
def test_steps(tmp_path, options, tolerance):
    theirs, their_movement, _ = trained(nn.CrossEntropyLoss(weight=WEIGHT), tmp_path, **options)
    ours, our_movement, _ = trained(losskit.CrossEntropyLoss(weight=WEIGHT), tmp_path, **options)
    assert len(theirs.losses) == 8
    assert_near(torch.stack(ours.losses), torch.stack(theirs.losses), tolerance, "losses")
    assert_near(our_movement, their_movement, tolerance, "parameters")


@pytest.mark.parametrize("into", [nn.CrossEntropyLoss, losskit.CrossEntropyLoss])
@pytest.mark.parametrize("out_of", [nn.CrossEntropyLoss, losskit.CrossEntropyLoss])
def test_a_checkpoint_of_either_library_opens_in_the_other(tmp_path, out_of, into):
    model, _, trainer = trained(out_of(weight=WEIGHT), tmp_path)
    trainer.save_checkpoint(tmp_path / "of.ckpt")
    again = Classifier.load_from_checkpoint(
        tmp_path / "of.ckpt", criterion=into(weight=torch.ones(3)), weights_only=True
    )
    assert torch.equal(again.criterion.weight, WEIGHT)
    assert torch.equal(again.net.weight, model.net.weight)
