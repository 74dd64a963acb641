"""The cache of compiled kernels and the compiler: what is loaded, what is not, and that nothing of it reaches a loss."""

import ctypes
import gc
import json
import os
import pickle
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import losskit
from losskit.kernels import cache, codegen, compiler, library
from losskit.loss import registered
from losskit_guide.cli import app

ROOT = Path(__file__).resolve().parent.parent
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


@pytest.fixture(scope="module")
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


# ---------------------------------------------------------------------------------------------------------
# What is loaded


def test_a_kernel_is_kept_and_found_again(tmp_path, fake):
    for _ in range(3):
        address, told = look_again()
        assert address
        assert not told
    assert fake.compilations() == 1
    assert kernel_of(tmp_path / "cache/losskit").name.startswith("losskit_cache_test_loss_")


def as_socket(path):
    # A socket's address may have 108 bytes, the path of a test more.
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


REPLACED = {
    "nothing": lambda path, data: None,
    "no bytes": lambda path, data: path.write_bytes(b""),
    "a text": lambda path, data: path.write_bytes(b"not a library"),
    "4 KB of it": lambda path, data: path.write_bytes(data[:4096]),
    "30 % of it": lambda path, data: path.write_bytes(data[: len(data) * 3 // 10]),
    "60 % of it": lambda path, data: path.write_bytes(data[: len(data) * 6 // 10]),
    "a byte less": lambda path, data: path.write_bytes(data[:-1]),
    "a byte more": lambda path, data: path.write_bytes(data + b"\0"),
    "a hole": lambda path, data: path.write_bytes(data[:4096] + bytes(4096) + data[8192:]),
    "a bit of its code": lambda path, data: path.write_bytes(flipped(data, len(data) // 2)),
    "a bit of its hash": lambda path, data: path.write_bytes(flipped(data, len(data) - 1)),
    "only its hash": lambda path, data: path.write_bytes(data[-48:]),
    "random bytes in its header": lambda path, data: path.write_bytes(bytes(range(255, -1, -1)) + data[256:]),
    "a library without a hash": lambda path, data: path.write_bytes(data[:-48]),
    "a folder": lambda path, data: (path.mkdir(), (path / "file").touch()),
    "a fifo": lambda path, data: os.mkfifo(path),
    "a socket": lambda path, data: as_socket(path),
    "a link to itself": lambda path, data: path.symlink_to(path),
    "a link to nowhere": lambda path, data: path.symlink_to(path.parent / "nowhere"),
    "a link to a good one": lambda path, data: (
        (path.parent.parent / "good.so").write_bytes(data), path.symlink_to(path.parent.parent / "good.so")
    ),
    "one that others can write": lambda path, data: (path.write_bytes(data), path.chmod(0o602)),
    "one that a group can write": lambda path, data: (path.write_bytes(data), path.chmod(0o620)),
}  # fmt: skip
OF_ROOT = {
    "one of another user's": lambda path, data: (path.write_bytes(data), os.chown(path, NOBODY, NOBODY)),
    "a device": lambda path, data: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5)),  # /dev/zero
}


@pytest.mark.parametrize("what", [*REPLACED, *(pytest.param(what, marks=as_root) for what in OF_ROOT)])
def test_what_is_not_whole_or_not_ours_is_compiled_again(what, tmp_path, fake):
    look_again()
    path = kernel_of(tmp_path / "cache/losskit")
    good = path.read_bytes()
    path.unlink()
    try:
        (REPLACED | OF_ROOT)[what](path, good)
    except PermissionError:
        pytest.skip("this system makes no such file")
    started = time.monotonic()
    address, told = look_again()
    assert address
    assert not told
    assert fake.compilations() == 2
    assert time.monotonic() - started < 10
    assert kernel_of(tmp_path / "cache/losskit") == path
    assert stat.S_ISREG(path.lstat().st_mode)
    assert mode(path) == 0o600
    assert path.read_bytes() == good
    look_again()
    assert fake.compilations() == 2


def test_every_shorter_library_is_refused_before_it_is_loaded(tmp_path, built):
    """Bytes that a library maps and a file does not have kill the process: also where the compiler wrote so."""
    whole = built.read_bytes()
    assert cache._whole(whole)
    last = max(length for length in range(0, len(whole), 97) if not cache._whole(whole[:length]))
    assert last > 4096
    path = tmp_path / "kernel.so"
    cache.keep(whole, path, tmp_path)
    assert cache.intact(path)
    kept = path.read_bytes()
    for length in {*range(0, len(kept), 997), len(kept) - 1}:
        path.write_bytes(kept[:length])
        assert not cache.intact(path), length


@pytest.mark.parametrize("what", ["a folder", "a fifo", "a socket", "a link to a good one"])
def test_only_regular_files_are_read(what, tmp_path):
    path = tmp_path / "folder/kernel.so"
    path.parent.mkdir()
    REPLACED[what](path, b"content")
    with pytest.raises(OSError, match=r"regular file|No such device|symbolic links|Is a directory"):
        cache.content(path)


def test_what_the_disk_does_not_keep_is_not_loaded(fake, monkeypatch):
    keep = cache.keep
    monkeypatch.setattr(cache, "keep", lambda *args: (keep(*args), os.truncate(args[1], 4096)))
    address, told = look_again()
    assert not address
    assert_one_sentence(told, "is not what was written")


def test_what_is_kept_is_forced_to_the_disk_before_it_has_its_name(tmp_path, built, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (order.append("replace"), replace(*paths)))
    cache.keep(built.read_bytes(), tmp_path / "kernel.so", tmp_path)
    assert order == ["fsync", "replace", "fsync"]  # the file, then the folder


# ---------------------------------------------------------------------------------------------------------
# Where it is loaded from


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


def linked(cache_home):
    (cache_home.parent / "elsewhere").mkdir()
    (cache_home / "losskit").rename(cache_home.parent / "elsewhere/losskit")
    (cache_home / "losskit").symlink_to(cache_home.parent / "elsewhere/losskit")


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


# ---------------------------------------------------------------------------------------------------------
# What compilers and disks do

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


def assert_one_sentence(told, expected):
    (message,) = told
    assert message.startswith("losskit: eager formula instead of a fused kernel for cache_test_loss: ")
    assert expected in message
    assert message.isprintable()
    assert len(message) < 700
    assert "-fvisibility" not in message  # not the command line
    assert ".cpp:" not in message  # nor a file that is gone


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


# ---------------------------------------------------------------------------------------------------------
# Time and turns


def wait_for(path):
    for _ in range(1000):
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.01)
    raise AssertionError(f"{path} does not come")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("ending", ["wait", "exec sleep 1000"])
def test_a_compiler_that_hangs_is_killed_with_its_children(ending, fake, tmp_path, monkeypatch):
    monkeypatch.setenv(compiler.TIME_LIMIT, "0.5")
    fake(f"trap '' TERM INT HUP; sleep 1000 & echo $! > {tmp_path}/child; {ending}")
    started = time.monotonic()
    address, (message,) = look_again()
    assert not address
    assert "took too long and was stopped; LOSSKIT_COMPILE_TIMEOUT allows 0.5 seconds" in message
    assert time.monotonic() - started < 10
    child = int(wait_for(tmp_path / "child"))
    for _ in range(500):
        if not is_running(child):
            break
        time.sleep(0.01)
    assert not is_running(child)


def test_a_compiler_keeps_its_temporary_files_in_the_cache(fake, tmp_path):
    """So that they go, whatever happens to it."""
    fake(f'echo "$TMPDIR" >> {tmp_path}/used; : > "$TMPDIR/litter"')
    assert look_again()[0]
    (folder,) = set((tmp_path / "used").read_text().splitlines())
    assert Path(folder).parent.parent == tmp_path / "cache/losskit"
    assert not Path(folder).parent.exists()


def test_a_compiler_s_daemon_is_not_waited_for(fake, tmp_path, monkeypatch):
    """Compiler caches leave a server behind, which keeps the pipe open."""
    monkeypatch.setenv(compiler.TIME_LIMIT, "30")
    fake(f"[ $kind = -shared ] || {{ sleep 1000 & echo $! > {tmp_path}/child; }}")
    started = time.monotonic()
    address, told = look_again()
    os.kill(int(wait_for(tmp_path / "child")), signal.SIGKILL)
    assert address
    assert not told
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("text, seconds", [("3", 3.0), ("0.5", 0.5), ("1e300", threading.TIMEOUT_MAX), ("inf", threading.TIMEOUT_MAX),
    *((text, 120.0) for text in ("", "x", "0", "-1", "nan"))])  # fmt: skip
def test_the_time_limit_is_a_positive_number_of_seconds(text, seconds, monkeypatch):
    monkeypatch.setenv(compiler.TIME_LIMIT, text)
    assert compiler.time_limit() == seconds


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


def test_threads_that_need_one_kernel_compile_it_once(fake):
    fake("sleep 0.2")
    formula, found = declare(), []
    others = [declare() for _ in range(3)]  # the same source in other classes
    threads = [threading.Thread(target=lambda f=f: found.append(library.find(f))) for f in [formula] * 8 + others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 11
    assert len(set(found)) == 1
    assert found[0]
    assert fake.compilations() == 1


def test_threads_that_get_no_kernel_ask_once(fake, tmp_path):
    fake("sleep 0.2; exit 1")
    formula = declare()
    library._told.add(formula.loss)
    threads = [threading.Thread(target=library.find, args=(formula,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "calls").read_text().count("\n") == 1


def test_processes_that_need_one_kernel_compile_it_once(fake, tmp_path):
    fake("sleep 0.2")
    pids = forked(lambda: bool(library.find(declare())), count=8)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0] * 8
    assert fake.compilations() == 1
    assert kernel_of(tmp_path / "cache/losskit").suffix == ".so"  # no lock is left


def hold(path, ready):
    def work():
        with cache.turn(path, time.monotonic() + 10):
            ready.write_text("held")
            time.sleep(1000)

    (pid,) = forked(work)
    wait_for(ready)
    return pid


def test_a_killed_holder_holds_nothing(fake, tmp_path):
    look_again()
    path = kernel_of(tmp_path / "cache/losskit")
    path.unlink()
    pid = hold(path, tmp_path / "ready")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert path.with_suffix(".lock").exists()
    assert look_again()[0]
    assert kernel_of(tmp_path / "cache/losskit") == path


def test_a_holder_is_waited_for_but_not_for_ever(fake, tmp_path, monkeypatch):
    look_again()
    path = kernel_of(tmp_path / "cache/losskit")
    path.unlink()
    pid = hold(path, tmp_path / "ready")
    try:
        monkeypatch.setenv(compiler.TIME_LIMIT, "0.3")
        started = time.monotonic()
        address, told = look_again()
        assert not address
        assert_one_sentence(told, "another process has been compiling it for too long")
        assert time.monotonic() - started < 10
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_thread_is_waited_for_but_not_for_ever(monkeypatch, fake):
    monkeypatch.setenv(compiler.TIME_LIMIT, "0.1")
    formula = declare()
    turn = library._turns.setdefault(codegen.cpp(formula)[0], threading.Lock())
    with turn:
        address, told = look_for(formula)
    assert not address
    assert_one_sentence(told, "another thread has been compiling it for too long")


@pytest.mark.parametrize("what", ["no locks", "a folder", "a fifo", "a link"])
def test_a_lock_that_cannot_be_had_costs_no_kernel(what, fake, tmp_path, monkeypatch):
    import fcntl

    def refuse(*args):
        raise OSError(37, "No locks available")

    look_again()
    path = kernel_of(tmp_path / "cache/losskit")
    path.unlink()
    lock = path.with_suffix(".lock")
    if what == "no locks":
        monkeypatch.setattr(fcntl, "flock", refuse)
    else:
        {"a folder": Path.mkdir, "a fifo": os.mkfifo, "a link": lambda p: p.symlink_to(p)}[what](lock)
    address, told = look_again()
    assert address
    assert not told
    assert fake.compilations() == 2


# ---------------------------------------------------------------------------------------------------------
# What goes


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


# ---------------------------------------------------------------------------------------------------------
# The key, and what lies around


def test_the_key_changes_with_headers_and_compiler(tmp_path, monkeypatch):
    for header in library.FOLDER.glob("*.h"):
        shutil.copy(header, tmp_path)
    own = library._fingerprint()
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    assert library._fingerprint() == own
    keys = {own}
    for header in sorted(tmp_path.glob("*.h")):
        text = header.read_text()
        for changed in (text + " ", text.replace("1", "2", 1), ""):
            header.write_text(changed)
            keys.add(library._fingerprint())
        header.write_text(text)
    (tmp_path / "another.h").write_text("")
    keys.add(library._fingerprint())
    (tmp_path / "another.h").unlink()
    monkeypatch.setenv("CXX", "another compiler")
    keys.add(library._fingerprint())
    monkeypatch.setattr(compiler, "FLAGS", [*compiler.FLAGS, "-g"])
    keys.add(library._fingerprint())
    assert len(keys) == 1 + 2 * 3 + 3


def test_another_header_is_another_kernel(tmp_path, fake, monkeypatch):
    look_again()
    for header in library.FOLDER.glob("*.h"):
        shutil.copy(header, tmp_path)
    with (tmp_path / "primitives.h").open("a") as header:
        header.write("// changed\n")
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    look_again()
    assert fake.compilations() == 2


def test_an_address_is_not_taken_to_another_process(fake):
    formula = declare()
    library.find(formula)
    assert formula.kernel
    state = formula.__getstate__()
    assert not {"kernel", "why_no_kernel", "triton"} & set(state)
    assert "switches" in state
    pickle.dumps(state["switches"])


def test_the_build_of_the_package_needs_no_torch_for_its_compiler():
    program = (
        "import sys, importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('compiler', {str(Path(compiler.__file__))!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "print(module.FLAGS[0], [name for name in ('torch', 'losskit', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "-std=c++20 []\n"


def test_several_files_become_one_library_or_none(tmp_path):
    """As the package's own are."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.cpp").write_text(
            f'extern "C" __attribute__((visibility("default"))) int {name}() {{ return 7; }}'
        )
    sources = [tmp_path / "one.cpp", tmp_path / "two.cpp"]
    compiler.build(sources, tmp_path / "lib/both.so")
    both = ctypes.CDLL(str(tmp_path / "lib/both.so"))
    assert both.one() + both.two() == 14
    sources[1].write_text("int two() { return none; }")
    with pytest.raises(compiler.CompileError, match=r"failed: error: 'none' was not declared in this scope$"):
        compiler.build(sources, tmp_path / "lib/neither.so")
    assert [path.name for path in (tmp_path / "lib").iterdir()] == ["both.so"]


def test_what_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    card = losskit.explain("huber_loss")
    with pytest.raises(ModuleNotFoundError, match=r"^the text of a loss's card needs rich: pip install rich$"):
        str(card)
    with pytest.raises(ModuleNotFoundError, match=r"^losskit\.plot needs matplotlib: pip install matplotlib$"):
        losskit.plot("huber_loss")
    assert "HuberLoss" in repr(card)
