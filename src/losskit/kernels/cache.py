"""The folder of compiled kernels: which files are trusted, how they are written, and when they are removed.

A kernel is machine code that is loaded into the user's process, so:

1. Nobody else's code is loaded. The folder and every folder above it belong to the user or to root, and nobody else can
   write them or put others in their place; the file is a regular one, belongs to the user or to root, and nobody else
   can write it. Then what was checked is what is loaded: only the user and root could change it in between.
2. A damaged kernel is noticed before it is loaded: code that lies beyond the end of a file kills the process that
   runs it. Length and hash stand behind the machine code, where loaders do not look.
3. A kernel is written elsewhere, forced to the disk and renamed, so that a file is whole or is not there.
4. The folder must not grow for ever: leftovers of killed compilations, and kernels that no process has loaded for a
   month, are removed when the next kernel is compiled.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import hashlib
import os
import shutil
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

from losskit.kernels.compiler import CompileError

_MAGIC = b"losskit1"
_LENGTH = len(_MAGIC) + 8 + hashlib.sha256().digest_size  # of the trailer behind the machine code
_HOUR, _DAY = 3600.0, 86400.0
_LEFT_OVER, _UNUSED = _HOUR, 30 * _DAY
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_WORK, _LOCK = "build-", ".lock"
_private: tuple[int, Path] | None = None  # a process, and its private folder


class UntrustedError(Exception):
    """Somebody else could change a kernel before it is loaded; the message says where, and what to do."""


# ---------------------------------------------------------------------------------------------------------
# The folder


def wanted() -> Path | None:
    """$XDG_CACHE_HOME/losskit, else ~/.cache/losskit; None without a home. Relative paths are none, as XDG says."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base) / "losskit"
    home = os.path.expanduser("~")
    return Path(home) / ".cache" / "losskit" if os.environ.get("HOME") != "" and os.path.isabs(home) else None


def trusted(folder: Path, make: bool = False) -> Path:
    """The true path of a folder that nobody else can change or replace; missing folders are made, if wished.

    Links above the folder are followed by hand, because whoever can replace one chooses the folder.
    """
    here, rest, links = Path("/"), list(folder.parts[1:]), 0
    owners = {0, os.geteuid(), here.stat().st_uid}  # whoever owns / owns the machine, also where it is not root
    while rest:
        name = rest.pop(0)
        if name == "..":
            here = here.parent
            continue
        here /= name
        try:
            found = here.lstat()
        except FileNotFoundError:
            if not make:
                raise
            with contextlib.suppress(FileExistsError):  # another process was first
                here.mkdir(0o700)
                here.chmod(0o700)
            found = here.lstat()
        last = not rest
        if found.st_uid not in ({0, os.geteuid()} if last else owners):
            raise UntrustedError(f"{here} belongs to another user (number {found.st_uid})")
        if stat.S_ISLNK(found.st_mode):
            if last:
                raise UntrustedError(f"{here} is a symbolic link")
            links += 1
            if links > 40:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(here))
            target = os.readlink(here)
            here = Path("/") if os.path.isabs(target) else here.parent
            rest = [part for part in Path(target).parts if part != "/"] + rest
        elif not stat.S_ISDIR(found.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(here))
        elif found.st_mode & _OTHERS and (last or not found.st_mode & stat.S_ISVTX):
            raise UntrustedError(f"others can write {here} (mode {stat.S_IMODE(found.st_mode):o}; chmod go-w {here})")
    return here


def folder() -> tuple[Path, str]:
    """Where kernels are kept, made if need be; and, where that is a folder of this process only, the reason."""
    lasting = wanted()
    if lasting is None:
        return private(), "there is no home folder (HOME, or XDG_CACHE_HOME with an absolute path)"
    try:
        return trusted(lasting, make=True), ""
    except UntrustedError as problem:
        return private(), f"{lasting} is not safe to load code from: {problem}"
    except OSError as problem:
        reason = f"{lasting} cannot be made: {problem.strerror}; set XDG_CACHE_HOME to a folder that you can write"
        raise CompileError(reason) from None


def private() -> Path:
    """A folder that lives as long as this process."""
    global _private
    if _private is None or _private[0] != os.getpid() or not _private[1].is_dir():
        made = Path(tempfile.mkdtemp(prefix="losskit-"))
        _private = os.getpid(), made
        atexit.register(_leave, *_private)
    try:
        return trusted(_private[1])
    except UntrustedError as problem:
        raise CompileError(f"there is no safe folder for it: {problem}; set TMPDIR to a folder of your own") from None


