"""README tells the truth: its numbers are those that were measured, its links lead somewhere; test_docs.py runs its code."""

import re
import sys
from pathlib import Path

import torch

import losskit
from losskit.loss import registered

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

import readme  # noqa: E402

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_numbers_are_those_that_were_measured():
    for page in readme.PARTS:
        assert readme.printed(page) == page.read_text(encoding="utf-8"), "run python tools/readme.py"


def test_it_can_be_read_in_a_minute():
    assert len(README.splitlines()) < 125


def test_links_lead_somewhere():
    for target in re.findall(r'(?:\]\(|src="|srcset=")([^)"#]+)', README):
        assert (ROOT / target).exists(), target


def test_commands_are_those_of_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for command in set(re.findall(r"\bmake ([a-z-]+)\b(?! of| a\b)", README)):
        assert re.search(rf"^{command}:.*##", makefile, re.M), command


def test_counts_of_the_comparison():
    """losskit's are those of the registry and the layers with a loss; torch's are its modules called Loss."""
    torchs = {name for name in dir(torch.nn) if name.endswith("Loss")}
    own = {name for name in losskit.__all__ if name in torchs}
    assert own == torchs
    assert f"| torch 2.13 | {len(torchs)} |" in README
    built_in = {cls.__name__ for cls in registered.values() if cls.__module__.startswith("losskit.")}
    layers = {"AdaptiveLogSoftmaxWithLoss", "LinearCrossEntropyLoss"}
    assert own == built_in & torchs | layers
    assert f"| losskit | {len(built_in | layers)} | general; all of torch.nn's |" in README
