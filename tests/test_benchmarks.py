"""Every loss is measured: its row follows from the declaration, and all rows are ready to be timed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import losskit
from losskit.families.base import Family

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
WARM_UP = """
import dataclasses, json, sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.filterwarnings("ignore", message="reduction: 'mean' divides the total loss")
import heads
from cases import CASES, takes
from peers import DTYPES, make_peers
for loss in heads.LOSSES:
    heads.check(dataclasses.replace(heads.REHEARSED, loss=loss), sys.argv[2])
found = {}
for case in CASES:
    if "small" in case.shapes and takes(case, DTYPES[sys.argv[2]]):
        peers, _ = make_peers(case, "small", sys.argv[2], ["compile", "jax"])  # exits where a result is wrong
        found[case.name] = [case.function, sorted(name for name, step in peers.items() if step() is not None)]
print(json.dumps(found))
"""
WRITE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import heads
heads.write(Path(sys.argv[2]), json.loads(sys.argv[3]))
"""


def run(*arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(losskit.__file__).resolve().parent.parent)}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
def test_every_row_can_be_timed(dtype):
    """Its result is that of torch's function; of halves where torch takes them."""
    found = json.loads(run("-c", WARM_UP, BENCHMARKS, dtype))
    assert all(peers == ["losskit", "torch"] for _, peers in found.values())
    built_in = {
        name
        for name, cls in losskit.list_losses().items()
        if issubclass(cls, Family) and cls.__module__.startswith("losskit.losses.")
    }
    measured = {function for function, _ in found.values()}
    if dtype in ("f32", "f64"):
        assert measured == built_in
    else:
        untimed = {"ctc_loss", "multi_margin_loss", "multilabel_margin_loss", "batch_hard_triplet_loss", "rnnt_loss"}
        assert built_in - measured <= untimed
    assert len(found) > len(measured)  # the special rows


def test_the_benchmark_runs(tmp_path):
    """A small selection, to its table and file; the one for GPUs says what it takes."""
    assert "--only" in run(BENCHMARKS / "run.py", "--help")
    small = ("--only", "mse", "cross_entropy_c2", "--sizes", "small", "--threads", "1", "--quick")
    printed = run(BENCHMARKS / "run.py", *small, "--json", tmp_path / "results.json")
    assert "2 ratios have a minimum" in printed
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [(r["case"], r["shape"]) for r in results] == [("cross_entropy_c2", [32, 2]), ("mse", [32, 10])]
    assert "--rehearse" in run(BENCHMARKS / "gpu.py", "--help")


def test_the_benchmark_of_heads_runs(tmp_path):
    """Its row is there once, beside what was measured by the same versions; what others measured is dropped."""
    path, other = tmp_path / "results.json", {"case": "mse", "dtype": "f32", "threads": 1}
    path.write_text(json.dumps({"facts": {"torch": "2.0"}, "results": [other]}))
    few = ("--rehearse", "--dtypes", "f32", "--threads", "1", "--quick")
    assert "2 figures have a maximum" in run(BENCHMARKS / "heads.py", *few, "--json", path)
    document = json.loads(path.read_text())
    (result,) = document["results"]
    assert (result["case"], result["shape"]) == ("linear_cross_entropy_c1000", [256, 8, 1000])
    assert {"torch", "losskit_scores", "losskit"} <= {*result["milliseconds"]}
    if sys.platform == "linux":  # the plain path has three tensors of scores, losskit one
        scores = 256 * 1000 * 4
        assert result["peak_bytes"]["torch"] > 2 * scores
        assert 0.5 * scores < result["peak_bytes"]["losskit"] < 1.5 * scores
    path.write_text(json.dumps({**document, "results": [other, result]}))
    run("-c", WRITE, BENCHMARKS, path, json.dumps([result]))
    assert json.loads(path.read_text())["results"] == [other, result]
