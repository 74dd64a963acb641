"""Every loss is measured: its row follows from the declaration, and all rows are ready to be timed."""

import json
import math
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
    if "small" in case.sizes and takes(case, DTYPES[sys.argv[2]]):
        peers, known = make_peers(case, next(iter(case.shapes)), sys.argv[2], ["compile", "jax"])  # raises if one is wrong
        working = sorted(name for name, step in peers.items() if step() is not None)
        found[case.name] = [case.function, working, known["against"]]
print(json.dumps(found))
"""
MERGE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import store
path, rows = Path(sys.argv[2]), json.loads(sys.argv[3])
if rows:
    store.merge(path, "losses", rows, ["mse", "l1"])
print(json.dumps([store.facts(), sorted(store.measured_today(path, "losses"))]))
"""
WRONG = """
import sys
sys.path.insert(0, sys.argv[1])
import run, peers
def one_is_wrong(case, *where, make=run.make_peers):
    if case.name == "l1":
        peers.compare("l1", "losskit", [peers.torch.ones(1)], [peers.torch.zeros(1)], "f32")
    return make(case, *where)
run.make_peers = one_is_wrong
sys.argv = ["run.py", *sys.argv[2:]]
sys.exit(run.main())
"""
SMALL = ("--sizes", "32x10", "--threads", "1", "--quick")


def run(*arguments, code=0):
    environment = {**os.environ, "PYTHONPATH": str(Path(losskit.__file__).resolve().parent.parent)}
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, env=environment)
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
def test_every_row_can_be_timed(dtype):
    """Its result is that of torch's function; of halves where torch takes them."""
    found = json.loads(run("-c", WARM_UP, BENCHMARKS, dtype))
    assert all(peers == ["losskit", "torch"] for _, peers, _ in found.values())
    told = {name: against for name, (_, _, against) in found.items()}
    assert told["mse"] == "F.mse_loss"
    assert told["l1"] == "F.l1_loss"
    if "clip" in told:
        assert told["clip"] == "compositions_of_pairs.clip_loss"
    built_in = {
        name
        for name, cls in losskit.list_losses().items()
        if issubclass(cls, Family) and cls.__module__.startswith("losskit.losses.")
    }
    measured = {function for function, _, _ in found.values()}
    if dtype in ("f32", "f64"):
        assert measured == built_in
    else:
        untimed = {"ctc_loss", "multi_margin_loss", "multilabel_margin_loss", "batch_hard_triplet_loss", "rnnt_loss"}
        assert built_in - measured <= untimed
    assert len(found) > len(measured)  # the special rows


def test_sizes_are_about_as_large_as_they_say():
    """Of a loss that computes pairs of rows or of items, these are counted."""
    code = "import json, sys; sys.path.insert(0, sys.argv[1]); from cases import CASES; "
    found = json.loads(run("-c", code + "print(json.dumps({c.name: c.shapes for c in CASES}))", BENCHMARKS))
    for name, case, numbers in (("mse", "32x10", 320), ("mse", "256x10", 2560), ("mse", "4096x10", 40960)):
        assert math.prod(found[name][case]) == numbers
    assert found["clip"]["4096x10"] == [204, 16]  # 41,616 pairs
    assert found["jaccard"]["4096x10"] == [2, 4, 66, 77]
    assert list(found["ms_ssim"]) == ["4096x10", "1M", "16M"]  # it takes no smaller image
    assert list(found["cross_entropy_v32000"]) == ["1M", "16M"]


def test_the_benchmark_runs(tmp_path):
    """A small selection, to its table and file, and a part of it anew; the one for GPUs says what it takes."""
    path = tmp_path / "speed.json"
    assert "--only" in run(BENCHMARKS / "run.py", "--help")
    printed = run(BENCHMARKS / "run.py", "--only", "mse", "cross_entropy_c2", *SMALL, "--json", path)
    assert "2 ratios have a minimum" in printed
    known = json.loads(path.read_text())
    assert [(r["case"], r["shape"]) for r in known["losses"]] == [("cross_entropy_c2", [32, 2]), ("mse", [32, 10])]
    row = known["losses"][1]
    assert row["against"] == "F.mse_loss"
    assert row["asked"] == {"torch": 1.0}
    first, third = row["quartiles"]["torch"]
    assert first <= row["over_losskit"]["torch"] <= third
    (machine,) = known["machines"]
    of_machine, versions = {"cpu", "cores", "vectors", "system"}, {"python", "torch", "losskit", "jax", "optax"}
    assert of_machine < machine.keys() <= of_machine | versions  # no host, no path
    assert "0 ratios" in run(BENCHMARKS / "run.py", "--only", "mse", *SMALL, "--resume", "--json", path)
    assert json.loads(path.read_text()) == known  # it was measured today
    path.write_text(json.dumps({**known, "losses": [known["losses"][0], {**row, "date": "2020-01-01"}]}))
    assert "1 ratios" in run(BENCHMARKS / "run.py", "--only", "mse", *SMALL, "--resume", "--json", path)
    after = json.loads(path.read_text())["losses"]
    assert after[0] == known["losses"][0]
    assert after[1]["date"] == row["date"]
    assert "--rehearse" in run(BENCHMARKS / "gpu.py", "--help")


