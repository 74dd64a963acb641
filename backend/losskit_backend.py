"""How losskit is built: setuptools' backend, which asks for torch only where there is none.

1. pip builds in an environment of its own and puts there what the build requires. torch among it would be another
   download, of up to gigabytes, beside the torch that is installed already.
2. The build needs torch's headers and the names in its libraries, never torch in Python. So it looks for the files, in
   the folders of the interpreter that runs it: for pip that is the interpreter which it installs for.
3. Any torch from 2.10 on will do, since the stable ABI is all that is used: the library that is built is the same.
4. What is missing is said before anything is built, in one sentence: pip shows it without a traceback.
"""

import importlib.util
import os
import re
import site
import sys
from pathlib import Path

from setuptools.build_meta import (
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = (2, 10)
WITHOUT = "LOSSKIT_NO_KERNELS"


def get_requires_for_build_wheel(config_settings=None):
    if not kernels_wanted():
        return []
    require_compiler()
    return [] if torch_folder() else ["torch>={}.{}".format(*OLDEST_TORCH)]


get_requires_for_build_editable = get_requires_for_build_wheel


def kernels_wanted() -> bool:
    """Whether the fused kernels are built; without them losskit is pure Python and runs its formulas eagerly."""
    return os.environ.get(WITHOUT, "") in ("", "0")


def load_compiler():
    """What compiles users' kernels at run time, loaded by path: the package itself imports torch."""
    spec = importlib.util.spec_from_file_location("compiler", ROOT / "src/losskit/kernels/compiler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def require_compiler() -> None:
    if load_compiler().compiler() is None:
        give_up("no C++ compiler was found to build its kernels. Install g++ or clang++")


def give_up(reason: str):
    raise SystemExit(
        f"losskit: {reason}, or set {WITHOUT}=1 to go without kernels: every loss then runs as eager torch."
    )


def torch_folder() -> Path | None:
    """The folder of an installed torch that is new enough; None if there is none.

    Python's own list of folders, and not sys.path alone: pip takes them from the path of an isolated build.
    """
    folders = [*sys.path, *site.getsitepackages(), site.getusersitepackages()]
    return next((torch for folder in folders if usable(torch := Path(folder) / "torch")), None)


def usable(torch: Path) -> bool:
    found = re.match(r"(\d+)\.(\d+)", torch_version(torch))
    new_enough = found is not None and tuple(map(int, found.groups())) >= OLDEST_TORCH
    return new_enough and (torch / "include/torch/csrc/stable").is_dir() and (torch / "lib").is_dir()


def torch_version(torch: Path) -> str:
    """The version of the torch in a folder, "" where there is none."""
    try:
        text = (torch / "version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"^__version__ = '(.+)'", text, re.M)
    return found[1] if found else ""
