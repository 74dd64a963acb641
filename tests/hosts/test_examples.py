"""The scripts in examples/ that need a host; tests/test_examples.py runs the others."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHOWN = {
    "lightning_module": ("lightning", r"accuracy on held-out digits: 0\.9\d\n"),
    "skorch_classifier": (
        "skorch",
        r"accuracy in three folds: \[(0\.\d\d? ?){3}\]\nprobabilities add up to one: True\n",
    ),
    "hf_trainer": ("transformers", r"losses of four steps: tensor\(.*\)\nequal with four micro-batches a step: True\n"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_example(name, capsys):
    """In this process: conftest.py has made torchvision importable, which hosts import."""
    host, shown = SHOWN[name]
    pytest.importorskip(host)
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(f"(^|\n){shown}$", printed), printed
