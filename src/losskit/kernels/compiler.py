"""Compiling C++ with the system's compiler: the package's own library, and users' kernels at run time.

Nothing here imports torch or losskit, because the build of the package (setup.py) loads this file by path.

1. A compiler is a stranger's program: it may be missing, hang, be killed, and print any bytes. Whatever it does ends in
   `CompileError` with one sentence.
2. A time limit kills the compiler and what it started: `g++` is a driver, the work is done by its children. So it
   runs in a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache as once
from functools import partial
from pathlib import Path

# -fno-math-errno and -fno-trapping-math let loops vectorise and change no result. Never -ffast-math.
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
TIME_LIMIT, _SECONDS = "LOSSKIT_COMPILE_TIMEOUT", 120.0
# What Linux calls the instructions that x86-64-v3 has beyond its predecessors, and x86-64-v4 beyond v3.
_V3 = frozenset("avx avx2 bmi1 bmi2 f16c fma abm movbe xsave".split())
_V4 = frozenset("avx512f avx512bw avx512cd avx512dq avx512vl".split())
_KEPT = 1 << 16  # bytes of a compiler's output that are kept: the last ones


class CompileError(RuntimeError):
    """There is no compiled library; the message is one sentence that says why."""


def compiler() -> str | None:
    """The C++ compiler: $CXX, else g++, else clang++ or c++; None if there is none."""
    wanted = os.environ.get("CXX", "").strip()
    return wanted if wanted else next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)


@once
def instruction_set() -> str:
    """The best of those that GCC's clones in kernel.h are compiled for and this processor has; "" if it is unknown."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:
        return ""
    if platform.machine() != "x86_64" or not flags:
        return ""
    v4 = _V3 | _V4
    return "x86-64-v4" if v4.issubset(flags) else "x86-64-v3" if _V3.issubset(flags) else "x86-64"


def time_limit() -> float:
    """Seconds that a user's kernel may take to compile, or another process or thread to hand it over."""
    try:
        seconds = float(os.environ.get(TIME_LIMIT, ""))
    except ValueError:
        return _SECONDS
    return min(seconds, threading.TIMEOUT_MAX) if seconds > 0 else _SECONDS


def build(
    sources: Sequence[Path],
    output: Path,
    *,
    include: Sequence[Path] = (),
    system_include: Sequence[Path] = (),
    libraries: Sequence[str] = (),
    library_dirs: Sequence[Path] = (),
    define: Sequence[str] = (),
    options: Sequence[str] = (),
    deadline: float = float("inf"),
) -> None:
    """Compile and link `sources` to the shared library `output`, which appears only when complete.

    options: further words for every call of the compiler, also the one that links.
    deadline: when the compiler is killed, by `time.monotonic()`.
    """
    words = [*_command(), *options]
    flags = [*FLAGS, *(f"-D{d}" for d in define), *(f"-I{d}" for d in include)]
    flags += [part for d in system_include for part in ("-isystem", str(d))]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        objects = [Path(folder) / f"{i}-{source.stem}.o" for i, source in enumerate(sources)]
        commands = [[*words, *flags, "-c", str(s), "-o", str(o)] for s, o in zip(sources, objects, strict=True)]
        call = partial(_call, folder=folder, deadline=deadline)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            # A single file is compiled in this thread, so that Ctrl-C ends it.
            list((map if len(commands) == 1 else pool.map)(call, commands))
        linked = Path(folder) / output.name
        libs = [*(f"-L{d}" for d in library_dirs), *(f"-l{name}" for name in libraries)]
        shared = ["-dynamiclib", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
        call([*words, *shared, *map(str, objects), "-o", str(linked), *libs])
        if not linked.is_file():
            raise CompileError(f"the C++ compiler {words[0]} wrote no library")
        os.replace(linked, output)  # atomic: a process that loads it meanwhile sees the old file or the new one


def _command() -> list[str]:
    """The compiler as a list of words: $CXX may have arguments, as in "ccache g++"."""
    cxx = compiler()
    if cxx is None:
        raise CompileError("no C++ compiler was found (g++, clang++ or $CXX)")
    try:
        words = shlex.split(cxx)
    except ValueError as problem:
        raise CompileError(f"CXX is not a command: {cxx!r} ({str(problem).lower()})") from None
    if not words or not words[0]:
        raise CompileError(f"CXX is not a command: {cxx!r}")
    return words


def _call(command: list[str], folder: str, deadline: float) -> None:
    # Messages in English; temporary files in a folder that is removed even if the compiler is killed.
    environment = {**os.environ, "LC_ALL": "C", "TMPDIR": folder}
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise CompileError(f"the C++ compiler {command[0]} cannot be run: {reason}") from None
    try:
        said = _said(process, deadline)
        status = process.poll()
    finally:
        if process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)
        assert process.stdout is not None
        process.stdout.close()
    if status is None:
        limit = f"{TIME_LIMIT} allows {time_limit():g} seconds"
        raise CompileError(f"the C++ compiler {command[0]} took too long and was stopped; {limit}")
    if status != 0:
        raise CompileError(f"the C++ compiler {command[0]} {_complaint(status, said.decode(errors='replace'))}")


def _said(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """The end of what a process prints until it exits or its time is over.

    Its children may outlive it and keep the pipe open, so the end of the pipe is not waited for.
    """
    assert process.stdout is not None
    pipe, said = process.stdout.fileno(), b""
    with selectors.DefaultSelector() as ready:
        ready.register(pipe, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            over = process.poll() is not None
            if ready.select(0 if over else min(left, 0.2)):
                piece = os.read(pipe, _KEPT)
                said = (said + piece)[-_KEPT:]
                if not piece:  # closed: the process has ended, or has nothing more to say
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(None if left == float("inf") else left)
                    break
            if over:  # one piece holds all that a pipe can
                break
    return said


def _complaint(status: int, said: str) -> str:
    """Why a compiler failed, in its own words."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line]
    # The last error of a failed link says only that the linker failed; the linker's own line stands before it.
    if errors and re.match(r"collect2: |.*linker command failed", errors[-1]):
        errors = lines[: lines.index(errors[-1])][-1:] or errors
    line = (errors or lines or [""])[-1].strip()
    line = re.sub(r"^\S*?:\d+(:\d+)?: ", "", line)  # the place in a temporary file
    line = "".join(c if c.isprintable() else "?" for c in line)[:300]
    if status < 0:
        killed = f"was killed by signal {-status}"
        return f"{killed}: {line}" if line else killed
    if any("c++20" in line for line in errors):
        return f"is too old: losskit needs C++20 (GCC 10, Clang 10 or newer): {line}"
    return f"failed: {line}" if line else f"failed with status {status} and said nothing"
