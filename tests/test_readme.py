"""README tells the truth: its numbers are those that were measured, its links lead somewhere; test_docs.py runs its code."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch

import losskit
from losskit.loss import registered

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tools"))

import readme  # noqa: E402
import speed  # noqa: E402

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


# The page of speed

HERE = {"cpu": "A CPU", "cores": 2, "vectors": "AVX2", "system": "Linux x86_64", "python": "3.11", "torch": "2.13.0"}


def row(case, against, eager, size="1M", threads=1, machine=0, asked=1.0, **others):
    """A row of docs/speed.json, where each ratio has the quartiles next to it."""
    ratios = {"torch": eager, **others}
    return {
        "case": case, "loss": case, "size": size, "threads": threads, "dtype": "f32", "shape": [32, 10], "against": against,
        "rounds": 21, "microseconds": {"losskit": 12.5}, "over_losskit": ratios, "asked": {"torch": asked},
        "quartiles": {peer: [x - 0.1, x + 0.1] for peer, x in ratios.items()}, "date": "2026-01-02", "machine": machine,
    }  # fmt: skip


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Say what was measured."""
    path = tmp_path / "speed.json"
    monkeypatch.setattr(speed, "FILE", path)

    def write(losses, heads=(), machines=(HERE,)):
        path.write_text(json.dumps({"machines": machines, "losses": losses, "heads": heads}))

    return write


def test_page_of_speed_tells_means_and_what_is_slower(measured):
    measured([
        row("a", "F.a", 8.0, compile=2.0, asked=9.0),
        row("b", "compositions.b", 0.5, compile=0.97),
        row("c", "textbook", 0.98),
        row("d", "F.d", 2.0, size="32x10"),
    ])  # fmt: skip
    page = speed.overview()
    assert "Measured on: A CPU, 2 cores, AVX2, Linux x86_64; python 3.11, torch 2.13.0; 2026-01-02." in page
    head, _, small, large = (line for line in page.splitlines() if line.startswith("|"))
    assert head == (
        "|  | losses | torch eager / losskit | losskit is slower in | against torch's function | against a composition "
        "| against a formula | torch.compile / losskit | losskit is slower in |"
    )
    assert small == "| 320 numbers, one thread | 1 | 2.00 | 0 of 1 | 2.00 |  |  |  |  |"
    # 8 * 0.5 * 0.98 and 2 * 0.97, by hand
    assert large == "| a million numbers, one thread | 3 | 1.58 | 1 of 3 | 8.00 | 0.50 | 0.98 | 1.39 | 1 of 2 |"
    assert (
        "slower than torch eager** (ratio below 0.98) in:\n\n- a million numbers, one thread: `b` 0.50\n\nlosskit"
        in page
    )
    assert "slower than torch.compile** (ratio below 0.98) in:\n\n- a million numbers, one thread: `b` 0.97" in page
    assert "JAX" not in page
    assert "Not timed" not in page


def test_page_of_speed_has_a_row_for_each_loss(measured):
    measured(
        [row("a", "F.a", 8.0, compile=2.0, asked=9.0), row("b", "formula", 0.5), row("b", "formula", 1.5, "16M", 2)]
    )
    page = speed.rows()
    assert [line for line in page.splitlines() if line.startswith("###")] == [
        "### A million numbers, one thread", "### 16 million numbers, two threads",
    ]  # fmt: skip
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert (
        rows[0] == "| loss | shape | against | losskit, µs | torch eager / losskit | asked | torch.compile / losskit |"
    )
    assert rows[2] == "| `a` | 32x10 | `F.a` | 12.5 | 8.00 [7.90, 8.10] | **9** | 2.00 [1.90, 2.10] |"
    assert rows[3] == "| `b` | 32x10 | `formula` | 12.5 | **0.50** [0.40, 0.60] | **1** |  |"
    assert rows[6] == "| `b` | 32x10 | `formula` | 12.5 | 1.50 [1.40, 1.60] | 1 |"


def test_page_of_speed_names_each_machine(measured):
    other = {**HERE, "cpu": "Another CPU", "jax": "0.5"}
    measured([row("a", "F.a", 2.0, jax=3.0, machine=1), row("b", "F.b", 2.0)], machines=[HERE, other])
    page = speed.overview()
    assert "Measured on" not in page
    assert "Rows are of several machines or versions" in page
    assert "\n1. A CPU, " in page
    assert "\n2. Another CPU, 2 cores, AVX2, Linux x86_64; python 3.11, torch 2.13.0, jax 0.5; 2026-01-02" in page
    assert "Nowhere is losskit slower than JAX." in page
    rows = [line.split(" | ") for line in speed.rows().splitlines() if line.startswith("| `")]
    assert [(cells[0], cells[-1]) for cells in rows] == [("| `a`", "2 |"), ("| `b`", "1 |")]
    assert "A CPU with torch 2.13.0" in readme.how()
    assert "Another CPU with torch 2.13.0" in readme.how()


def test_page_of_speed_tells_what_was_not_timed(measured):
    wrong = {
        "case": "b",
        "size": "1M",
        "threads": 1,
        "dtype": "f32",
        "not_timed": "b: losskit is wrong by 1.0e+00, not timed",
    }
    measured([row("a", "F.a", 2.0), {**wrong, "date": "2026-01-02", "machine": 0}])
    assert speed.overview().endswith(
        "Not timed:\n\n- a million numbers, one thread: b: losskit is wrong by 1.0e+00, not timed"
    )
    assert "`b`" not in speed.rows()
    assert readme.speed_and_memory()[0][1:] == ["**2.0 times**", "faster in 0 of 1"]


def test_page_of_speed_where_nothing_was_measured(measured):
    measured([])
    assert speed.overview() == speed.rows() == speed.NOTHING
    assert readme.speed_and_memory()[0] == ["[speed](docs/speed.md)", "not measured yet", ""]
    assert readme.how() == ""


def test_page_of_speed_has_heads(measured):
    head = {
        "case": "linear", "size": "8x4x10", "dtype": "bf16", "threads": 2, "over_torch": {"losskit": 0.5},
        "over_torch_quartiles": {"losskit": [0.4, 0.6]}, "memory_over_torch": {"losskit": 0.25}, "date": "2026-01-02",
        "machine": 0,
    }  # fmt: skip
    measured([], [head])
    assert "### Heads of language models" in speed.rows()
    assert "| `linear` | 8x4x10 | bf16 | 2 | losskit | 0.50 [0.40, 0.60] | 0.250 |" in speed.rows()


def test_row_of_speed_is_of_one_thread(measured):
    measured([
        row("a", "F.a", 4.0, "32x10"), row("b", "F.b", 0.25, "32x10"), row("a", "F.a", 3.0),
        row("a", "F.a", 100.0, "16M", 2),
    ])  # fmt: skip
    assert readme.speed_and_memory()[0] == [
        "[speed](docs/speed.md) at 320 and a million numbers", "**1.0 and 3.0 times**", "faster in 1 of 2 and 0 of 1",
    ]  # fmt: skip
