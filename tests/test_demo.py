"""The demo runs at a small scale, in a process of its own, with warnings as errors; its report stands by itself."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tiers import full

for needed in ("sklearn", "matplotlib", "rich"):
    pytest.importorskip(needed)

ROOT = Path(__file__).parents[1]
PARTS = ("exact", "robust", "safe", "yours", "imbalance", "parity")
PICTURES = {"exact.png", "robust.png", "yours.png", "imbalance.png"}


def run(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MPLCONFIGDIR": str(folder / "matplotlib")}
    command = [sys.executable, "-W", "error", str(ROOT / "demo"), "--out", str(folder / "out"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    done = run(folder, "--epochs-scale", "0.1")
    assert done.returncode == 0, done.stderr
    return folder / "out", done.stdout


def test_every_part_is_in_the_report(demo):
    folder, said = demo
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "left out" not in said
    assert re.findall(r'<h2 id="(\w+)"', page) == list(PARTS)
    assert {path.name for path in folder.iterdir()} == {"report.html", *PICTURES}


def test_what_is_said_is_short(demo):
    assert len(demo[1].splitlines()) <= 40


class References(HTMLParser):
    """Every address that the page names, and every id."""

    def __init__(self):
        super().__init__()
        self.addresses, self.ids = [], []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe", "object", "base"), tag
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset"):
                self.addresses.append(value)


def test_the_report_is_one_file_without_outside_references(demo):
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    found = References()
    found.feed(page)
    pointed = {address.removeprefix("#") for address in found.addresses if address.startswith("#")}
    pointed |= set(re.findall(r"url\(#([^)]+)\)", page))
    assert len(pointed) > len(PARTS)
    assert [address for address in found.addresses if not address.startswith("#")] == []
    assert set(re.findall(r"url\((?!#)|@import", page)) == set()
    assert len(found.ids) == len(set(found.ids))
    assert pointed <= set(found.ids)


def test_no_picture_keeps_a_colour_of_its_own(demo):
    """Light and dark are one drawing: all its colours are variables of the style sheet."""
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 2 * len(PICTURES)
    assert {colour for text in drawings for colour in re.findall(r"#[0-9a-f]{6}\b", text)} == set()


def test_the_code_in_the_report_is_the_code_that_ran(demo):
    page = (demo[0] / "report.html").read_text(encoding="utf-8")
    shown = re.search(r"<pre><code>(.*?)</code></pre>", page, flags=re.DOTALL).group(1)
    source = (ROOT / "demo" / "yours.py").read_text(encoding="utf-8")
    assert shown.replace("&gt;", ">").replace("&quot;", '"') in source


def test_one_part_alone(tmp_path):
    done = run(tmp_path, "--only", "robust", "--epochs-scale", "0.2")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<h2 id="(\w+)"', page) == ["robust"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "robust.png"}


@full("paths of seconds: compiled with numbers and tensors that change, races, type checkers, long pivots")
def test_a_model_that_does_not_beat_guessing_is_left_out(tmp_path):
    """Trained with the label 0 alone, the model of digits answers what a guess would."""
    code = (
        "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); import data; digits = data.digits\n"
        "def zeros(seed=0):\n"
        "    found = digits(seed)\n"
        "    found.train_targets.zero_()\n"
        "    return found\n"
        "data.digits = zeros\n"
        "runpy.run_path(sys.path[0], run_name='__main__')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, str(ROOT / "demo"), "--out", str(tmp_path), "--only", "exact", "robust"]
    done = subprocess.run([*command, "--epochs-scale", "0.05"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "left out: exact, since the linear model of digits has" in done.stdout
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert re.findall(r'<h2 id="(\w+)"', page) == ["robust"]
    assert "Left out: exact" in page
