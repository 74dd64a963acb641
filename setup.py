"""Build of the fused kernels; everything else about the package is in pyproject.toml.

The C++ uses libtorch's stable ABI, so one library serves every Python and every torch from 2.10 on, and the wheel is
tagged py3-none. It is compiled by the same code that compiles users' kernels at run time. What the build requires, and
how it finds torch, is in backend/losskit_backend.py.

The autograd node of binding/ is for this Python and this torch alone. Every other one, and one for which it cannot be
built (there are no headers of Python), has the node in Python.
"""

import shutil
import sys
import sysconfig
from pathlib import Path

from losskit_backend import ROOT, give_up, kernels_wanted, load_compiler, require_compiler, torch_folder, torch_version
from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HEADERS = ("kernel.h", "primitives.h", "special.h", "each.h")  # what users' kernels are compiled against


class BuildWithKernels(build_py):
    """lib/liblosskit.so and the headers beside it, then the Python files."""

    def run(self):
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)  # a wheel has nothing of an earlier build
        package = ROOT / "src/losskit" if self.editable_mode else Path(self.build_lib) / "losskit"
        if kernels_wanted():
            build_kernels(package / "lib")
        super().run()


def build_kernels(folder: Path):
    require_compiler()
    torch = torch_folder()
    if torch is None:
        raise SystemExit("losskit: building it without isolation needs torch 2.10 or newer: pip install torch")
    torch = torch.resolve()  # as GCC does with headers
    compiler = load_compiler()
    library = folder / "liblosskit.so"
    sources = [*sorted((ROOT / "csrc").glob("*.cpp")), *sorted((ROOT / "csrc/generated").glob("*.cpp"))]
    if not fresh(library):
        try:
            compiler.build(
                sources, library, libraries=["torch_cpu"], define=["TORCH_TARGET_VERSION=0x020a000000000000"],
                **common(torch),
            )  # fmt: skip
        except compiler.CompileError as problem:
            give_up(f"its kernels cannot be built: {problem}. Name another C++ compiler in CXX")
        for header in HEADERS:
            shutil.copy(ROOT / "csrc" / header, folder / header)
    node = folder / f"node-{torch_version(torch)}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not fresh(node):
        try:
            compiler.build(
                [ROOT / "binding/node.cpp"], node, libraries=["torch_python", "torch_cpu", "c10"],
                **common(torch, sysconfig.get_path("include")),
            )  # fmt: skip
        except compiler.CompileError as problem:
            print(f"losskit: small calls will take longer, since the autograd node cannot be built: {problem}")


def common(torch: Path, *headers: str):
    """What both libraries are compiled with."""
    # Messages name files relative to these folders: a wheel holds no path of the machine that built it.
    options = [f"-ffile-prefix-map={ROOT}/=", f"-ffile-prefix-map={torch}/include/="]
    if sys.platform == "linux":
        options += ["-include", str(ROOT / "csrc/portable.h"), "-s"]
    return {
        "include": [ROOT / "csrc"],
        "system_include": [torch / "include", torch / "include/torch/csrc/api/include", *headers],
        "library_dirs": [torch / "lib"],
        "options": options,
    }


def fresh(library: Path) -> bool:
    """Whether an earlier editable install has built this library from the sources as they are."""
    sources = [ROOT / "setup.py", *(ROOT / "backend").glob("*.py"), *(ROOT / "csrc").rglob("*.*")]
    sources += (ROOT / "binding").glob("*")
    sources.append(ROOT / "src/losskit/kernels/compiler.py")
    return library.exists() and max(path.stat().st_mtime for path in sources) < library.stat().st_mtime


class PlatformWheel(bdist_wheel):
    """py3-none-<platform>: no Python ABI is used, but there is machine code."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class WithMachineCode(Distribution):
    def has_ext_modules(self):
        return kernels_wanted()


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel}, distclass=WithMachineCode)
