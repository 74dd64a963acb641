"""A user's loss in the user's own module: everything a built-in one has, compiled on first use."""

import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from tiers import full

import losskit
from losskit.kernels import library

USER_MODULE = '''
import losskit
from losskit import PointwiseLoss, param, positive
from losskit.formula import log1p


class FadingLoss(PointwiseLoss):
    """Log of one plus a log of the square: far outliers stop mattering."""

    scale: float = param(default=1.0, domain=positive, doc="Residual at which the curve bends.")

    @staticmethod
    def value(input, target, scale):
        u = (input - target) / scale
        return log1p(log1p(0.5 * u * u))
'''


def surroundings(tmp_path, cache):
    """The environment of a program beside the user's module; losskit comes from where the tests have it from."""
    (tmp_path / "mylosses.py").write_text(USER_MODULE)
    here = Path(losskit.__file__).resolve().parent.parent
    path = os.pathsep.join(map(str, [tmp_path, here, *filter(None, [os.environ.get("PYTHONPATH")])]))
    return {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": path}


def run_user(tmp_path, program, cache=None, **environment):
    """Run a program beside the user's module, in a process and cache of its own; returns what it printed."""
    environment = surroundings(tmp_path, cache or tmp_path / "cache") | environment
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", textwrap.dedent(program)],
        capture_output=True, text=True, env=environment, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


WORK = """
import torch, losskit
from mylosses import FadingLoss
x, t = torch.randn(5000, requires_grad=True), torch.randn(5000)
criterion = FadingLoss(scale=2.0)
criterion(x, t).backward()
u = (x.detach() - t) / 2.0
log = torch.log1p(0.5 * u * u)
torch.testing.assert_close(criterion(x, t), torch.log1p(log).mean())
torch.testing.assert_close(x.grad, u / (1 + 0.5 * u * u) / (1 + log) / 2.0 / 5000)
print(losskit.why(criterion, x, t))
"""


def test_a_custom_loss_is_compiled_once(tmp_path):
    assert "fused CPU kernel" in run_user(tmp_path, WORK)
    (kernel,) = (tmp_path / "cache" / "losskit").iterdir()
    before = kernel.stat().st_mtime_ns
    assert "fused CPU kernel" in run_user(tmp_path, WORK)
    assert kernel.stat().st_mtime_ns == before


@full("paths of seconds: compiled with numbers and tensors that change, races, type checkers, long pivots")
def test_a_damaged_kernel_is_compiled_again(tmp_path):
    run_user(tmp_path, WORK)
    (kernel,) = (tmp_path / "cache" / "losskit").iterdir()
    kernel.write_bytes(kernel.read_bytes()[:4096])  # which the loader maps, and dies of
    assert "fused CPU kernel" in run_user(tmp_path, WORK)


@full("paths of seconds: compiled with numbers and tensors that change, races, type checkers, long pivots")
def test_two_processes_race(tmp_path):
    environment = surroundings(tmp_path, tmp_path / "cache")
    racers = [
        subprocess.Popen([sys.executable, "-c", WORK], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    for racer in racers:
        out, err = racer.communicate()
        assert racer.returncode == 0, err
        assert b"fused CPU kernel" in out
    assert len(list((tmp_path / "cache" / "losskit").iterdir())) == 1


@pytest.mark.parametrize("obstacle", ["no compiler", "no writable home"])
def test_without_a_kernel_the_formula_runs_and_says_so_once(tmp_path, obstacle):
    if obstacle == "no compiler":
        out = run_user(tmp_path, WORK, CXX="/nonexistent/compiler")
        assert "/nonexistent/compiler" in out
    else:
        blocked = tmp_path / "blocked"
        blocked.write_text("a file where the cache directory should be")
        out = run_user(tmp_path, WORK, cache=blocked)
    assert "eager formula: its kernel could not be compiled" in out
    assert out.count("losskit: eager formula instead of a fused kernel") == 1


class LopsidedLoss(losskit.PointwiseLoss):
    """Squared error that punishes falling short more; with a switch, three operands and hand-written gradient."""

    factor: float = losskit.param(default=3.0, domain=losskit.positive, doc="Weight of falling short.")
    rooted: bool = losskit.param(default=False, doc="Take the square root.")

    @staticmethod
    def value(input, target, spread, factor, rooted):
        from losskit.formula import absolute, where

        d = (input - target) / spread
        weight = where(d < 0.0, factor, 1.0)
        return weight * absolute(d) if rooted else weight * d * d

    operands = {"spread": losskit.Operand("Scale of each element.", domain=losskit.positive, broadcast=True)}
    facts = losskit.Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=False)


def test_a_custom_loss_has_everything(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    x = torch.tensor([0.0, 2.0, 5.0], dtype=torch.float64, requires_grad=True)
    t, spread = torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    criterion = LopsidedLoss("none", factor=2.0)
    assert repr(criterion) == "LopsidedLoss(reduction='none', factor=2.0, rooted=False)"
    assert (
        losskit.create(criterion.config())(x, t, spread).tolist()
        == criterion(x, t, spread).tolist()
        == [0.5, 0.25, 4.0]
    )
    assert losskit.get("lopsided_loss") is losskit.get("LopsidedLoss") is LopsidedLoss
    assert LopsidedLoss.functional(x, t, spread, reduction="sum", rooted=True).item() == 3.0 * 0.5 + 0.5 + 2.0
    weight = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    torch.autograd.gradcheck(lambda *args: criterion(*args, sample_weight=weight), [x, t, spread])
    with pytest.raises(ValueError, match="lopsided_loss: spread must be positive, got 0 at index"):
        criterion(x, t, torch.zeros(3, dtype=torch.float64))
    assert losskit.why(criterion, x, t, spread).implementation == "fused CPU kernel"
    half = LopsidedLoss()(x.detach().bfloat16(), t.bfloat16(), 2.0)
    assert half.dtype == torch.bfloat16


def test_a_missing_kernel_is_looked_for_once(tmp_path):
    """Not once per parameter: a schedule of parameters must not call a compiler at every step."""
    program = """
        import torch
        from losskit.kernels import compiler
        from mylosses import FadingLoss
        calls = []
        def refuse(*args, **kwargs):
            calls.append(1)
            raise compiler.CompileError("refused")
        compiler.build = refuse
        for step in range(1, 6):
            FadingLoss(scale=float(step))(torch.zeros(3), torch.ones(3))
        print("compiled", len(calls))
    """
    assert "compiled 1\n" in run_user(tmp_path, program)


class AboveTenthLoss(losskit.PointwiseLoss):
    """Has an open bound at a number that no binary dtype has."""

    operands = {"target": losskit.Operand("t", domain=losskit.Interval("above 0.1", low=0.1, low_open=True))}

    @staticmethod
    def value(input, target):
        return input - target


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kernel_and_message_agree_on_a_rounded_bound(dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"target must be above 0.1, got 0.1 at index \(1,\)"):
        AboveTenthLoss()(torch.zeros(2, dtype=dtype), torch.tensor([1.0, 0.1], dtype=dtype))


def test_parameters_can_change_on_an_instance():
    criterion = losskit.HuberLoss(delta=1.0)
    x, t = torch.tensor([3.0]), torch.tensor([0.0])
    assert criterion(x, t).item() == 2.5
    criterion.delta = 2.0
    assert criterion(x, t).item() == 4.0
    criterion.reduction = "none"
    assert criterion(x, t).shape == (1,)
    with pytest.raises(ValueError, match="delta must be positive"):
        criterion.delta = -1.0


def test_notice_is_given_once_for_a_missing_library(monkeypatch):
    """A library that cannot be loaded is one warning and eager formulas, not an error."""
    monkeypatch.setattr(library, "LIBRARY", library.FOLDER / "kernel.h")  # exists, is no library
    library._own.cache_clear()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert library._own() is None
            assert library._own() is None
        assert len(caught) == 1
    finally:
        monkeypatch.undo()
        library._own.cache_clear()
