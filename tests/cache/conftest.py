"""The cache of compiled kernels and the compiler: a compiler that can be made to fail, and a cache for each test."""

import os
import stat
import time
import warnings

import pytest

import losskit
from losskit.kernels import cache, codegen, compiler, library
from losskit.loss import registered

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


def declare(power=2.0):
    """A new class every time, as when the cell of a notebook is run again; its formula."""

    class CacheTestLoss(losskit.PointwiseLoss):
        """A small loss."""

        @staticmethod
        def value(input, target):
            return (input - target) * power

    return next(iter(CacheTestLoss._formulas.values()))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch, tmp_path):
    """A process that has compiled nothing yet, with a cache of its own."""
    before = dict(registered)
    monkeypatch.setattr(library, "_compiled", {})
    monkeypatch.setattr(library, "_notice", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(compiler.TIME_LIMIT, raising=False)
    yield
    registered.clear()
    registered.update(before)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The library of the loss above, from the real compiler."""
    folder = tmp_path_factory.mktemp("built")
    _, source = codegen.cpp(declare())
    registered.pop("cache_test_loss")
    (folder / "kernel.cpp").write_text('#include "kernel.h"\n#include "primitives.h"\n' + source)
    compiler.build([folder / "kernel.cpp"], folder / "kernel.so", include=[library.FOLDER])
    return folder / "kernel.so"


@pytest.fixture
def fake(tmp_path, monkeypatch, built):
    """Makes a compiler of shell lines, `$out` being what it should write; without lines, a good and quick one.

    It notes each call in `calls`, and links by copying the library that the real compiler made.
    """

    def make(lines="", link=f"cp {built} $out", compile="echo object > $out"):
        script = tmp_path / "fake compiler"
        script.write_text(
            f"#!/bin/sh\nfor word; do out=$word; done\nkind=$1; [ $kind = -shared ] && out=$4\n"
            f"echo $kind >> {tmp_path}/calls\n{lines}\nif [ $kind = -shared ]; then\n{link}\nelse\n{compile}\nfi\n",
            encoding="latin-1",
        )
        script.chmod(0o755)
        monkeypatch.setenv("CXX", f"'{script}'")

    make.compilations = lambda: (
        (tmp_path / "calls").read_text().count("-shared") if (tmp_path / "calls").exists() else 0
    )
    make()
    return make


def look_for(formula):
    """The address of a kernel and the warnings on the way, as a first call of the loss does it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        address = library.find(formula)
    return address, [str(warning.message) for warning in caught]


def look_again():
    """The same by a process that has the kernel not yet."""
    library._compiled.clear()
    return look_for(declare())


def kernel_of(folder):
    (found,) = folder.iterdir()
    return found


def mode(path):
    return stat.S_IMODE(path.lstat().st_mode)


def assert_one_sentence(told, expected):
    (message,) = told
    assert message.startswith("losskit: eager formula instead of a fused kernel for cache_test_loss: ")
    assert expected in message
    assert message.isprintable()
    assert len(message) < 700
    assert "-fvisibility" not in message  # not the command line
    assert ".cpp:" not in message  # nor a file that is gone


def linked(cache_home):
    (cache_home.parent / "elsewhere").mkdir()
    (cache_home / "losskit").rename(cache_home.parent / "elsewhere/losskit")
    (cache_home / "losskit").symlink_to(cache_home.parent / "elsewhere/losskit")


def wait_for(path):
    for _ in range(1000):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.01)
    raise AssertionError(f"{path} does not come")


def forked(work, count=1):
    """Processes that run `work` and say by their status how it went."""
    pids = []
    for _ in range(count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that threads are not taken along
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                status = 0 if work() else 2
            finally:
                os._exit(status)
        pids.append(pid)
    return pids


def hold(path, ready):
    def work():
        with cache.turn(path, time.monotonic() + 10):
            ready.write_text("held")
            time.sleep(1000)

    (pid,) = forked(work)
    wait_for(ready)
    return pid
