"""Compiling C++ with the system's compiler: the package's own library, and users' kernels at run time.

Nothing here imports torch or losskit, because the build of the package (setup.py) loads this file by path.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# -fno-math-errno and -fno-trapping-math let loops vectorise and change no result. Never -ffast-math.
FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]


class CompileError(RuntimeError):
    """The compiler is missing or refused; the message is its own."""


def compiler() -> str | None:
    """The C++ compiler: $CXX, else g++, else clang++ or c++; None if there is none."""
    wanted = os.environ.get("CXX")
    return wanted if wanted else next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)


def build(
    sources: Sequence[Path],
    output: Path,
    *,
    include: Sequence[Path] = (),
    system_include: Sequence[Path] = (),
    libraries: Sequence[str] = (),
    library_dirs: Sequence[Path] = (),
    define: Sequence[str] = (),
) -> None:
    """Compile and link `sources` to the shared library `output`, which appears only when complete."""
    cxx = compiler()
    if cxx is None:
        raise CompileError("no C++ compiler was found (g++, clang++ or $CXX)")
    flags = [*FLAGS, *(f"-D{d}" for d in define), *(f"-I{d}" for d in include)]
    flags += [part for d in system_include for part in ("-isystem", str(d))]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        objects = [Path(folder) / f"{i}-{source.stem}.o" for i, source in enumerate(sources)]
        commands = [
            [*shlex.split(cxx), *flags, "-c", str(s), "-o", str(o)] for s, o in zip(sources, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(_call, commands))
        linked = Path(folder) / output.name
        libs = [*(f"-L{d}" for d in library_dirs), *(f"-l{name}" for name in libraries)]
        shared = ["-dynamiclib", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
        _call([*shlex.split(cxx), *shared, *map(str, objects), "-o", str(linked), *libs])
        os.replace(linked, output)  # atomic: a process that loads it meanwhile sees the old file or the new one


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as problem:
        raise CompileError(f"{command[0]}: {problem}") from None
    if done.returncode != 0:
        raise CompileError(f"{shlex.join(command)}\n{done.stderr}")
