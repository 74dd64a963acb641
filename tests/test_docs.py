"""The documentation tells the truth: its code runs, its outputs are the real ones, its pages are complete."""

import html
import importlib.util
import inspect
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

import losskit
from losskit_guide.card import catalogue
from losskit_guide.cli import app
from losskit_guide.relations import RELATIONS

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools" / "site"), str(ROOT / "tools")]

import blocks  # noqa: E402
import command  # noqa: E402
import pages  # noqa: E402
import picture  # noqa: E402
import sheet  # noqa: E402
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


def test_the_page_of_the_poster_leads_to_its_files_and_to_losses():
    text = sheet.page(pages.table)
    files = {path.partition("#")[0] for path in re.findall(r"\((images/[^)]*)\)", text)}
    assert files == {f"images/poster-{name}" for name in sheet.FILES}
    linked = set(re.findall(r"\(loss/(\w+)\.md\)", text))
    assert linked == {name for relation in RELATIONS for name in relation.losses} <= set(CARDS)
    assert len(re.findall(r"^\| \d+ \|", text, re.M)) == len(RELATIONS)


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
    wrong = replace(worked.EXAMPLES["mse_loss"], by_hand="by_hand = (output - target) ** 2 / 2")
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


def test_the_picture_shows_what_is_computed_now():
    """Every number that is drawn, up to what one machine's exp differs from another's."""
    now = picture.numbers()
    for theme in picture.THEMES:
        drawn = picture.inside(picture.IMAGES / f"gradients-{theme}.svg")
        assert drawn.keys() == now.keys()
        for name, told in now.items():
            assert drawn[name] == pytest.approx(told, rel=1e-4, abs=3e-45), f"{name}: run python tools/picture.py"
    assert now["torch is 0 from"] == 17
    assert now["losskit at 17"] == pytest.approx(math.exp(-17) / (1 + math.exp(-17)), rel=1e-5)


def test_the_page_of_the_command_has_every_option():
    page = command.page(pages.table)
    for name, function in command.commands().items():
        section = page.split(f"## losskit {name}\n")[1].split("\n## ")[0]
        help_ = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).stdout
        for option in set(re.findall(r"--[a-z][a-z-]*", help_)) - {"--help"}:
            assert f"`{option}`" in section, f"{name} {option}"
        assert inspect.getdoc(function).split("\n")[0].split(".")[0] in section
        assert f"losskit {name}" in section


def test_a_subcommand_without_an_example_is_an_error(monkeypatch):
    monkeypatch.delitem(command.EXAMPLES, "why")
    with pytest.raises(LookupError, match=r"other subcommands than the program: \['why'\]"):
        command.page(pages.table)


def targets(path):
    """What a page links to, shows in frames and pictures, or runs: (page, place in it) of each address in the site."""
    text = re.sub(r"<(pre|script)\b.*?</\1>", "", path.read_text(encoding="utf-8"), flags=re.S)
    for address in re.findall(r'<[a-z]+ [^>]*?(?:href|src)="?([^"\s>]*)', text):
        if not re.match(r"[a-z]+:", address):
            file, _, place = html.unescape(address).partition("#")
            yield (path.parent / urllib.parse.unquote(file)).resolve() if file else path, place


def broken(site):
    """Addresses in a built site that lead nowhere. What follows # in the explorer and in pictures is theirs."""
    places = {
        path: set(re.findall(r'\bid="?([^"\s>]+)', path.read_text(encoding="utf-8")))
        for path in site.rglob("*.html")
        if path.name != "404.html"
    }
    found = []
    for path in places:
        for target, place in targets(path):
            if target.is_dir():
                target = target / "index.html"
            known = (
                places.get(target, set()) if target.suffix == ".html" and target.parent.name != "explorer" else {place}
            )
            if not target.exists() or (place and not place.startswith("__") and place not in known):
                found.append(f"{path.relative_to(site)}: {target.name}#{place}")
    return found


def test_a_broken_link_is_noticed(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there">b</a> <a href="#x" id="x">x</a> <iframe src="c.html">')
    (tmp_path / "b.html").write_text('<p id="here"><a href="a.html#x">a</a>')
    assert broken(tmp_path) == ["a.html: b.html#there", "a.html: c.html#"]


def missing():
    """Why the site cannot be built here, or an empty text."""
    if importlib.util.find_spec("mkdocs") is None:
        return "mkdocs is not installed"
    parts = ("src/losskit_guide/explorer/index.html", "explorer/generated/figures.js")
    built = all((ROOT / part).exists() for part in parts)
    return "" if built and formulas_are_set() else "the explorer is not built"


def formulas_are_set():
    return (ROOT / "explorer" / "node_modules" / "temml").exists() and shutil.which("node") is not None


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built strictly: a broken link between pages, or a warning, fails. `make site` has just built it."""
    if "LOSSKIT_SITE" in os.environ:
        return ROOT / os.environ["LOSSKIT_SITE"]
    if missing():
        pytest.skip(missing())
    folder = tmp_path_factory.mktemp("site")
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_a_page_for_each_loss_and_fetches_nothing(site):
    for name, card in CARDS.items():
        page = (site / "loss" / f"{name}.html").read_text(encoding="utf-8")
        assert "<math" in page
        assert card.reference.split("(")[0].strip()[:20] in page
        if card.curve is not None:
            assert '<div class="plot"><svg' in page, name
            assert f'src="../explorer/index.html#loss={name}&amp;embed"' in page, name
        source = re.search(r'href="(\.\./source/\w+\.html)"', page)
        assert f">{card.class_name}</span>" in (site / "loss" / source[1]).read_text(encoding="utf-8")
    api = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    missing = [name for name in losskit.__all__ if f'.{name}"' not in api]
    assert not missing
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert 'src="http' not in text, path
        assert '<link rel="stylesheet" href="http' not in text, path
        assert "$$" not in text, path


def test_every_address_in_the_site_leads_somewhere(site):
    assert not broken(site)
    linked = {target for path in site.rglob("*.html") for target, _ in targets(path)}
    assert {site / "explorer" / "index.html", site / "tutorial.ipynb", site / "tutorial.html"} <= linked


def test_search_in_the_site_works_from_a_folder(site):
    """In a browser that opens the pages as files, without a server."""
    browser = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    if not Path(browser).exists():
        pytest.skip("there is no Chromium")
    command = ["node", str(ROOT / "tools" / "site" / "search.mjs"), str(site), "huber", "delta"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["titles"][0] == "HuberLoss"
    assert answer["outside"] == []
