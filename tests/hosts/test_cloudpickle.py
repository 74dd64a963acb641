"""cloudpickle, with which Ray, Dask and joblib send classes of a script by value: the receiver has no such module."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import losskit

cloudpickle = pytest.importorskip("cloudpickle")

SCRIPT = """
import sys
import cloudpickle, torch
import losskit
from losskit import formula, param, positive

class LeaningLoss(losskit.PointwiseLoss):
    '''A loss of a script of one's own.'''

    lean: float = param(default=1.0, domain=positive, doc="How much dearer it is to predict too little.")

    @staticmethod
    def value(input, target, lean):
        return formula.expm1m(lean * (target - input))

class Mine(losskit.CrossEntropyLoss):
    '''A subclass with a forward of its own.'''

    def forward(self, input, target):
        return super().forward(input, target + 1)

draw = torch.Generator().manual_seed(0)
x, t = torch.randn(9, generator=draw), torch.randn(9, generator=draw)
scores, labels = torch.randn(4, 3, generator=draw), torch.tensor([0, 1, 1, 0])
loss, mine = LeaningLoss(lean=0.3), Mine(label_smoothing=0.1)
sent = {
    "class": LeaningLoss, "loss": loss, "operands": (x, t), "result": loss(x, t),
    "mine": mine, "labelled": (scores, labels), "my result": mine(scores, labels),
}
with open(sys.argv[1], "wb") as file:
    cloudpickle.dump(sent, file)
"""

RECEIVER = """
import pickle, sys
import torch
with open(sys.argv[1], "rb") as file:
    got = pickle.load(file)
x, t = got["operands"]
assert got["loss"].lean == 0.3, got["loss"]
assert type(got["loss"]) is got["class"]
torch.testing.assert_close(got["loss"](x, t), got["result"], rtol=0, atol=0)
torch.testing.assert_close(got["class"](lean=0.3)(x, t), got["result"], rtol=0, atol=0)
torch.testing.assert_close(got["mine"](*got["labelled"]), got["my result"], rtol=0, atol=0)
x.requires_grad_()
got["loss"](x, t).backward()
assert x.grad.abs().sum() > 0
import losskit
assert losskit.get("leaning_loss") is got["class"]
"""


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_loss_of_a_script_reaches_another_process(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    run(str(tmp_path / "script.py"), str(tmp_path / "sent"))
    run("-c", RECEIVER, str(tmp_path / "sent"))


@pytest.mark.parametrize("loss", [losskit.get(name) for name in losskit.losses()], ids=lambda loss: loss.__name__)
def test_a_built_in_loss_goes_by_name(loss):
    sent = cloudpickle.dumps(loss)
    assert cloudpickle.loads(sent) is loss
    assert len(sent) < 200
    if loss is not losskit.TripletMarginWithDistanceLoss:
        made = loss(**loss._needed())
        again = cloudpickle.loads(cloudpickle.dumps(made))
        assert str(again.config()) == str(made.config())  # tensors have no == that is one answer


def test_a_loss_in_a_closure():
    weight = torch.tensor([1.0, 2, 3])
    loss = losskit.CrossEntropyLoss(weight=weight)
    scores, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])

    def step():
        return loss(scores, labels)

    assert torch.equal(cloudpickle.loads(cloudpickle.dumps(step))(), step())
