"""Accelerate: accumulated gradients, with and without bfloat16, and a prepared criterion."""

from __future__ import annotations

import pytest
import torch
from agreement import BFLOAT16, FLOAT32, assert_near, flat
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import losskit

accelerate = pytest.importorskip("accelerate")

DRAW = torch.Generator().manual_seed(0)
INPUT = torch.randn(64, 4, generator=DRAW)
LABELS = torch.randint(0, 3, (64,), generator=DRAW)
LABELS[::5] = -100
NUMBERS = torch.randn(64, 3, generator=DRAW)


def trained(criterion, target=LABELS, *, normalizers=None, precision="no"):
    """Losses and movement of two steps of four micro-batches; with normalizers, one for each step."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=4, mixed_precision=precision)
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    start = flat(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    data = DataLoader(TensorDataset(INPUT, target), batch_size=8)
    model, optimizer, data, criterion = accelerator.prepare(model, optimizer, data, criterion)
    losses = []
    for index, (x, y) in enumerate(data):
        with accelerator.accumulate(model):
            if normalizers is None:
                loss = criterion(model(x), y)
            else:  # `backward` divides by the number of micro-batches
                loss = 4 * criterion(model(x), y, normalizer=normalizers[index // 4])
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach().double())
    return torch.stack(losses), flat(model.parameters()) - start


@pytest.mark.parametrize("precision, tolerance", [("no", FLOAT32), ("bf16", BFLOAT16)])
@pytest.mark.parametrize(
    "name, options, target",
    [
        ("CrossEntropyLoss", {}, LABELS),
        ("CrossEntropyLoss", {"weight": torch.tensor([1.0, 2, 3]), "label_smoothing": 0.1}, LABELS),
        ("BCEWithLogitsLoss", {"pos_weight": torch.tensor([1.0, 2, 3])}, (NUMBERS > 0).float()),
        ("HuberLoss", {"delta": 0.5}, NUMBERS),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_accumulated_steps(name, options, target, precision, tolerance):
    theirs = trained(getattr(nn, name)(**options), target, precision=precision)
    ours = trained(getattr(losskit, name)(**options), target, precision=precision)
    assert_near(ours[0], theirs[0], tolerance, "losses")
    assert_near(ours[1], theirs[1], tolerance, "parameters")


def test_a_normalizer_makes_micro_batches_the_whole_batch():
    """The mean over 32 rows in four parts, though the parts have different numbers of labels."""
    counts = [(LABELS[:32] != -100).sum(), (LABELS[32:] != -100).sum()]
    _, parts = trained(losskit.CrossEntropyLoss(), normalizers=counts)

    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    start = flat(model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for rows in (slice(0, 32), slice(32, 64)):
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(INPUT[rows]), LABELS[rows]).backward()
        optimizer.step()
    assert_near(parts, flat(model.parameters()) - start, FLOAT32)
