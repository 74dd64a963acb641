"""The microscope for people: its words, the command, its pictures, the figure of the site."""

from __future__ import annotations

import builtins
import contextlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from losskit.machine import magnified
from losskit_guide.cli import app
from losskit_guide.micrograph import axis_of, edges, lost
from losskit_guide.microscope import (
    LOSES,
    WHO,
    ZERO,
    Shot,
    approximate,
    data,
    headline,
    literal,
    table,
)  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools" / "site"))
sys.path.insert(1, str(ROOT / "tools"))


@cache
def seen(name, dtype="f32"):
    return magnified(name, dtype)


def run(*words):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_words():
    found = seen("cross_entropy")
    assert (
        headline(found) == "torch has stretches without a right digit in float32; losskit keeps its digits everywhere."
    )
    told = table(found)
    assert [list(dict.fromkeys(dtype for dtype, _ in rows if dtype)) for rows in told.values()] == [["float32"]] * 2
    assert told["losskit"][0][1].startswith("keeps its digits, off by ")
    assert approximate("-1.23456e-500") == "-1.23e-500"
    assert approximate("0.000123456", 2) == "0.00012"
    assert (literal(16.64), literal(1.0), literal(1e-45)) == ("16.64", "1", "1e-45")
    assert Shot(1.0, 8.0, LOSES).lost == 3.0
    by_hand = seen("log_cosh_loss")
    assert by_hand.title("torch") == "torch by hand"
    assert by_hand.calls["torch"] == "losskit.LogCoshLoss.textbook(input=input, target=target)"


# ---------------------------------------------------------------------------------------------------------
# The command


def test_the_command():
    done = run("microscope", "cross_entropy", "--dtype", "bf16")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "bfloat16  gradient is 0 from 5.559 to 91.82; at 5.559 the truth is -0.00382" in done.stdout
    assert (
        "\nimport torch; input = torch.tensor([[5.559, 0.0]], dtype=torch.bfloat16, requires_grad=True)" in done.stdout
    )


def test_the_guide_has_the_lines_that_the_command_prints(capsys):
    guide = (ROOT / "docs" / "guides" / "precision.md").read_text(encoding="utf-8")
    found = seen("cross_entropy", "bf16")
    worst = found.worst("torch")
    lines = found.lines(worst.dtype, "torch", worst.worst)
    assert "\n".join(lines) in guide
    exec("\n".join(lines), {})
    assert f"They print `{capsys.readouterr().out.strip()}`" in guide


def test_the_command_prints_data():
    done = run("microscope", "cross_entropy", "--dtype", "float32", "--json")
    told = json.loads(done.stdout)
    (points,) = [film["points"] for film in told["dtypes"].values()]
    assert told["calls"]["torch"] == "torch.nn.functional.cross_entropy(input, target, reduction='none')"
    assert len(points) == len(seen("cross_entropy").films[0].points)
    assert points[0].keys() == {"x", "truth", "torch", "losskit"}
    worst = told["dtypes"]["float32"]["stretches"][0]
    assert (worst["from"], worst["kind"], len(worst["lines"])) == (16.64, ZERO, 2)
    assert told["dtypes"]["float32"] == json.loads(json.dumps(data(seen("cross_entropy"))["dtypes"]["float32"]))


@pytest.mark.parametrize("kind", ["svg", "pdf", "png"])
def test_the_command_draws(kind, tmp_path):
    out = tmp_path / f"map.{kind}"
    done = run("microscope", "soft_margin_loss", "--dtype", "f32", "--out", str(out))
    assert done.exit_code == 0
    assert f"wrote {out}" in done.stderr.replace("\n", "")
    assert out.read_bytes().startswith({"svg": b"<svg", "pdf": b"%PDF", "png": b"\x89PNG"}[kind])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cross_entrop"], "there is no loss called 'cross_entrop'. Did you mean cross_entropy?"),
        (["mse_loss:delta=2"], "mse_loss has no parameter 'delta' to set here."),
        (["mse_loss", "--dtype", "f8"], "the dtype must be one of f64, f32, bf16, f16, all, got 'f8'"),
        (["mse_loss", "--dtype", "f16", "--out", "a.gif"], "a.gif must end in .svg, .pdf or .png"),
        (
            ["mse_loss", "--dtype", "f16", "--out", "/nowhere/at/all.png"],
            "/nowhere/at/all.png cannot be written: No such",
        ),
        (["ssim_loss"], "ssim_loss is no function of one number in a call, which the microscope needs; `losskit audit"),
        (
            ["poly_cross_entropy:label_smoothing=0.1"],
            "poly_cross_entropy: the formula by hand, which the microscope compares",
        ),
        (["ctc_loss"], "ctc_loss is no function of one number in a call"),
        (["list_net_loss"], "list_net_loss is no function of one number in a call"),
        (["arcface_loss"], "arcface_loss is no function of one number in a call"),
        (["linear_cross_entropy"], "linear_cross_entropy is no function of one number in a call"),
    ],
)
def test_mistakes_are_one_sentence(words, message):
    done = run("microscope", *words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr.replace("\n", " ")


def test_without_mpmath_it_says_what_to_install(monkeypatch):
    there = builtins.__import__

    def without(name, *rest):
        if name == "mpmath":
            raise ModuleNotFoundError("No module named 'mpmath'", name="mpmath")
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    done = run("microscope", "mse_loss")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.replace("\n", " ").strip() == "losskit microscope needs mpmath: pip install mpmath"


# ---------------------------------------------------------------------------------------------------------
# Pictures


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy", "nll_loss", "hinge_embedding_loss"])
def test_places_are_in_order_and_on_the_paper(name):
    found = seen(name, "all")
    axis = axis_of(found)
    for film in found.films:
        places = [axis.place(point.x) for point in film.points]
        assert places == sorted(places)
        assert -1e-9 <= places[0] <= places[-1] <= 1 + 1e-9
        pieces = edges(film, axis)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(pieces))
        heights = [lost(shot, film.dtype) for p in film.points for shot in p.shots["torch"].values()]
        assert all(0.0 <= x <= 1.0 for x in heights)
    assert axis.ticks() == sorted(axis.ticks())
    assert len(axis.ticks()) > 5


