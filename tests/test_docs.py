"""The documentation tells the truth: its code runs, its outputs are the real ones, its pages are complete."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import losskit
from losskit_guide.card import catalogue
from losskit_guide.cli import app

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "site"))

import blocks  # noqa: E402
import worked  # noqa: E402

CARDS = catalogue()


@pytest.fixture(autouse=True)
def _losses_of_pages_are_forgotten():
    from losskit.loss import registered

    before = dict(registered)
    yield
    registered.clear()
    registered.update(before)


@pytest.mark.parametrize("path", blocks.pages(), ids=lambda path: path.stem)
def test_blocks_print_what_the_page_shows(path):
    assert blocks.checked(path) == path.read_text(encoding="utf-8"), "run python tools/site/blocks.py --write"


@pytest.mark.parametrize("name", CARDS)
def test_worked_example_equals_the_loss(name):
    printed = "".join(output for _, output in worked.run(name, CARDS[name].class_name))
    for reduction in ("none", "mean", "sum"):
        assert f"{reduction}, by hand" in printed
        assert f"{reduction}, losskit" in printed


SHELL = [block for path in blocks.pages() for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.M | re.S)]
COMMANDS = [line for block in SHELL for line in block.splitlines() if line.startswith("losskit ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_work(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, shlex.split(command)[1:])
    assert result.exit_code == 0, result.output


def test_a_wrong_formula_is_noticed(monkeypatch):
    wrong = worked.Example(data=worked.EXAMPLES["mse_loss"].data, by_hand="by_hand = (output - target) ** 2 / 2",
                           operands="output, target")  # fmt: skip
    monkeypatch.setitem(worked.EXAMPLES, "mse_loss", wrong)
    with pytest.raises(AssertionError, match="not close"):
        worked.run("mse_loss", "MSELoss")


def test_a_loss_without_an_example_is_an_error():
    with pytest.raises(LookupError, match="tukey_loss has no worked example"):
        worked.code("tukey_loss", "TukeyLoss")


def test_every_example_belongs_to_a_loss():
    assert set(worked.EXAMPLES) == set(CARDS)


def test_a_wrong_output_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n")
    assert blocks.checked(page) == "```python\nprint(1 + 1)\n```\n\n```text\n2\n```\n"
    page.write_text("```python\n[][0]\n```\n\n```text\nIndexError: ?\n```\n")
    assert "IndexError: list index out of range" in blocks.checked(page)
    page.write_text("```python\n[][0]\n```\n")
    with pytest.raises(IndexError):
        blocks.checked(page)


def test_lines_of_code_fit_the_page():
    parts = {name: worked.code(name, card.class_name) for name, card in CARDS.items()}
    parts |= {path.name: [m["code"] for m in blocks.BLOCK.finditer(path.read_text())] for path in blocks.pages()}
    for name, codes in parts.items():
        for line in "\n".join(codes).splitlines():
            assert len(line) <= 92, f"{name}: {line}"


needs_mkdocs = pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")


@needs_mkdocs
def test_the_site_builds(tmp_path):
    """Strictly: a broken link or a warning fails. Then: a page for each loss, and nothing fetched from elsewhere."""
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, card in CARDS.items():
        page = (tmp_path / "loss" / f"{name}.html").read_text(encoding="utf-8")
        assert "<math" in page
        assert card.reference.split("(")[0].strip()[:20] in page
        if card.curve is not None:
            assert '<div class="plot"><svg' in page, name
    api = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "api").glob("*.html"))
    missing = [name for name in losskit.__all__ if f'.{name}"' not in api]
    assert not missing
    for path in tmp_path.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert 'src="http' not in text, path
        assert '<link rel="stylesheet" href="http' not in text, path
        assert "$$" not in text, path
