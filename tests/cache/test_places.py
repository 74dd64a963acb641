"""Where kernels are loaded from: folders that nobody else can change."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import losskit
from losskit.kernels import cache, codegen, library

from .conftest import NOBODY, as_root, declare, kernel_of, linked, look_again, look_for, mode


@pytest.mark.parametrize("umask", [0, 0o002, 0o077])
def test_folders_and_kernels_are_the_user_s_whatever_the_umask(umask, tmp_path, fake, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a/b"))
    before = os.umask(umask)
    try:
        assert look_again()[0]
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/losskit"):
        assert mode(tmp_path / folder) == 0o700
    assert mode(kernel_of(tmp_path / "a/b/losskit")) == 0o600


def reached_by_a_link_of_another(cache_home):
    cache_home.rename(cache_home.parent / "elsewhere")
    cache_home.symlink_to(cache_home.parent / "elsewhere")
    os.chown(cache_home, NOBODY, NOBODY, follow_symlinks=False)


UNSAFE = {
    "others can write": lambda home: (home / "losskit").chmod(0o777),
    "others can write it, if sticky": lambda home: (home / "losskit").chmod(0o1777),
    "a group can write": lambda home: (home / "losskit").chmod(0o770),
    "others can write above": lambda home: home.chmod(0o707),
    "a group can write above": lambda home: home.chmod(0o770),
    "a link": linked,
}
UNSAFE_AS_ROOT = {
    "another user's": lambda home: os.chown(home / "losskit", NOBODY, NOBODY),
    "another user's above": lambda home: os.chown(home, NOBODY, NOBODY),
    "another user's, sticky": lambda home: (os.chown(home / "losskit", NOBODY, NOBODY), home.chmod(0o1777)),
    "behind another user's link": reached_by_a_link_of_another,
}


@pytest.mark.parametrize("what", [*UNSAFE, *(pytest.param(what, marks=as_root) for what in UNSAFE_AS_ROOT)])
def test_a_folder_that_others_can_change_is_not_used(what, tmp_path, fake):
    look_again()
    (UNSAFE | UNSAFE_AS_ROOT)[what](tmp_path / "cache")
    address, told = look_again()
    assert address
    assert fake.compilations() == 2
    (message,) = told
    assert re.match(
        r"losskit: compiled kernels are kept for this process only, because .*/cache/losskit is not safe", message
    )
    assert re.search(r"others can write|belongs to another user \(number 65534\)|is a symbolic link", message)
    assert message.endswith("Set XDG_CACHE_HOME to a folder that only you can write.")
    assert mode(cache.private()) == 0o700
    assert list(cache.private().glob("losskit_cache_test_loss_*.so"))
    shutil.rmtree(cache.private())
    library._compiled.clear()
    assert look_for(declare(power=2.0)) == (library._compiled[codegen.cpp(declare())[0]], [])  # said once


def test_sticky_folders_and_the_user_s_own_links_above_are_fine(tmp_path, fake, monkeypatch):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    (tmp_path / "shared/own").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("shared/../shared/own")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "link"))
    address, told = look_again()
    assert address
    assert not told
    assert kernel_of(tmp_path / "shared/own/losskit").suffix == ".so"


def test_links_in_a_circle_are_one_sentence(tmp_path, fake, monkeypatch):
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one"))
    address, (message,) = look_again()
    assert not address
    assert "Too many levels of symbolic links; set XDG_CACHE_HOME to a folder that you can write" in message


def test_a_relative_cache_home_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for relative in ("", ".", "cache", "./cache", "../cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", relative)
        assert cache.wanted() == tmp_path / "home/.cache/losskit"
    for no_home in ("", "home", "."):
        monkeypatch.setenv("HOME", no_home)
        assert cache.wanted() is None


def test_without_a_home_kernels_live_as_long_as_the_process(fake, tmp_path, monkeypatch):
    program = (
        "import warnings; warnings.simplefilter('always')\n"
        "import torch, losskit\n"
        "from losskit.kernels import cache\n"
        "for name in 'AB':\n"
        "    class CacheTestLoss(losskit.PointwiseLoss):\n"
        "        'A small loss.'\n"
        "        value = staticmethod(lambda input, target: (input - target) * 2.0)\n"
        "    x = torch.ones(3)\n"
        "    assert CacheTestLoss()(x, -x).item() == 4.0\n"
        "    print(losskit.why(CacheTestLoss(), x, x))\n"
        "print(cache.private())\n"
    )
    monkeypatch.setenv("HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    here = str(Path(losskit.__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *whys, folder = done.stdout.splitlines()
    assert all(why.startswith("fused CPU kernel") for why in whys)
    assert done.stderr.count("kept for this process only, because there is no home folder") == 1
    assert Path(folder).name.startswith("losskit-")
    assert not Path(folder).exists()
    assert not (tmp_path / "relative").exists()
    assert fake.compilations() == 1
