"""Every loop over a block is vector code: a formula that GCC leaves scalar is ten times slower, silently."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tiers import rest

from losskit.kernels import compiler

ROOT = Path(__file__).resolve().parent.parent
SCALAR = re.compile(r"lk::(lgamma|digamma|trigamma|erf|power)\(")  # a call of the C library for each element

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="the report is GCC's")


@pytest.mark.parametrize(
    "source",
    rest(
        sorted((ROOT / "csrc/generated").glob("*.cpp")),
        lambda path: path.stem in ("bce_with_logits", "cross_entropy"),
        "elements: whether the compiler vectorises every loss's loops",
    ),
    ids=lambda path: path.stem,
)
@pytest.mark.parametrize(("machine", "width"), [("x86-64-v3", 32), ("x86-64-v4", 64)])
def test_loops_are_vectorised(source, machine, width, tmp_path):
    flags = [*compiler.FLAGS, f"-march={machine}", "-mprefer-vector-width=512", "-DLOSSKIT_CLONES="]
    command = ["g++", *flags, "-fopt-info-vec-optimized", "-c", str(source), f"-I{ROOT / 'csrc'}"]
    report = subprocess.run([*command, "-o", str(tmp_path / "o")], capture_output=True, text=True, check=True).stderr
    found = re.findall(rf"{source.name}:(\d+):\d+: optimized: loop vectorized using {width} byte", report)
    lines = source.read_text().splitlines()
    loops = {number for number, line in enumerate(lines, 1) if "i_ < n_" in line}
    bodies = {number: "\n".join(lines[number : number + 30]).split("\n    }")[0] for number in loops}
    expected = {str(number) for number in loops if not SCALAR.search(bodies[number])}
    assert len(expected) >= 2
    assert expected <= set(found), f"scalar loops at lines {sorted(expected - set(found), key=int)}"
