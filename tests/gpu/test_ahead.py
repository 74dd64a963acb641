"""The kernels compile for a GPU, not only run in the interpreter, and the machine code is what it should be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiers import full

HOPPER = "90"
DTYPES = ["bf16", pytest.param("f32 bf16 f16 f64", marks=full("gpu: machine code of every dtype"))]
A_FEW = 64  # bytes: what a thread that holds 32 scores of a row may have to put away for a moment


@pytest.fixture(scope="module", params=DTYPES)
def dtypes(request):
    return request.param.split()


@pytest.fixture(scope="module")
def kernels(dtypes):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    program = [sys.executable, str(Path(__file__).parent / "ahead.py"), HOPPER, *dtypes]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_they_compile_into_registers(kernels):
    families = {"pointwise", "class_scores", "picked", "margins", "embeddings", "meet", "part", "gradient"}
    families |= {"sums", "regions", "ranks", "pairs", "lists"}
    families |= {"keys", "after", "before", "classes", "codes", "steps", "units", "signs", "errors"}
    families |= {"steps", "forward", "backward", "nodes", "lattice", "distances", "walk"}
    assert families <= {k["kernel"].removesuffix("_kernel") for k in kernels}
    spilt = [(k["call"], k["kernel"], k["spilt"]) for k in kernels if k["spilt"] > A_FEW]
    assert not spilt


def test_no_float_is_added_atomically(kernels):
    assert not [k for k in kernels if k["float_atomics"]]


def test_memory_is_read_16_bytes_at_a_time(kernels, dtypes):
    for call in (
        "mse",
        "cross_entropy 32000",
        "cross_entropy 131072",
        "cross_entropy maps",
        "triplet",
        "multi_margin",
        "rnnt",
    ):
        widths = [k["widths"] for k in kernels if k["call"].startswith(call) and k["kernel"] != "count_kernel"]
        wide = [w for w in widths if {"v4.b32", "v2.b64"} & set(w)]
        assert len(wide) >= len(dtypes) / 2, call  # a kernel may serve two calls, and then is the first one's


def test_long_rows_are_asked_for_ahead(kernels, dtypes):
    """Where a program has a multiprocessor for itself, the next scores come while it computes."""
    for call in ("cross_entropy 32000", "cross_entropy 131072"):
        copies = [
            k["asynchronous"] for k in kernels if k["call"].startswith(call) and k["kernel"] == "class_scores_kernel"
        ]
        assert len(copies) >= len(dtypes)
        assert all(copies), call
