"""What is loaded from the cache of compiled kernels: what is whole and the user's own."""

import os
import socket
import stat
import time

import pytest

from losskit.kernels import cache

from .conftest import NOBODY, as_root, assert_one_sentence, kernel_of, look_again, mode


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
