"""Other people's programs with losskit in them: no network, one thread, and a list of hosts at the end."""

from __future__ import annotations

import os

# Hubs are asked for nothing: every model here is a small configuration with random weights.
os.environ.update(
    HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES=""
)

import importlib.metadata
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

# The distribution that each file needs, whose version is printed.
HOSTS = {
    "test_accelerate.py": "accelerate",
    "test_agreement.py": "torch",
    "test_cloudpickle.py": "cloudpickle",
    "test_distributed.py": "torch",
    "test_examples.py": "torch",
    "test_fastai.py": "fastai",
    "test_joblib.py": "joblib",
    "test_jsonargparse.py": "jsonargparse",
    "test_lightning.py": "lightning",
    "test_monai.py": "monai",
    "test_ranks.py": "torch",
    "test_segmentation_models.py": "segmentation-models-pytorch",
    "test_sentence_transformers.py": "sentence-transformers",
    "test_skorch.py": "skorch",
    "test_timm.py": "timm",
    "test_transformers.py": "transformers",
    "test_transformers_trainer.py": "transformers",
    "test_trl.py": "trl",
}


def _make_torchvision_importable() -> None:
    """timm, fastai and segmentation-models-pytorch import torchvision, and use none of its compiled operators.

    The wheels of the package index are built for CUDA: beside a CPU build of torch their library does not load, and
    torchvision stops at the first description of an operator that it believes to be there.
    """
    try:
        import torchvision
    except ImportError:
        return
    except RuntimeError as problem:
        if "torchvision::" not in str(problem):
            raise
        torch.library.define("torchvision::nms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torch.library.define("torchvision::qnms", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401


_make_torchvision_importable()
torch.set_num_threads(1)  # the models are tiny, and two processes share the machine


@pytest.fixture(autouse=True)
def _same_numbers_each_time():
    torch.manual_seed(0)
    np.random.seed(0)  # hosts draw from the global generators
    random.seed(0)


def pytest_collection_modifyitems(items):
    unknown = {item.path.name for item in items} - set(HOSTS)
    if unknown:
        raise pytest.UsageError(f"{', '.join(sorted(unknown))}: name the host in HOSTS of tests/hosts/conftest.py")


def pytest_terminal_summary(terminalreporter):
    """Which hosts ran, in which version and with how many tests, and which did not."""
    counts = {host: Counter() for host in sorted(set(HOSTS.values()))}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            host = HOSTS.get(Path(report.nodeid.split("::")[0]).name)
            if host is not None:
                counts[host]["passed" if outcome == "passed" else "failed"] += 1
    terminalreporter.section("hosts that ran")
    for host, count in counts.items():
        if count:
            terminalreporter.line(
                f"{host} {importlib.metadata.version(host)}: {count['passed']} passed, {count['failed']} failed"
            )
    absent = [host for host, count in counts.items() if not count]
    if absent:
        terminalreporter.line(f"Did not run: {', '.join(absent)}.")