def test_the_figure_of_the_site():
    """Its section has the worst in words, its data each point; a loss without a view has neither."""
    import magnified as site

    section, script = site.look("cross_entropy")
    assert "| float32 | torch | gradient is 0 from 16.64 to 103.2; at 16.64 the truth is -5.93e-8 |" in section
    assert '<script defer src="../microscope/cross_entropy.js"></script>' in section
    head, _, told = script.partition(" = ")
    assert head == '(window.losskitMicroscope ??= {})["cross_entropy"]'
    found = json.loads(told.rstrip().rstrip(";"))
    film = next(film for film in found["films"] if film["dtype"] == "float32")
    (own,) = seen("cross_entropy").films
    assert film["x"] == [point.x for point in own.points]
    assert film["truth"]["gradient"] == [point.told["gradient"] for point in own.points]
    torchs, ours = (film["shots"][who]["gradient"] for who in WHO)
    for i, point in enumerate(own.points):
        assert float(torchs["results"][i] or ours["results"][i]) == pytest.approx(
            point.shots["torch"]["gradient"].result
        )
    assert torchs["kinds"].count("z") == sum(p.shots["torch"]["gradient"].kind == ZERO for p in own.points) > 5
    assert found["lines"] == seen("cross_entropy", "all").template
    assert site.look("ssim_loss") is None
    assert site.look("boundary_loss") is None, "by hand it is right everywhere"


def test_the_figure_in_a_browser(tmp_path):
    """It starts at the worst point, follows keys and pointer, fits a phone, and its lines compute what it tells."""
    browser = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    driver = ROOT / "explorer" / "node_modules" / "playwright-core"
    if not (Path(browser).exists() and driver.exists() and shutil.which("node")):
        pytest.skip("there is no Chromium, or no driver for it")
    import magnified as site

    section, script = site.look("cross_entropy")
    for folder in ("loss", "microscope", "scripts"):
        (tmp_path / folder).mkdir()
    (tmp_path / "microscope" / "cross_entropy.js").write_text(script, encoding="utf-8")
    shutil.copy(ROOT / "docs" / "scripts" / "microscope.js", tmp_path / "scripts")
    styles = (ROOT / "docs" / "style.css").read_text(encoding="utf-8")
    page = tmp_path / "loss" / "cross_entropy.html"
    figure = section.partition("\n\n|")[0]
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><style>{styles}</style><body class="md-typeset">{figure}',
        encoding="utf-8",
    )
    command = ["node", str(ROOT / "tools" / "site" / "microscope.mjs"), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["errors"], found["outside"], found["zoomed"], found["pressed"]) == ([], [], True, ["value"])
    assert found["wide"] <= 360
    told = {found[name]["caption"] for name in ("worst", "moved", "clicked")}
    assert len(told) == 3
    assert found["worst"]["caption"].startswith("float32, score margin = 16.")
    assert found["worst"]["cells"][3] == "0 0, which is wrong"
    assert found["moved"]["caption"].startswith("bfloat16, ")
    for name in ("worst", "moved", "clicked"):
        for lines in found[name]["lines"]:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(lines, {})
            value, gradient, _, *truth = printed.getvalue().split()
            place = 4 if "losskit" in lines else 2
            assert [float(x.split()[0]) for x in found[name]["cells"][place : place + 2]] == pytest.approx(
                [float(value), float(gradient)], rel=1e-3
            )
            assert truth == found[name]["cells"][:2]
