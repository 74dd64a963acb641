"""The kernels compile for a GPU, not only run in the interpreter, and the machine code is what it should be."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Kernels whose formula needs more registers than there are: none.
CAPABILITIES = [90]


@pytest.fixture(scope="module", params=CAPABILITIES)
def kernels(request):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    program = [sys.executable, str(Path(__file__).parent / "ahead.py"), str(request.param)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_they_compile_and_nothing_is_spilt(kernels):
    assert len(kernels) > 10
    spilt = [(k["call"], k["kernel"], k["spilt"]) for k in kernels if k["spilt"]]
    assert not spilt


def test_no_float_is_added_atomically(kernels):
    assert not [k for k in kernels if k["float_atomics"]]


def test_memory_is_read_16_bytes_at_a_time(kernels):
    for k in kernels:
        if k["call"].startswith("mse") and k["kernel"] == "pointwise_kernel":
            assert {"v4.b32", "v2.b64"} & set(k["widths"]), k
