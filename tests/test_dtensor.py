"""A loss of DTensors is the loss of the whole tensors, on two and four ranks; what they check is in sharded_calls.py."""

import json
import time

import pytest
import sharded_calls
import torch.multiprocessing as mp
from tiers import full

LIMIT = 600  # seconds, many times what is needed; ranks that wait for each other are given up then


FOUR = pytest.param([(4,), (2, 2)], id="four ranks", marks=full("DTensors: four ranks, in one dimension and in two"))


@pytest.mark.parametrize("meshes", [pytest.param([(2,)], id="two ranks"), FOUR])
def test_losses_of_dtensors(meshes, tmp_path):
    size = meshes[0][0]
    ranks = mp.spawn(sharded_calls.work, (meshes, str(tmp_path / "store"), str(tmp_path)), nprocs=size, join=False)
    end = time.monotonic() + LIMIT
    try:
        while not ranks.join(timeout=max(0.0, end - time.monotonic())):
            at = [path.read_text() for path in sorted(tmp_path.glob("*.at"))]
            assert time.monotonic() < end, f"the ranks wait for each other, in {at}"
    finally:
        for process in ranks.processes:
            process.kill()
            process.join()
    wrong = {}
    for rank in range(size):
        wrong |= json.loads((tmp_path / f"{rank}.json").read_text())
    assert not wrong, "\n\n".join(f"{check}\n{problem}" for check, problem in wrong.items())
