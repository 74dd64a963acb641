"""What goes from the cache and from memory, and when."""

import ctypes
import gc
import json
import os
import signal
import time
import warnings
import weakref

import pytest
import torch
from typer.testing import CliRunner

from losskit_guide.cli import app

from .conftest import declare, hold, kernel_of, linked, look_again, look_for


def aged(path, days):
    then = time.time() - days * 86400
    os.utime(path, (then, then))


def test_old_litter_goes_with_the_next_kernel(fake, tmp_path):
    folder = tmp_path / "cache/losskit"
    look_again()
    used = kernel_of(folder)
    litter = {"build-losskit_x-1-abc": 1, "tmpabcd": 1, "losskit_x-1.lock": 1, "losskit_x-1.so": 31}
    fresh = {"build-losskit_y-1-abc": 0, "losskit_y-1.lock": 0, "losskit_y-1.so": 29}
    strange = {"of somebody else.so": 99, "notes": 99}
    for name, days in (litter | fresh | strange).items():
        (folder / name).write_text("") if "." in name or name == "notes" else (folder / name).mkdir()
        aged(folder / name, days)
    aged(used, 40)
    look_again()  # finds its kernel: it is in use
    look_for(declare(power=3.0))  # does not, and compiles
    left = {path.name for path in folder.iterdir()}
    assert set(fresh) | set(strange) | {used.name} <= left
    assert not set(litter) & left
    assert fake.compilations() == 2
    assert time.time() - used.stat().st_mtime < 3600


def test_doctor_empties_the_cache(fake, tmp_path):
    look_again()
    folder = tmp_path / "cache/losskit"
    used = kernel_of(folder)
    (folder / "build-losskit_y-1-abc").mkdir()
    (folder / "build-losskit_y-1-abc/kernel.cpp").write_text("text")
    (folder / "losskit_y-1.lock").write_text("")
    (folder / "notes").write_text("not losskit's")
    pid = hold(folder / "losskit_busy-1.so", tmp_path / "ready")
    (folder / "build-losskit_busy-1-abc").mkdir()
    try:
        gone = json.loads(CliRunner().invoke(app, ["doctor", "--clean", "--json"]).stdout)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert gone["cache"] == str(folder)
    assert gone["removed"] == sorted([used.name, "build-losskit_y-1-abc", "losskit_y-1.lock"])
    assert gone["bytes"] > 10_000
    busy = {"losskit_busy-1.lock", "build-losskit_busy-1-abc"}
    assert {path.name for path in folder.iterdir()} == {"notes", *busy}
    said = CliRunner().invoke(app, ["doctor", "--clean"]).stdout
    assert "removed losskit_busy-1.lock\n" in said
    assert f"2 removed, 0.0 MB, from {folder}" in said
    assert look_again()[0]


def test_doctor_empties_nothing_that_is_not_the_user_s(fake, tmp_path, monkeypatch):
    assert json.loads(CliRunner().invoke(app, ["doctor", "--clean", "--json"]).stdout)["removed"] == []  # not there
    look_again()
    linked(tmp_path / "cache")
    result = CliRunner().invoke(app, ["doctor", "--clean"])
    assert result.exit_code == 2
    assert "is a symbolic link" in result.stderr
    assert kernel_of(tmp_path / "elsewhere/losskit").suffix == ".so"
    assert "not used" in json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["cache"]
    monkeypatch.setenv("HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert "without a home" in json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["cache"]


@pytest.mark.parametrize("works", [True, False])
def test_a_class_that_is_declared_again_and_again_is_forgotten(works, fake):
    if not works:
        fake("exit 1")
    classes, x = [], torch.ones(3, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(200 if works else 20):
            loss = declare().loss
            loss()(x, x.detach()).backward()
            classes.append(weakref.ref(loss))
            del loss
    gc.collect()
    assert sum(reference() is not None for reference in classes) <= 2  # the one in the registry
    assert not any(type(thing) is ctypes.CDLL and "cache_test" in str(thing._name) for thing in gc.get_objects())
    assert fake.compilations() == works
