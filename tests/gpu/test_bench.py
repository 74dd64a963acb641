"""The GPU's benchmark is ready to run: it is rehearsed on a few elements, with interpreted kernels."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: make bench-gpu measures")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_it_runs():
    cases = ["mse", "cross_entropy_c2", "cosine"]
    program = [
        sys.executable,
        BENCHMARK,
        "--rehearse",
        "--sizes",
        "1k",
        "--rounds",
        "2",
        "--dtypes",
        "f32",
        "--only",
        *cases,
    ]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for case in ("mse", "cross_entropy_c2", "cosine_embedding"):
        assert f"{case} 1k f32" in done.stdout


def test_every_row_has_numbers_at_every_size():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from gpu import GPU_CASES, SIZES\n"
        "rows = [(c.name, c.shape(n)) for c in GPU_CASES for n in SIZES.values()]\n"
        "print([row for row in rows if row[1] is not None and min(row[1]) < 1], len(rows) > 500)"
    )
    done = subprocess.run([sys.executable, "-c", program, BENCHMARK.parent], capture_output=True, text=True)
    assert done.stdout == "[] True\n", done.stderr[-3000:]


def test_without_a_gpu_it_says_so():
    done = subprocess.run([sys.executable, BENCHMARK], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no GPU that torch can use" in done.stderr
