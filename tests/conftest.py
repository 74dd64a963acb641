"""Uninitialised memory is filled with NaN while tests run, so reading it cannot go unseen; warnings are errors."""

import os

import pytest
import tiers
import torch

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or cuBLAS would refuse to be deterministic
if not torch.cuda.is_available():
    import interpreted  # noqa: F401  # before anything imports Triton, as torch.compile does


collect_ignore = ["hosts"]  # `make hosts` runs them where the hosts are installed


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config, items):
    of_gpus = [item for item in items if item.path.parent.name == "gpu"]
    tiers.first_of_each(of_gpus, "gpu: each test with all its parameters, not with the first alone")
    tiers.remember(config, items)
    tiers.only_shard(config, items)


@pytest.fixture(autouse=True)
def _nan_in_fresh_memory():
    torch.use_deterministic_algorithms(True, warn_only=True)  # torch's own losses are not, on a GPU
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def _settings_and_threads_restored():
    threads = torch.get_num_threads()
    yield
    import losskit

    losskit.checks("raise")
    losskit.empty("nan")
    torch.set_num_threads(threads)
