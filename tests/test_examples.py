"""The examples that need nothing but losskit run, silently but for what they show; tests/hosts runs the others."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SHOWN = {
    "plain_torch": r"mean distance from the truth: 0\.0\d\d, noise of the targets: 0\.1\n"
    r"refused: huber_loss: input \(256, 2\) and target \(256, 1\) must have the same shape\..*\n",
    "custom_loss": r"loss 0\.\d+, norm of the gradient 0\.\d+\nfused CPU kernel: .*\ngradcheck: True\ngradgradcheck: True\n",
    "ddp_normalizer": r"one normalizer equals the whole batch: True\na mean per rank equals the whole batch: False\n",
}


@pytest.mark.parametrize("name", SHOWN)
def test_example(name, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}  # the kernel is compiled
    command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert re.fullmatch(SHOWN[name], done.stdout), done.stdout


def test_every_script_is_listed_and_run():
    """The table of the examples and the two files of tests know the same scripts: those that say how they are run."""
    hosts = (EXAMPLES.parent / "tests/hosts/test_examples.py").read_text()
    scripts = {path.stem for path in EXAMPLES.glob("*.py") if f"\nRun: python examples/{path.name}" in path.read_text()}
    assert scripts == set(re.findall(r"^\| \[(\w+)\.py\]", (EXAMPLES / "README.md").read_text(), re.M))
    assert scripts == set(SHOWN) | set(re.findall(r'^    "(\w+)": \(', hosts, re.M))
