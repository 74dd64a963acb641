"""Where fused kernels come from: the package's own library, the user's cache, or the compiler.

A kernel is looked up by a symbol that carries a hash of its source. One that is in no library, of a user's loss or of
a rare setting of a built-in one's switches, is compiled once (about a second) and kept in the cache directory
($XDG_CACHE_HOME/losskit or ~/.cache/losskit; what is trusted there is decided by `cache`). It has the bits that it
would have in the package's library: the same source and flags, for the one of the library's instruction sets that
this processor would choose. Whatever goes wrong costs speed and never the loss: the eager formula runs, and one
warning for each loss says why.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import threading
import time
import warnings
from functools import cache as once
from pathlib import Path
from typing import Any
from weakref import WeakSet

import torch

from losskit.kernels import cache, codegen, compiler, wire_header
from losskit.spaces import tell
from losskit.traced import Formula

FOLDER = Path(__file__).resolve().parent.parent / "lib"
LIBRARY = FOLDER / "liblosskit.so"
_UNBUILT = "the package was installed without its compiled library"
# kernel.h would compile for all of its instruction sets, which takes twice as long.
_ONE_SET = """\
#if defined(__x86_64__) && __GNUC__ >= 12 && !defined(__clang__) && !defined(LOSSKIT_CLONES)
#define LOSSKIT_CLONES __attribute__((target("arch={}")))
#endif
"""
_compiled: dict[str, int] = {}  # addresses of kernels that were compiled at run time, by symbol
_turns: dict[str, threading.Lock] = {}  # a lock for each symbol: threads that need the same kernel compile it once
_told: WeakSet[Any] = WeakSet()
_notice: str | None = None  # a warning about the folder of kernels; "" once it was given

if hasattr(os, "register_at_fork"):  # a thread that holds a lock does not exist in the child
    os.register_at_fork(after_in_child=_turns.clear)


@once
def _own() -> ctypes.CDLL | None:
    """The package's library, its op registered; None if it cannot be loaded."""
    if not LIBRARY.exists():
        return None
    try:
        torch.ops.load_library(str(LIBRARY))
        own = ctypes.CDLL(str(LIBRARY))
        if not _address(own, wire_header.SYMBOL):
            raise OSError("they were built from another version of losskit; install losskit again")
        return own
    except OSError as problem:
        warnings.warn(f"losskit: the fused kernels cannot be loaded, eager formulas run: {problem}", stacklevel=2)
        return None


def address(formula: Formula | None) -> int:
    """The address of a formula's block functions; 0 if there are none, or the family's kernel takes no formula."""
    if formula is None:
        return 0
    return find(formula) if formula.kernel is None else formula.kernel


def direct(op: str) -> int:
    """The address of the function behind an op of the package's library, which is loaded."""
    return ctypes.cast(getattr(_own(), f"losskit_direct_{op}"), ctypes.c_void_p).value or 0


def call_layout() -> int:
    """How the calls of `direct` lie in memory, as a number; the library is loaded."""
    own = _own()
    place = _address(own, "losskit_call_layout") if own else 0  # a library that is older has no such number
    return ctypes.c_uint64.from_address(place).value if place else 0


def available(formula: Formula | None) -> bool:
    """Whether the kernel can run; found or compiled when first asked for."""
    return loaded() if formula is None else bool(address(formula))


def find(formula: Formula) -> int:
    """The address of a formula's kernel, whatever its parameters are; 0 if there is none. Looked for once."""
    if formula.kernel is None:
        _find(formula)
    return formula.kernel or 0


def compiled_here(formula: Formula | None) -> bool:
    """Whether a formula's kernel, which has been looked for, is not the package's."""
    return formula is not None and formula.kernel in _compiled.values()


def loaded() -> bool:
    """Whether the package's own ops are there."""
    return _own() is not None


def why_missing(formula: Formula | None) -> str:
    """The reason why there is no kernel."""
    return (formula.why_no_kernel or "no kernel was asked for") if formula and loaded() else _UNBUILT