def _leave(process: int, made: Path) -> None:
    if process == os.getpid():  # a forked child must not take its parent's
        shutil.rmtree(made, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------------
# A kernel in it


def content(path: Path) -> bytes:
    """What a regular file holds; OSError for anything else, without waiting for it."""
    with _opened(path) as file:
        return file.read()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    # O_NONBLOCK: opening a fifo would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def intact(path: Path) -> bool:
    """Whether a kernel is there that may be loaded: nobody else could have written it, and it is whole."""
    try:
        with _opened(path) as file:
            found = os.fstat(file.fileno())
            length = found.st_size - _LENGTH
            if found.st_uid not in (0, os.geteuid()) or found.st_mode & _OTHERS or length <= 0:
                return False
            file.seek(length)
            mark = file.read(_LENGTH)
            if mark[: len(_MAGIC)] != _MAGIC or int.from_bytes(mark[8:16], "little") != length:
                return False
            file.seek(0)
            if hashlib.sha256(file.read(length)).digest() != mark[16:]:
                return False
            if time.time() - found.st_mtime > _DAY:  # marks the kernel as in use; once a day is enough
                with contextlib.suppress(OSError):
                    os.utime(file.fileno())
            return True
    except OSError:
        return False


def keep(library: bytes, path: Path, work: Path) -> None:
    """Put a library in its place, by way of a folder beside it."""
    if not _whole(library):
        raise CompileError("the compiler wrote something that is no complete shared library")
    mark = _MAGIC + len(library).to_bytes(8, "little") + hashlib.sha256(library).digest()
    descriptor = os.open(work / "kept", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)  # whatever the umask is
        file.write(library + mark)
        file.flush()
        os.fsync(descriptor)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    os.replace(work / "kept", path)
    with contextlib.suppress(OSError):  # some file systems cannot
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _whole(library: bytes) -> bool:
    """Whether every segment of an ELF library lies inside of it; a loader maps them unseen."""
    if sys.platform == "darwin":
        return len(library) > 0
    if len(library) < 64 or library[:4] != b"\x7fELF" or library[4] not in (1, 2) or library[5] not in (1, 2):
        return False
    order, wide = "<>"[library[5] - 1], library[4] == 2
    start = struct.unpack_from(order + "Q", library, 32)[0] if wide else struct.unpack_from(order + "I", library, 28)[0]
    size, count = struct.unpack_from(order + "HH", library, 54 if wide else 42)
    if count == 0 or size < (56 if wide else 32) or start + size * count > len(library):
        return False
    for at in range(start, start + size * count, size):
        if wide:
            offset, length = (struct.unpack_from(order + "Q", library, at + i)[0] for i in (8, 32))
        else:
            offset, length = (struct.unpack_from(order + "I", library, at + i)[0] for i in (4, 16))
        if offset + length > len(library):
            return False
    return True


@contextlib.contextmanager
def workplace(path: Path) -> Iterator[Path]:
    """A folder to compile a kernel in, on the same file system; gone afterwards."""
    with tempfile.TemporaryDirectory(
        dir=path.parent, prefix=f"{_WORK}{path.stem}-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@contextlib.contextmanager
def turn(path: Path, deadline: float) -> Iterator[None]:
    """A lock on a kernel for one process at a time; it is released when its holder ends, however that happens.

    A file system without locks lets all of them in: then a kernel is compiled twice, and the last one stays.
    """
    place = path.with_suffix(_LOCK)
    while True:
        held = _lock(place)
        if held is not None:
            break
        if time.monotonic() > deadline:
            raise CompileError("another process has been compiling it for too long")
        time.sleep(0.02)
    try:
        yield
    finally:
        _unlock(place, held)


def _lock(place: Path) -> int | None:
    """A locked file (-1 where there are no locks), None if somebody else has it."""
    import fcntl  # not on Windows, where losskit has no kernels

    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(place, flags, 0o600)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), place.lstat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # held, or gone with its last holder
        pass
    except OSError:
        os.close(descriptor)
        return -1
    os.close(descriptor)
    return None


def _unlock(place: Path, descriptor: int) -> None:
    if descriptor >= 0:
        with contextlib.suppress(OSError):
            place.unlink()
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------------------
# Removal


def tidy(folder: Path) -> None:
    """Remove leftovers of killed compilations, and kernels that nobody has loaded for a month."""
    now = time.time()
    for entry in _entries(folder):
        limit = _UNUSED if entry.name.endswith(".so") else _LEFT_OVER
        with contextlib.suppress(OSError):
            if now - entry.stat(follow_symlinks=False).st_mtime > limit:
                _remove(entry)


def clear(folder: Path) -> tuple[list[str], int]:
    """Remove everything of losskit's that is not being compiled; the names, and how many bytes they had."""
    entries = list(_entries(folder))
    busy = [entry.name.removesuffix(_LOCK) for entry in entries if entry.name.endswith(_LOCK) and _is_held(entry)]
    removed, size = [], 0
    for entry in entries:
        if any(entry.name.startswith((name + _LOCK, f"{_WORK}{name}-")) for name in busy):
            continue
        with contextlib.suppress(OSError):
            bytes_ = _size(entry)
            _remove(entry)
            removed.append(entry.name)
            size += bytes_
    return sorted(removed), size


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What losskit has put into a folder."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            kernel = entry.name.startswith("losskit_") and entry.name.endswith((".so", _LOCK))
            # Early versions called their folders tmp...
            if kernel or (entry.name.startswith((_WORK, "tmp")) and entry.is_dir(follow_symlinks=False)):
                yield entry


def _size(entry: os.DirEntry[str]) -> int:
    if not entry.is_dir(follow_symlinks=False):
        return entry.stat(follow_symlinks=False).st_size
    return sum(file.lstat().st_size for file in Path(entry.path).rglob("*"))


def _is_held(entry: os.DirEntry[str]) -> bool:
    held = _lock(Path(entry.path))
    if held is None:
        return True
    if held >= 0:
        os.close(held)
    return False


def _remove(entry: os.DirEntry[str]) -> None:
    if entry.is_dir(follow_symlinks=False):
        shutil.rmtree(entry.path)
    elif not (entry.name.endswith(_LOCK) and _is_held(entry)):
        os.unlink(entry.path)
