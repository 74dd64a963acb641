"""The suite of the GPU kernels: on a GPU where there is one, else on the CPU under Triton's interpreter."""

import checks
import numpy as np
import pytest
import torch

import losskit
from losskit.kernels import gpu, node
from losskit.kernels.gpu import class_scores, recording, violations

ON_GPU = torch.cuda.is_available()
TEMPLATE_OF = gpu.template_of


@pytest.fixture(autouse=True)
def device(monkeypatch):
    """Where tensors must be for the kernels to take them; new tensors are there."""
    violations.sightings()  # nothing is left of the test before
    # Tests set the sizes of tiles, so each call is worked out anew; test_recording repeats them.
    monkeypatch.setattr(gpu, "template_of", lambda *_: None)
    if ON_GPU:
        for name in ("X", "T", "W", "KEEP"):
            monkeypatch.setattr(checks, name, getattr(checks, name).to("cuda"))
        with torch.device("cuda"):
            yield torch.device("cuda")
        return
    monkeypatch.setattr(gpu, "interpreted", True)
    with np.errstate(all="ignore"):  # the interpreter's arithmetic, where a kernel's infinities are meant
        yield torch.device("cpu")


@pytest.fixture
def repeating(device, monkeypatch):
    """Calls are repeated, which other tests of this folder do not want: nothing is left of them."""
    monkeypatch.setattr(gpu, "template_of", TEMPLATE_OF)
    forgotten()
    yield
    forgotten()


def forgotten():
    """No call is known."""
    for loss in losskit.losses().values():
        for plan in getattr(loss, "_plans", {}).values():
            plan.templates.clear()
            plan.repeats = None


@pytest.fixture(params=["C++", "Python"])
def by(request, monkeypatch):
    """Which node is behind a loss. On a card there may be none in C++, built for its torch."""
    if request.param == "C++" and not node.on:
        pytest.skip(node.why_not)
    monkeypatch.setattr(node, "on", request.param == "C++")
    return request.param


@pytest.fixture
def seen(monkeypatch):
    """How many calls were noted and how many repeated, forward and backward, by either node."""
    counts = {"noted": 0, "repeated": 0}
    real = recording.Recorder.recording

    def repeated():
        counts["repeated"] += 1

    def noted(recorder, outputs):
        counts["noted"] += 1
        recorder.steps.append(recording.Step(repeated, [], []))
        return real(recorder, outputs)

    monkeypatch.setattr(recording.Recorder, "recording", noted)
    return counts


@pytest.fixture(params=["registers", "blocks"])
def either(request, monkeypatch):
    """Rows that fit into registers, and rows that take several blocks."""
    if request.param == "blocks":
        monkeypatch.setattr(class_scores, "ROW", 4)
        monkeypatch.setattr(class_scores, "BLOCK", 128)
    return request.param


@pytest.fixture
def unwatched(monkeypatch):
    """While it is used, the host that looks at a tensor of the device fails, as it would have to wait."""

    def looked(self, *_):
        raise AssertionError("the host waits for the device")

    class Unwatched:
        def __enter__(self):
            self.patch = pytest.MonkeyPatch()
            for name in "item tolist __bool__ __int__ __float__ __index__ nonzero".split():
                self.patch.setattr(torch.Tensor, name, looked)
            if ON_GPU:
                torch.cuda.set_sync_debug_mode("error")

        def __exit__(self, *_):
            self.patch.undo()
            if ON_GPU:
                torch.cuda.set_sync_debug_mode("default")

    return Unwatched()


def assert_near(got, expected, dtype, slack=6.0):
    """Results in their dtype against the truth in float64, by epsilons of the largest entry; `slack` for wide dtypes."""
    for x, y in zip(got, expected, strict=True):
        assert x.dtype == dtype
        assert x.shape == y.shape
        allowed = 2.0 if dtype == torch.bfloat16 and not ON_GPU else 1.0  # the interpreter cuts it off
        allowed = slack if dtype in (torch.float32, torch.float64) else allowed
        exact = y.to(torch.float64)
        size = float(exact.nan_to_num(0.0, 0.0, 0.0).abs().max()) if y.numel() else 0.0
        tolerance = allowed * torch.finfo(dtype).eps * size + torch.finfo(dtype).tiny
        torch.testing.assert_close(x.to(torch.float64), exact, rtol=0.0, atol=tolerance, equal_nan=True)


def check_backward_again_and_twice(loss, x):
    """A second backward pass gives the bits of the first, a differentiable one the same gradient, and that one has one."""
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    again = torch.autograd.grad(loss, x, retain_graph=True)[0]
    assert torch.equal(first, again)
    (slope,) = torch.autograd.grad(loss, x, create_graph=True)
    torch.testing.assert_close(slope, first)
    assert torch.autograd.grad(slope.square().sum(), x)[0].isfinite().all()
