"""Build of the fused kernels; everything else about the package is in pyproject.toml.

The C++ uses libtorch's stable ABI, so one library serves every Python and every torch from 2.10 on, and the wheel is
tagged py3-none. It is compiled by the same code that compiles users' kernels at run time.
"""

import importlib.util
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
HEADERS = ("kernel.h", "primitives.h")  # what users' kernels are compiled against


def load_compiler():
    spec = importlib.util.spec_from_file_location("compiler", ROOT / "src/losskit/kernels/compiler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildWithKernels(build_py):
    """Python files, then lib/liblosskit.so and the headers beside them."""

    def run(self):
        super().run()
        package = ROOT / "src/losskit" if self.editable_mode else Path(self.build_lib) / "losskit"
        build_kernels(package / "lib")


def build_kernels(folder: Path):
    import torch

    torch_root = Path(torch.__file__).resolve().parent
    sources = [*sorted((ROOT / "csrc").glob("*.cpp")), *sorted((ROOT / "csrc/generated").glob("*.cpp"))]
    load_compiler().build(
        sources,
        folder / "liblosskit.so",
        include=[ROOT / "csrc"],
        system_include=[torch_root / "include", torch_root / "include/torch/csrc/api/include"],
        library_dirs=[torch_root / "lib"],
        libraries=["torch_cpu"],
        define=["TORCH_TARGET_VERSION=0x020a000000000000"],
    )
    for header in HEADERS:
        shutil.copy(ROOT / "csrc" / header, folder / header)


class PlatformWheel(bdist_wheel):
    """py3-none-<platform>: no Python ABI is used, but there is machine code."""

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


class WithMachineCode(Distribution):
    def has_ext_modules(self):
        return True


setup(cmdclass={"build_py": BuildWithKernels, "bdist_wheel": PlatformWheel}, distclass=WithMachineCode)