def _find(formula: Formula) -> None:
    own = _own()
    if own is None:
        formula.kernel = 0
        return
    limit = compiler.time_limit()
    deadline = time.monotonic() + limit
    symbol, source = codegen.cpp(formula)
    turn = _turns.setdefault(symbol, threading.Lock())
    if not turn.acquire(timeout=limit):
        if formula.kernel is None:
            _settle(formula, 0, "another thread has been compiling it for too long")
    else:
        try:
            if formula.kernel is not None:  # another thread was first
                return
            _settle(formula, *_sought(own, symbol, source, deadline))
        finally:
            turn.release()
    _tell(formula)


def _settle(formula: Formula, address: int, reason: str) -> None:
    formula.why_no_kernel = f"its kernel could not be compiled: {reason}" if reason else ""
    formula.kernel = address


def _sought(own: ctypes.CDLL, symbol: str, source: str, deadline: float) -> tuple[int, str]:
    """The address of a kernel, from wherever it can be had; else 0 and the reason."""
    try:
        address = _address(own, symbol) or _compiled.get(symbol, 0)
        if not address:
            address = _compiled[symbol] = _from_cache(symbol, source, deadline)
        return address, ""
    except Exception as problem:
        # Compilers, disks and caches fail in more ways than can be listed, and the eager formula needs none of them.
        reason = str(problem).encode(errors="backslashreplace").decode()  # file names may hold any bytes
        return 0, " ".join(reason.split()) or type(problem).__name__


def _address(library: ctypes.CDLL, symbol: str) -> int:
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(library, symbol))
    except ValueError:
        return 0


def _from_cache(symbol: str, source: str, deadline: float) -> int:
    global _notice
    folder, temporary = cache.folder()
    if temporary and _notice is None:
        _notice = (
            f"losskit: compiled kernels are kept for this process only, because {temporary}. Set XDG_CACHE_HOME to a "
            f"folder that only you can write."
        )
    path = folder / f"{symbol}-{_fingerprint()}.so"
    address = _kept(path, symbol)
    if address:
        return address
    with cache.turn(path, deadline):
        address = _kept(path, symbol)  # another process may have been first
        if not address:
            cache.tidy(folder)
            _compile(source, path, deadline)
            if not cache.intact(path):
                raise compiler.CompileError(f"{path} is not what was written")
            address = _load(path, symbol)
    return address


def _kept(path: Path, symbol: str) -> int:
    """The address of a kernel in the cache; 0 where it is missing or damaged."""
    try:
        return _load(path, symbol) if cache.intact(path) else 0
    except (OSError, ValueError):
        return 0


def _load(path: Path, symbol: str) -> int:
    """The address of a kernel in a library; OSError or ValueError, the latter also for a message that is no UTF-8."""
    return ctypes.addressof(ctypes.c_char.in_dll(ctypes.CDLL(str(path)), symbol))


def _compile(source: str, path: Path, deadline: float) -> None:
    with cache.workplace(path) as work:
        file, built = work / "kernel.cpp", work / "kernel.so"
        known = compiler.instruction_set()
        head = _ONE_SET.format(known) if known else ""
        file.write_text(
            f'{head}#include "kernel.h"\n#include "{codegen.header([source])}"\n\n{source}', encoding="utf-8"
        )
        compiler.build([file], built, include=[FOLDER], deadline=deadline)
        cache.keep(cache.content(built), path, work)


def _fingerprint() -> str:
    """A hash of headers, compiler and processor: none of them must get a kernel that was made for another.

    A home folder may be shared by machines whose processors know different instructions.
    """
    parts = [str(compiler.compiler()), *compiler.FLAGS, platform.machine(), compiler.instruction_set()]
    for header in sorted(FOLDER.glob("*.h")):
        parts += [header.name, hashlib.sha256(header.read_bytes()).hexdigest()]
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:12]


def _tell(formula: Formula) -> None:
    """Warn the user. Call it outside of all locks: a warning may raise."""
    global _notice
    if _notice:
        notice, _notice = _notice, ""
        tell([UserWarning(notice)])
    if formula.why_no_kernel and formula.loss not in _told:
        _told.add(formula.loss)
        reason = formula.why_no_kernel.partition(": ")[2]
        instead = f"losskit: eager formula instead of a fused kernel for {formula.loss.name}"
        tell([UserWarning(f"{instead}: {reason}")])
