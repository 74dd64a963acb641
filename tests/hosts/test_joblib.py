"""joblib: losses in its processes, where they arrive by value, and in its cache."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import losskit

joblib = pytest.importorskip("joblib")

SCRIPT = """
import joblib, torch
import losskit
from losskit import formula

class CubedLoss(losskit.PointwiseLoss):
    '''A loss of a script of one's own.'''

    @staticmethod
    def value(input, target):
        d = formula.absolute(input - target)
        return d * d * d

def scored(loss, seed):
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(seed)
    input = torch.randn(9, generator=draw).requires_grad_()
    result = loss(input, torch.randn(9, generator=draw))
    result.backward()
    return result.item(), input.grad.tolist()

if __name__ == "__main__":
    losses = [CubedLoss(), losskit.HuberLoss(delta=0.3), losskit.L1Loss(reduction="sum")]
    tasks = [(loss, seed) for loss in losses for seed in range(2)]
    there = joblib.Parallel(n_jobs=2)(joblib.delayed(scored)(*task) for task in tasks)
    here = [scored(*task) for task in tasks]
    assert there == here, (there, here)
    print("equal")
"""


def test_losses_in_other_processes(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize("loss", [losskit.get(name) for name in losskit.losses()], ids=lambda loss: loss.__name__)
def test_a_dumped_loss(loss, tmp_path):
    if loss is losskit.TripletMarginWithDistanceLoss:
        made = loss(distance_function=torch.nn.PairwiseDistance())
    else:
        made = loss(**loss._needed())
    joblib.dump(made, tmp_path / "loss")
    again = joblib.load(tmp_path / "loss")
    assert type(again) is loss
    assert repr(again) == repr(made)


def test_equal_losses_have_equal_hashes(tmp_path):
    """joblib.Memory calls a function again when an argument's hash differs."""
    calls = []

    def scored(loss):
        calls.append(loss)
        return loss(torch.tensor([2.0]), torch.tensor([0.0])).item()

    cached = joblib.Memory(tmp_path, verbose=0).cache(scored)
    used = losskit.HuberLoss(delta=0.5)
    used(torch.ones(3), torch.zeros(3))  # what a loss remembers of a call is no part of it
    assert cached(losskit.HuberLoss(delta=0.5)) == cached(used) == 0.875
    assert cached(losskit.HuberLoss(delta=1.0)) == 1.5
    assert len(calls) == 2
