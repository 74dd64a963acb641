"""What must hold under every Python and every torch that the package claims; `tools/versions.py` runs this file there.

Short, and free of torch's internals: the whole suite runs under one Python and one torch.
"""

import copy
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import row_samples
import samples
import torch
from test_custom import WORK, run_user
from tiers import NAMES, rest

import losskit

# torch's own word on one release of Python.
pytestmark = pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")

# Every built-in loss once, with its defaults or its first sample.
FIRST = {setup.loss.name: setup for setup in reversed(samples.setups())}
FIRST |= {sample.name: sample for sample in reversed(row_samples.SAMPLES)}
EVERY_LOSS = pytest.mark.parametrize("name", sorted(FIRST))


def prepared(name):
    """A loss of torch.nn's form, and its operands, of which the first wants a gradient."""
    sample = FIRST[name]
    operands = sample.operands((6, 5)) if isinstance(sample, samples.Setup) else sample.operands()
    return sample.loss(**sample.params), [operands[0].requires_grad_(), *operands[1:]]


def test_every_loss_is_here():
    built_in = {name for name, cls in losskit.losses().items() if cls.__module__.startswith("losskit.")}
    in_batches = {*row_samples.OF_BATCHES, *(cls.name for cls in row_samples.of_pairs())}
    assert built_in - {"adaptive_log_softmax_with_loss"} - in_batches == set(FIRST)


@EVERY_LOSS
def test_forward_backward_copies(name):
    criterion, operands = prepared(name)
    loss = criterion(*operands)
    (gradient,) = torch.autograd.grad(loss, operands[0])
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.any()
    for again in (pickle.loads(pickle.dumps(criterion)), copy.deepcopy(criterion)):
        assert repr(again) == repr(criterion)
        assert torch.equal(again(*operands), loss)


@pytest.mark.parametrize("name", rest(sorted(FIRST), NAMES, "compiled, traced, exported: every loss"))
def test_compiled(name):
    torch._dynamo.reset()
    criterion, operands = prepared(name)
    expected = criterion(*operands)
    loss = torch.compile(criterion, fullgraph=True, backend="aot_eager")(*operands)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(x, operands[0]) for x in (loss, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dynamic", rest([None, True, False], [None], "compiled, traced, exported: every loss"))
@pytest.mark.parametrize(
    ("name", "parameter", "values"),
    [
        ("huber_loss", "delta", [0.5, 0.25, 2.0]),
        ("cross_entropy", "label_smoothing", [0.1, 0.3, 0.0]),
        ("cross_entropy", "ignore_index", [1, 3, -100]),
        ("triplet_margin_loss", "margin", [1.0, 2.5, 0.5]),
        ("multi_margin_loss", "p", [1, 2, 1]),
        ("ctc_loss", "blank", [0, 4, 0]),
    ],
)
def test_compiled_while_a_parameter_changes(name, parameter, values, dynamic):
    """As an argument of the compiled function; Dynamo makes a number that changes a symbol."""
    torch._dynamo.reset()
    _, operands = prepared(name)
    if parameter == "blank":
        operands[1] = operands[1].clamp(1, 3)  # labels beside every blank
    function = losskit.get(name).functional
    compiled = torch.compile(
        lambda value: function(*operands, **{parameter: value}), fullgraph=True, backend="eager", dynamic=dynamic
    )
    for value in values:
        torch.testing.assert_close(compiled(value), function(*operands, **{parameter: value}))


def test_compiled_refuses():
    """Under torch.compile a bad value raises; in an exported graph, which has to run without losskit, it gives NaN."""
    torch._dynamo.reset()
    operands = torch.tensor([0.5, 1.5]), torch.tensor([0.0, 1.0])
    criterion = losskit.BCELoss()
    with pytest.raises(ValueError, match=r"input must be in \[0, 1\], got 1.5 at index"):
        torch.compile(criterion, fullgraph=True, backend="eager")(*operands)
    assert torch.export.export(criterion, operands).module()(*operands).isnan()


def test_inductor():
    torch._dynamo.reset()
    criterion, operands = prepared("smooth_l1_loss")
    loss = torch.compile(criterion, fullgraph=True)(*operands)
    torch.testing.assert_close(loss, criterion(*operands))


def test_a_custom_loss_gets_its_kernel(tmp_path):
    assert "fused CPU kernel" in run_user(tmp_path, WORK)


@pytest.mark.parametrize("words", [["--help"], ["show", "huber_loss"], ["doctor"]], ids=" ".join)
def test_the_command(words):
    command = shutil.which("losskit", path=Path(sys.executable).parent)
    assert command, "the command is not installed beside this Python"
    done = subprocess.run([command, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
