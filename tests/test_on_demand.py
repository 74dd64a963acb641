"""Rare settings of a built-in loss's switches: not in the package's library, compiled on first use, the same bits."""

import itertools
import platform
import re
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import losskit
from losskit.families.base import LONG, Family
from losskit.kernels import cache, codegen, compiler, library

ROOT = Path(__file__).resolve().parent.parent
LOSSES = {
    n: c for n, c in losskit.list_losses().items() if issubclass(c, Family) and c.__module__.startswith("losskit.")
}
WITH_KERNELS = {name: cls for name, cls in LOSSES.items() if cls._built_in_formulas()}
RARE = {"log_input": False, "full": True}  # of poisson_nll_loss: two switches changed
needs_library = pytest.mark.skipif(not library.loaded(), reason="the package has no library")


def symbol_of(formula):
    return codegen.cpp(formula)[0]


def printed(cls):
    """The symbols of the kernels that are compiled with the package."""
    file = cls.__module__.rsplit(".", 1)[-1]
    return re.findall(r"LOSSKIT_KERNEL_OF_\w+\((\w+),", (ROOT / f"csrc/generated/{file}.cpp").read_text())


@pytest.mark.parametrize("name", WITH_KERNELS)
def test_the_library_has_the_defaults_and_each_switch_changed(name):
    """So its size grows with the number of switches, not with the number of their settings."""
    cls = WITH_KERNELS[name]
    usual, switches = dict(zip(cls._switches(), cls._usual_setting())), cls._settings()
    words = [s for s, p in cls.params.items() if p.kind == "choice"]
    others = [{**usual, s: x} for s, settings in switches.items() if s not in words for x in settings if x != usual[s]]
    first, *changed = (cls._formulas[tuple(setting.values())] for setting in (usual, *others))
    formulas = [first, *(formula for formula in changed if formula.operations <= LONG)]
    wanted = {symbol_of(formula) for formula in formulas if formula in cls._compiled_formulas()}
    beside = (losskit.PairsLoss, losskit.ClassScoresLoss)
    terms = cls._terms() if issubclass(cls, beside) else {}  # of one pair, or of the own class's score
    assert set(printed(cls)) == wanted | {symbol_of(term) for term in terms.values()}
    assert len(printed(cls)) <= 1 + len(others) + len(terms)


def test_there_are_rare_settings():
    """Or nothing here tests anything."""
    cls = LOSSES["poisson_nll_loss"]
    settings = itertools.product((False, True), repeat=3)
    missing = {s for s in settings if symbol_of(cls._formulas[s]) not in printed(cls)}
    assert missing == {(False, True, False), (False, True, True), (True, True, False)}


