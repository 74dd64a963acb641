"""Every loop over a block is vector code: a formula that GCC leaves scalar is ten times slower, silently."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tiers import rest

import losskit
from losskit.families.base import Family
from losskit.kernels import codegen, compiler

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="the report is GCC's")


def units():
    """What is compiled with the package, and of each loss what is compiled on first use."""
    found = {path.stem: path.read_text() for path in sorted((ROOT / "csrc/generated").glob("*.cpp"))}
    for name, cls in losskit.list_losses().items():
        if issubclass(cls, Family) and cls.__module__.startswith("losskit."):
            built_in = {codegen.cpp(formula)[0] for formula in cls._built_in_formulas()}
            rare = dict(codegen.cpp(formula) for formula in cls._compiled_formulas())
            sources = [source for symbol, source in rare.items() if symbol not in built_in]
            if sources:
                found[f"rare_{name}"] = "\n".join(['#include "kernel.h"\n#include "each.h"\n', *sources])
    return found


UNITS = units()


@pytest.mark.parametrize(
    "unit",
    rest(
        UNITS,
        ("bce_with_logits", "cross_entropy"),
        "elements: whether the compiler vectorises every loss's loops",
    ),
)
@pytest.mark.parametrize(("machine", "width"), [("x86-64-v3", 32), ("x86-64-v4", 64)])
def test_loops_are_vectorised(unit, machine, width, tmp_path):
    source = tmp_path / f"{unit}.cpp"
    source.write_text(UNITS[unit])
    flags = [*compiler.FLAGS, f"-march={machine}", "-mprefer-vector-width=512", "-DLOSSKIT_CLONES="]
    command = ["g++", *flags, "-fopt-info-vec-optimized", "-c", str(source), f"-I{ROOT / 'csrc'}"]
    report = subprocess.run([*command, "-o", str(tmp_path / "o")], capture_output=True, text=True, check=True).stderr
    found = re.findall(rf"{source.name}:(\d+):\d+: optimized: loop vectorized using {width} byte", report)
    lines = UNITS[unit].splitlines()
    copies = {number for number in range(len(lines)) if "first_power" in "".join(lines[number : number + 4])}
    loops = {number for number, line in enumerate(lines, 1) if "i_ < n_" in line} - copies
    expected = set(map(str, loops))
    assert len(expected) >= 2
    assert expected <= set(found), f"scalar loops at lines {sorted(expected - set(found), key=int)}"
