"""What compilers and disks do: whatever it is, it is one warning, and the loss works."""

import os
import re
import shutil
import warnings

import pytest
import torch

import losskit
from losskit.kernels import cache, compiler

from .conftest import assert_one_sentence, declare, look_again

BAD_LINES = {  # what the compiler does before or instead of its work, and what the warning says
    "says why": (r"echo 'warning: w' >&2; echo 'x.cpp:1:2: error: no T' >&2; echo 'note: n' >&2; exit 1", "failed: error: no T"),
    "says why twice": (r"printf 'a.cpp:1:2: error: one\na.cpp:3:4: error: two\n' >&2; exit 1", "failed: error: two"),
    "says it without a word": (r"echo one; echo two >&2; echo; exit 1", "failed: two"),
    "speaks Latin-1": ("echo 'x.cpp:1: error: f\xfcr' >&2; exit 1", "failed: error: f\N{REPLACEMENT CHARACTER}r"),
    "speaks no language": (r"head -c 100000 /bin/sh >&2; exit 1", "failed"),
    "clears the screen": (r"printf '\033[2Jerror: \007no\n' >&2; exit 1", "failed: ?[2Jerror: ?no"),
    "says much": ("yes 'error: much' | head -c 3000000 >&2; exit 1", "failed: error: much"),
    "says a long line": ("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1", "failed: x"),
    "is silent": ("exit 3", "failed with status 3 and said nothing"),
    "is killed": ("kill -9 $$", "was killed by signal 9"),
    "is old gcc": (
        "echo \"g++: error: unrecognized command line option '-std=c++20'; did you mean '-std=c++2a'?\" >&2; exit 1",
        "is too old: losskit needs C++20 (GCC 10, Clang 10 or newer): g++: error: unrecognized",
    ),
    "is old clang": (
        "echo \"error: invalid value 'c++20' in '-std=c++20'\" >&2; exit 1",
        "is too old: losskit needs C++20 (GCC 10, Clang 10 or newer): error: invalid value",
    ),
    "cannot link": (
        "[ $kind = -shared ] && { echo '/usr/bin/ld: cannot find -lx'; echo 'collect2: error: ld returned 1'; exit 1; } >&2",
        "failed: /usr/bin/ld: cannot find -lx",
    ),
}  # fmt: skip
BAD_LINKS = {
    "nothing": (":", "wrote no library"),
    "no bytes": (": > $out", "no complete shared library"),
    "a text": ("echo text > $out", "no complete shared library"),
    "noise": ("head -c 50000 /dev/urandom > $out", "no complete shared library"),
    "noise behind a header": ("{ printf '\\177ELF\\2\\1'; head -c 50000 /dev/urandom; } > $out", ""),
    "half a library": ("head -c 9000 {built} > $out", "no complete shared library"),
    "a folder": ("mkdir $out", "wrote no library"),
    "a fifo": ("mkfifo $out", "wrote no library"),
    "a link to nowhere": ("ln -s nowhere $out", "wrote no library"),
    "a program": ("cp /bin/true $out", ""),
}


@pytest.mark.parametrize("what", BAD_LINES)
def test_a_compiler_that_fails_is_one_warning(what, fake):
    lines, expected = BAD_LINES[what]
    fake(lines)
    assert_one_sentence(look_again()[1], expected)


@pytest.mark.parametrize("what", BAD_LINKS)
def test_a_compiler_that_writes_something_else_is_one_warning(what, fake, built, tmp_path):
    link, expected = BAD_LINKS[what]
    fake(link=link.format(built=built) if "{built}" in link else link)
    address, told = look_again()
    assert not address
    assert_one_sentence(told, expected)
    assert not list((tmp_path / "cache/losskit").glob("build-*"))


@pytest.mark.parametrize(
    "cxx, expected",
    [
        ('g++ "', "CXX is not a command: 'g++ \"' (no closing quotation)"),
        ("/nonexistent/g++", "the C++ compiler /nonexistent/g++ cannot be run: No such file or directory"),
        ("/", "the C++ compiler / cannot be run: Permission denied"),
        (__file__, "cannot be run: Permission denied"),
        ("''", "CXX is not a command: \"''\""),
        ("/\udcff", "the C++ compiler /\\udcff cannot be run: No such file or directory"),
    ],
)
def test_what_cannot_be_run_is_one_warning(cxx, expected, monkeypatch):
    monkeypatch.setenv("CXX", cxx)
    address, (message,) = look_again()
    assert not address
    assert expected in message


def test_a_blank_cxx_is_none(monkeypatch):
    monkeypatch.setenv("CXX", "  ")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert compiler.compiler() is None
    assert "no C++ compiler was found (g++, clang++ or $CXX)" in look_again()[1][0]


@pytest.mark.parametrize(
    "what", ["a file in the way", "a system without files", "a full disk", "a lasting folder that is read-only"]
)
def test_a_disk_that_takes_nothing_is_one_warning(what, tmp_path, fake, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError(30 if "read-only" in what else 28, os.strerror(30 if "read-only" in what else 28))

    if what == "a file in the way":
        (tmp_path / "cache").write_text("")
        expected = "/cache/losskit cannot be made: Not a directory; set XDG_CACHE_HOME to a folder that you can write"
    elif what == "a system without files":
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/losskit")
        expected = "/proc/losskit/losskit cannot be made"
    elif what == "a full disk":
        monkeypatch.setattr(os, "fsync", fail)
        expected = "No space left on device"
    else:
        monkeypatch.setattr(cache.tempfile, "mkdtemp", fail)
        expected = "Read-only file system"
    address, told = look_again()
    assert not address
    assert_one_sentence(told, expected)


def test_a_loss_says_it_once_and_another_loss_again(fake, monkeypatch):
    fake("echo 'error: no' >&2; exit 1")

    class CacheTestSwitchLoss(losskit.PointwiseLoss):
        """Has two formulas."""

        on: bool = losskit.param(default=False, doc="A switch.")

        @staticmethod
        def value(input, target, on):
            return input * target * 3.0 if on else input - target

    x = torch.ones(3, requires_grad=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for on in (False, True, False):
            CacheTestSwitchLoss(on=on)(x, x.detach()).backward()
        declare().loss()(x, x.detach()).backward()
    names = [
        re.search(r"kernel for (\w+): the C\+\+ compiler .* failed: error: no$", str(w.message))[1] for w in caught
    ]
    assert names == ["cache_test_switch_loss", "cache_test_loss"]
    assert "eager formula: its kernel could not be compiled: the C++ compiler" in str(
        losskit.why(CacheTestSwitchLoss(), x, x.detach())
    )


def test_a_warning_that_is_an_error_leaves_the_loss_usable(fake):
    fake("exit 1")
    loss, x = declare().loss(), torch.ones(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="eager formula instead of a fused kernel"):
            loss(x, -x)
        assert loss(x, -x).item() == 4.0