def test_a_wrong_row_stops_no_run(tmp_path):
    """The others are timed; it is told at the end, by the exit code, and in the file, where it has no time any more."""
    path = tmp_path / "speed.json"
    run(BENCHMARKS / "run.py", "--only", "l1", *SMALL, "--json", path)
    printed = run("-c", WRONG, BENCHMARKS, "--only", "l1", "mse", *SMALL, "--json", path, code=1)
    assert "not timed: l1, 32x10, 1 thread(s): l1: losskit is wrong by 1.0e+00" in printed
    wrong, right = json.loads(path.read_text())["losses"]
    assert wrong["case"] == "l1"
    assert wrong["not_timed"] == "l1: losskit is wrong by 1.0e+00, not timed"
    assert "over_losskit" not in wrong
    assert right["case"] == "mse"
    assert right["over_losskit"]["torch"] > 0


def test_rows_keep_their_machine_and_their_day(tmp_path):
    """A row replaces its like, and no other; what is no case any more goes, and so do machines without a row."""
    path = tmp_path / "speed.json"

    def row(case, size, **more):
        return {"case": case, "size": size, "threads": 1, "dtype": "f32", **more}

    here, done = json.loads(run("-c", MERGE, BENCHMARKS, path, json.dumps([row("mse", "1M", rounds=1 / 3)])))
    assert done == [["1M", 1, "f32", "mse"]]
    known = json.loads(path.read_text())
    assert known["machines"] == [here]
    assert known["losses"][0]["rounds"] == 0.3333  # four digits
    elsewhere = {**here, "torch": "2.0"}
    old = [
        row(case, size, date="2020-01-01", machine=0)
        for case, size in (("mse", "1M"), ("l1", "1M"), ("mse", "16M"), ("gone", "1M"))
    ]
    path.write_text(json.dumps({"machines": [elsewhere], "losses": old, "heads": []}))
    _, done = json.loads(run("-c", MERGE, BENCHMARKS, path, json.dumps([row("mse", "1M")])))
    assert done == [["1M", 1, "f32", "mse"]]
    known = json.loads(path.read_text())
    assert known["machines"] == [here, elsewhere] or known["machines"] == [elsewhere, here]
    measured = {(r["case"], r["size"]): (r["date"], known["machines"][r["machine"]]) for r in known["losses"]}
    assert measured.pop(("mse", "1M"))[1] == here
    assert measured == {("l1", "1M"): ("2020-01-01", elsewhere), ("mse", "16M"): ("2020-01-01", elsewhere)}
    run("-c", MERGE, BENCHMARKS, path, json.dumps([row("l1", "1M"), row("mse", "16M")]))
    assert json.loads(path.read_text())["machines"] == [here]


def test_the_benchmark_of_heads_runs(tmp_path):
    """Its row stands once in the file, beside those of the losses."""
    path, other = tmp_path / "speed.json", {"case": "mse", "size": "1M", "dtype": "f32", "threads": 1, "machine": 0}
    path.write_text(json.dumps({"machines": [{"torch": "2.0"}], "losses": [other], "heads": []}))
    few = ("--rehearse", "--dtypes", "f32", "--threads", "1", "--quick")
    for _ in range(2):
        assert "2 figures have a maximum" in run(BENCHMARKS / "heads.py", *few, "--json", path)
    document = json.loads(path.read_text())
    assert document["losses"] == [other]
    (result,) = document["heads"]
    assert (result["case"], result["size"]) == ("linear_cross_entropy_c1000", "256x8x1000")
    assert {"torch", "losskit_scores", "losskit"} <= {*result["milliseconds"]}
    if sys.platform == "linux":  # the plain path has three tensors of scores, losskit one
        scores = 256 * 1000 * 4
        assert result["peak_bytes"]["torch"] > 2 * scores
        assert 0.5 * scores < result["peak_bytes"]["losskit"] < 1.5 * scores