@pytest.fixture
def compiles(monkeypatch, tmp_path):
    """A process that has compiled nothing yet, with a cache of its own; what it compiles from now on."""
    sources = []
    build = compiler.build

    def noting(files, *rest, **options):
        sources.extend(file.read_text() for file in files)
        build(files, *rest, **options)

    monkeypatch.setattr(compiler, "build", noting)
    monkeypatch.setattr(library, "_compiled", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for formula in LOSSES["poisson_nll_loss"]._formulas.all():
        monkeypatch.setattr(formula, "kernel", None)
        monkeypatch.setattr(formula, "why_no_kernel", "")
    LOSSES["poisson_nll_loss"]._plans.clear()  # plans remember their kernels
    return sources


def rates(dtype, n=5003):
    """More than four blocks, the last one ragged."""
    generator = torch.Generator().manual_seed(1)
    x = 30 * torch.rand(n, generator=generator, dtype=torch.float64)
    t = torch.poisson(x, generator=generator)
    x[:3], t[:3] = torch.tensor([0.0, 1e-30, 3.0]), torch.tensor([0.0, 1e10, float("nan")])
    return x.to(dtype).requires_grad_(), t.to(dtype).requires_grad_()


@needs_library
def test_a_rare_setting_is_compiled_once(compiles):
    x, t = rates(torch.float32)
    usual = losskit.PoissonNLLLoss(log_input=False)
    usual(x, t)
    assert not compiles
    assert "compiled on this machine" not in losskit.why(usual, x, t).reason
    rare = losskit.PoissonNLLLoss(**RARE)
    for eps in (1e-8, 1e-6):
        losskit.functional.poisson_nll_loss(x, t, eps=eps, **RARE)
    rare(x, t)
    assert len(compiles) == 1
    assert losskit.why(rare, x, t).implementation == "fused CPU kernel"
    assert losskit.why(rare, x, t).reason.endswith(
        "the gradient written in forward, autograd in C++; compiled on this machine"
    )
    (kernel,) = cache.wanted().iterdir()
    assert kernel.name.startswith("losskit_poisson_nll_loss_")


def results(settings, dtype):
    x, t = rates(dtype)
    each = losskit.PoissonNLLLoss(reduction="none", **settings)(x, t)
    return each.detach(), *torch.autograd.grad(losskit.PoissonNLLLoss(**settings)(x, t), [x, t])


def the_bits(tensors):
    return [x.view(torch.int32 if x.dtype == torch.float32 else torch.int64) for x in tensors]


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [RARE, {"log_input": False}], ids=["rare", "usual"])
def test_bits_are_those_of_the_library(compiles, monkeypatch, tmp_path, dtype, settings):
    """A usual kernel of the library against one compiled on demand; a rare one against the library's way to compile."""
    cls = LOSSES["poisson_nll_loss"]
    formula = cls._formulas[tuple({"log_input": True, "full": False, "stirling": True, **settings}.values())]
    symbol, source = codegen.cpp(formula)
    if settings != RARE:
        assert symbol in printed(cls)
        of_library = the_bits(results(settings, dtype))
        assert not compiles
    else:
        (tmp_path / "unit.cpp").write_text(f'#include "kernel.h"\n#include "each.h"\n{source}')
        compiler.build([tmp_path / "unit.cpp"], tmp_path / "unit.so", include=[ROOT / "csrc"])
        monkeypatch.setattr(formula, "kernel", library._load(tmp_path / "unit.so", symbol))
        of_library = the_bits(results(settings, dtype))
        assert len(compiles) == 1
    here = library._from_cache(symbol, source, time.monotonic() + 120)
    assert compiler.instruction_set() in compiles[-1]
    assert here != formula.kernel
    monkeypatch.setattr(formula, "kernel", here)
    for a, b in zip(of_library, the_bits(results(settings, dtype)), strict=True):
        assert torch.equal(a, b)


@needs_library
def test_without_a_compiler_the_formula_runs_and_says_so_once(compiles, monkeypatch):
    """As a user's loss does there. What the library has is not touched by it."""
    monkeypatch.setenv("CXX", "/nonexistent/compiler")
    monkeypatch.setattr(library, "_told", set())
    x, t = rates(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losskit.PoissonNLLLoss(full=True)(x, t)
    rate, count = x.detach()[3:], t.detach()[3:]
    stirling = count * count.log() - count + 0.5 * (2 * torch.pi * count).log()
    expected = rate - count * (rate + 1e-8).log() + torch.where(count > 1, stirling, 0.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for reduction in ("none", "mean"):
            found = losskit.functional.poisson_nll_loss(rate, count, reduction=reduction, **RARE)
            torch.testing.assert_close(found, expected if reduction == "none" else expected.mean())
        losskit.functional.poisson_nll_loss(rate, count, full=True, stirling=False)
    (notice,) = caught
    assert str(notice.message).startswith("losskit: eager formula instead of a fused kernel for poisson_nll_loss: ")
    choice = losskit.why(losskit.PoissonNLLLoss(**RARE), rate, count)
    assert choice.implementation == "eager formula"
    assert "/nonexistent/compiler" in choice.reason


def test_the_instruction_set_is_the_one_that_the_clones_choose(tmp_path):
    """GCC's own answer; kernels of another one stand under another name in a cache that machines share."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or not shutil.which("g++"):
        pytest.skip("not Linux on x86-64, or no GCC to ask")
    names = ("x86-64-v4", "x86-64-v3")
    asks = "".join(f'if (__builtin_cpu_supports("{name}")) return std::puts("{name}"), 0; ' for name in names)
    (tmp_path / "ask.cpp").write_text(f'#include <cstdio>\nint main() {{ {asks} std::puts("x86-64"); }}')
    subprocess.run(["g++", str(tmp_path / "ask.cpp"), "-o", str(tmp_path / "ask")], check=True)
    said = subprocess.run([str(tmp_path / "ask")], capture_output=True, text=True, check=True).stdout.strip()
    assert compiler.instruction_set() == said


def test_another_processor_gets_another_kernel(monkeypatch):
    before = library._fingerprint()
    monkeypatch.setattr(compiler, "instruction_set", lambda: "x86-64-v2")
    assert library._fingerprint() != before
