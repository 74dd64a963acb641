"""Where fused kernels come from: the package's own library, the user's cache, or the compiler.

A kernel is looked up by a symbol that carries a hash of its source. One that is in no library is compiled once
(about two seconds) and kept in the cache directory ($XDG_CACHE_HOME/losskit or ~/.cache/losskit). Where that
is impossible the eager formula runs and one warning says why.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from losskit.kernels import codegen, compiler

if TYPE_CHECKING:
    from losskit.families.base import Formula

FOLDER = Path(__file__).resolve().parent.parent / "lib"
LIBRARY = FOLDER / "liblosskit.so"
_missing: dict[Formula, str] = {}  # why there is no kernel
_told = False
_UNBUILT = "the package was installed without its compiled library"


@cache
def _own() -> ctypes.CDLL | None:
    """The package's library, its op registered; None if it cannot be loaded."""
    if not LIBRARY.exists():
        return None
    try:
        torch.ops.load_library(str(LIBRARY))
        return ctypes.CDLL(str(LIBRARY))
    except OSError as problem:
        warnings.warn(f"losskit: the fused kernels cannot be loaded, eager formulas run: {problem}", stacklevel=2)
        return None


@cache
def find(formula: Formula) -> int:
    """The address of a formula's kernel, whatever its parameters are; 0 if there is none."""
    own = _own()
    if own is None:
        _missing[formula] = _UNBUILT
        return 0
    symbol, source = codegen.cpp(formula)
    return _address(own, symbol) or _compiled(formula, symbol, source)


def loaded() -> bool:
    """Whether the package's own ops are there."""
    return _own() is not None


def why_missing(formula: Formula | None) -> str:
    """The reason why there is no kernel."""
    return _missing.get(formula, "no kernel was asked for") if formula and loaded() else _UNBUILT


def _address(library: ctypes.CDLL, symbol: str) -> int:
    try:
        return ctypes.addressof(ctypes.c_char.in_dll(library, symbol))
    except ValueError:
        return 0


def cache_folder() -> Path:
    """Where compiled kernels of users' losses are kept."""
    base = os.environ.get("XDG_CACHE_HOME")
    return Path(base) / "losskit" if base else Path.home() / ".cache" / "losskit"


def _compiled(formula: Formula, symbol: str, source: str) -> int:
    try:
        path = cache_folder() / f"{symbol}-{_fingerprint()}.so"
        address = _load(path, symbol) if path.exists() else 0
        if not address:  # new, or damaged
            _compile(source, path)
            address = _load(path, symbol)
        if address:
            return address
        reason = f"{path} has no kernel {symbol}"
    except (compiler.CompileError, OSError, RuntimeError) as problem:
        reason = str(problem)
    _missing[formula] = f"its kernel could not be compiled: {reason}"
    _tell(symbol, reason)
    return 0


def _load(path: Path, symbol: str) -> int:
    try:
        return _address(ctypes.CDLL(str(path)), symbol)
    except OSError:
        return 0


def _compile(source: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        file = Path(folder) / "kernel.cpp"
        file.write_text('#include "kernel.h"\n#include "primitives.h"\n\n' + source)
        compiler.build([file], path, include=[FOLDER])


@cache
def _fingerprint() -> str:
    """Changes with the headers and the compiler, so that an old kernel is not used with new ones."""
    import hashlib
    import platform

    text = f"{compiler.compiler()}{compiler.FLAGS}{platform.machine()}"
    for header in sorted(FOLDER.glob("*.h")):
        text += header.read_text()
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _tell(symbol: str, reason: str) -> None:
    global _told
    if not _told:
        _told = True
        first_line = reason.strip().splitlines()[0]
        warnings.warn(f"losskit: eager formula instead of a fused kernel for {symbol}: {first_line}", stacklevel=4)
