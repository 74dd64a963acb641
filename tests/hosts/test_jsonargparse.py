"""jsonargparse and LightningCLI: losses named in a configuration file, with their arguments checked by the constructor's types."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from torch import nn

import losskit

jsonargparse = pytest.importorskip("jsonargparse")

# A file of text names no tensors: a loss that needs one is made in Python, as with a class weight of torch's.
LOSSES = [
    loss
    for loss in map(losskit.get, losskit.losses())
    if not any(p.kind == "tensor" and p.required for p in loss.params.values())
]


def parser() -> jsonargparse.ArgumentParser:
    made = jsonargparse.ArgumentParser(exit_on_error=False)
    made.add_subclass_arguments(nn.Module, "criterion")
    return made


def made_from(class_path: str, **arguments) -> nn.Module:
    reader = parser()
    text = json.dumps({"class_path": class_path, "init_args": arguments})
    return reader.instantiate_classes(reader.parse_args([f"--criterion={text}"])).criterion


def test_a_loss_by_its_path():
    loss = made_from("losskit.CrossEntropyLoss", label_smoothing=0.1, ignore_index=3)
    assert isinstance(loss, losskit.CrossEntropyLoss)
    assert (loss.label_smoothing, loss.ignore_index) == (0.1, 3)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_every_parameter_of_every_loss_can_be_given(loss):
    """Each with its default: the constructor names them all, and its types let them pass."""
    parameters = inspect.signature(loss.__init__).parameters.values()
    assert not [p for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    given = {p.name: p.default for p in parameters if p.default not in (p.empty, None)}
    assert set(loss.params) <= {p.name for p in parameters}
    made = made_from(f"losskit.{loss.__name__}", **given)
    assert type(made) is loss
    assert {name: getattr(made, name) for name in given} == given


def test_what_no_loss_has_is_refused():
    with pytest.raises(jsonargparse.ArgumentError, match="label_smothing"):
        made_from("losskit.CrossEntropyLoss", label_smothing=0.1)
    with pytest.raises(jsonargparse.ArgumentError, match="reduction"):
        made_from("losskit.CrossEntropyLoss", reduction=3)


@pytest.fixture
def cli(tmp_path):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.cli import LightningCLI
    from test_lightning import INPUT, LABELS, Classifier

    class Data(lightning.LightningDataModule):
        def train_dataloader(self):
            return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(INPUT, LABELS), batch_size=16)

    def run(criterion: dict) -> nn.Module:
        quiet = {
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        trainer = {"max_epochs": 1, "accelerator": "cpu", "default_root_dir": str(tmp_path), **quiet}
        configuration = {"seed_everything": 0, "model": {"criterion": criterion}, "trainer": trainer}
        command = LightningCLI(Classifier, Data, args=configuration, run=False, save_config_callback=None)
        command.trainer.fit(command.model, command.datamodule)
        return command.model

    return run


def test_lightning_cli(cli):
    """`class_path: losskit.CrossEntropyLoss` trains as `class_path: torch.nn.CrossEntropyLoss` does."""
    theirs = cli({"class_path": "torch.nn.CrossEntropyLoss", "init_args": {"label_smoothing": 0.1}})
    ours = cli({"class_path": "losskit.CrossEntropyLoss", "init_args": {"label_smoothing": 0.1}})
    assert type(ours.criterion) is losskit.CrossEntropyLoss
    assert ours.criterion.label_smoothing == 0.1
    torch.testing.assert_close(torch.stack(ours.losses), torch.stack(theirs.losses), rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.net.weight, theirs.net.weight, rtol=1e-5, atol=1e-6)
