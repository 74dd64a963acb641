"""The microscope: its truth against mpmath by hand, the faults of torch that are known, the lines that it prints, and
what losskit's own map shows."""

from __future__ import annotations

import builtins
import itertools
import json
import math
import sys
from functools import cache
from pathlib import Path

import mpmath
import pytest
import torch
from mpmath import mpf
from typer.testing import CliRunner

import losskit
from losskit import microscope as looking
from losskit.machine import magnified
from losskit_guide.card import catalogue
from losskit_guide.cli import app
from losskit_guide.micrograph import axis_of, edges, lost
from losskit_guide.microscope import (
    BITS,
    INFINITE,
    LOSES,
    NAN,
    RIGHT,
    WHATS,
    WHO,
    WRONG,
    ZERO,
    Shot,
    approximate,
    data,
    headline,
    literal,
    shown,
    table,
)  # fmt: skip

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools" / "site"))

NATIVE = sorted(
    name for name, card in catalogue().items()
    if hasattr(torch.nn.functional, name) and card.curve and losskit.get(name)._sight(card.usual)
)  # fmt: skip


@cache
def seen(name, dtype="f32"):
    return magnified(name, dtype)


def run(*words):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200", "NO_COLOR": "1"})


def stretch(name, dtype, what, kind, who="torch"):
    """The largest stretch of a kind, by its number of points."""
    found = [s for s in seen(name, dtype).stretches if (s.who, s.what, s.kind) == (who, what, kind)]
    assert found, f"{name}: {who}'s {what} is nowhere {kind}"
    ends = [(-math.inf if s.start is None else s.start, math.inf if s.end is None else s.end) for s in found]
    return max(zip(found, ends), key=lambda pair: pair[1][1] - pair[1][0])[0]


# ---------------------------------------------------------------------------------------------------------
# Truth


def softplus(x):
    return mpmath.log1p(mpmath.exp(x)) if x < 1e6 else x


BY_HAND = {  # value and gradient at a number, as mpmath's, written without losskit
    "cross_entropy": lambda x: (softplus(-x), -1 / (1 + mpmath.exp(x)) if x < 1e6 else mpf(0)),
    "binary_cross_entropy": lambda x: (-mpmath.log(x), -1 / x),
    "mse_loss": lambda x: (x * x, 2 * x),
    "log_cosh_loss": lambda x: (abs(x) + mpmath.log1p(mpmath.exp(-2 * abs(x))) - mpmath.log(2), mpmath.tanh(x)),
    "gaussian_nll_loss": lambda x: (x * x / 2, x),
    "poisson_nll_loss": lambda x: (mpmath.exp(x) - x, mpmath.expm1(x)),
    "soft_margin_loss": lambda x: (softplus(-x), -1 / (1 + mpmath.exp(x)) if x < 1e6 else mpf(0)),
    "knowledge_distillation_loss": lambda x: divergence(x),
    "gaussian_crps_loss": lambda x: (
        x * mpmath.erf(x / mpmath.sqrt(2)) + mpmath.sqrt(2 / mpmath.pi) * mpmath.exp(-x * x / 2) - 1 / mpmath.sqrt(mpmath.pi),
        mpmath.erf(x / mpmath.sqrt(2)),
    ),
}  # fmt: skip


def divergence(x):
    """Of two classes: the teacher's margin is 1, the student's x."""
    q, p = 1 / (1 + mpmath.exp(-1)), 1 / (1 + mpmath.exp(-x))
    log_p, log_r = -softplus(-x), -softplus(x)
    value = q * (mpmath.log(q) - log_p) + (1 - q) * (mpmath.log(1 - q) - log_r)
    return value, p - q


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16"])
@pytest.mark.parametrize("name", BY_HAND)
def test_the_truth_is_mpmaths(name, dtype):
    """Every third point of the grid, with all the digits that are told, where a formula by hand is no trouble."""
    checked = 0
    (film,) = seen(name, dtype).films
    for point in film.points[::3]:
        if not 1e-30 < abs(point.exact) < 600 or (name == "binary_cross_entropy" and point.exact > 0.999):
            continue
        with mpmath.workdps(700):
            for what, truth in zip(WHATS, BY_HAND[name](mpf(point.exact)), strict=True):
                told = mpf(point.told[what])
                assert abs(told - truth) <= abs(truth) * mpf(10) ** -(BITS[film.dtype] * 0.302), (point.x, what)
                checked += 1
    assert checked > (30 if name == "binary_cross_entropy" else 50)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_errors_are_units_in_the_last_place(dtype):
    """Cross entropy in torch, point by point: the result, the truth, and their distance counted by hand."""
    info = torch.finfo(getattr(torch, {"f32": "float32", "f16": "float16"}[dtype]))
    checked = 0
    for point in seen("cross_entropy", dtype).films[0].points:
        if not -80 < point.exact < 9 or abs(point.exact) < 1e-3:
            continue
        shot = point.shots["torch"]["value"]
        with mpmath.workdps(60):
            truth = softplus(-mpf(point.exact))
            unit = mpmath.ldexp(1, int(mpmath.floor(mpmath.log(truth, 2)))) * info.eps
            unit = max(unit, mpf(info.smallest_normal) * info.eps)
            assert shot.error == pytest.approx(float(abs(shot.result - truth) / unit), rel=1e-6, abs=1e-6)
        checked += 1
    assert checked > 40


def test_what_a_result_is():
    def shot(result, truth):
        return looking._shot(result, mpf(truth), torch.float32).kind

    assert shot(1.0, "1.00000001") == RIGHT
    assert shot(1.001, "1") == LOSES
    assert shot(2.0, "1") == WRONG
    assert shot(-1.0, "1") == WRONG
    assert shot(0.0, "1e-38") == ZERO
    assert shot(0.0, "1e-60") == RIGHT, "it rounds to 0"
    assert shot(0.0, "0") == RIGHT
    assert shot(math.inf, "1e30") == INFINITE
    assert shot(math.inf, "1e300") == RIGHT, "it is beyond float32"
    assert shot(-math.inf, "1e300") == WRONG
    assert shot(math.nan, "1") == NAN
    assert shot(1e-45, "1.2e-45") == RIGHT, "of a subnormal no other number is nearer"


def test_digits_that_cancel_are_computed_again_with_more():
    """log(1 - sigmoid(x)) at 100 needs 44 digits, and at 1500 652: 90 would make it -inf."""
    line = looking.Line(catalogue()["binary_cross_entropy_with_logits"], {"target": 0.0})
    sight = losskit.get("binary_cross_entropy_with_logits")._sight(line.variant.switches)
    exact = looking._truths(line, sight, torch.float64)
    for x in (100.0, 1500.0, 1e5, 1e300):
        value, gradient = exact(x)
        assert float(value) == x
        assert float(gradient) == 1.0
    assert float(exact(-700.0)[0]) == pytest.approx(math.exp(-700.0), rel=1e-12)


def test_no_truth_at_a_corner():
    """Quantile regression at 0 has a slope by convention."""
    point = next(p for p in seen("pinball_loss").films[0].points if p.exact == 0.0)
    assert point.told["gradient"] == ""
    assert "gradient" not in point.shots["losskit"]


# ---------------------------------------------------------------------------------------------------------
# Torch's faults, as they are known; where they begin is arithmetic


@pytest.mark.parametrize(
    ("name", "dtype", "what", "kind", "start", "end"),
    [
        # A right row: exp(-x) is lost beside 1 from half a unit of it on, and exists down to half the smallest number.
        ("cross_entropy", "f32", "gradient", ZERO, 24 * math.log(2), 150 * math.log(2)),
        ("cross_entropy", "f64", "gradient", ZERO, 53 * math.log(2), 1075 * math.log(2)),
        ("cross_entropy", "bf16", "gradient", ZERO, 8 * math.log(2), 133 * math.log(2)),
        ("binary_cross_entropy_with_logits", "f32", "gradient", ZERO, 24 * math.log(2), 150 * math.log(2)),
        # exp(-x) overflows: #77529
        ("soft_margin_loss", "f32", "gradient", NAN, None, -128 * math.log(2)),
        ("soft_margin_loss", "f16", "gradient", NAN, None, -16 * math.log(2)),
        # The gradient is clamped at 1e-12, so that 1 / p ends there.
        ("binary_cross_entropy", "f32", "gradient", WRONG, None, 5e-13),
    ],
)
def test_faults_of_torch_that_are_known(name, dtype, what, kind, start, end):
    found = stretch(name, dtype, what, kind)
    if start is None:
        assert found.start is None
    else:
        assert found.start == pytest.approx(start, rel=3e-2)
    assert found.end == pytest.approx(end, rel=3e-2)
    assert not [s for s in seen(name, dtype).stretches if (s.who, s.what, s.kind) == ("losskit", what, kind)]


def test_more_faults_of_torch():
    """Cosine embedding at small norms and at large ones; the variance of a Gaussian whose residual has no square."""
    kinds = {s.kind for s in seen("cosine_embedding_loss").stretches if s.who == "torch"}
    assert {WRONG, NAN} & kinds
    assert stretch("gaussian_nll_loss", "f16", "value", INFINITE).end == pytest.approx(-256.0, rel=1e-3) or (
        stretch("gaussian_nll_loss", "f16", "value", INFINITE).start == pytest.approx(256.0, rel=1e-3)
    )


@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits", "soft_margin_loss", "mse_loss"])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
def test_losskit_is_within_its_bars(name, dtype):
    """No terms of these cancel, so that each error is one in units of the result: 0.51 in halves, as said there."""
    bar = 3.5 if dtype in ("f32", "f64") else 0.51
    found = seen(name, dtype)
    assert not [s for s in found.stretches if s.who == "losskit"]
    errors = [(shot.error, p.x) for p in found.films[0].points for shot in p.shots["losskit"].values()]
    assert max(errors)[0] <= bar, max(errors)
    assert len(errors) > 300


@pytest.mark.parametrize("name", NATIVE)
def test_every_loss_that_torch_has(name):
    """Both are looked at, everywhere where there is a truth. Where torch is right, losskit has right digits; but where
    distances cancel to almost nothing, luck decides."""
    found = seen(name)
    (film,) = found.films
    assert found.native
    assert not film.refused
    assert len(film.points) > 80
    for point in film.points:
        for what in WHATS:
            there = bool(point.told[what])
            assert (what in point.shots["torch"]) == (what in point.shots["losskit"]) == there
            if there and point.shots["torch"][what].kind == RIGHT and abs(point.truth[what]) > 1e-12:
                assert point.shots["losskit"][what].kind in (RIGHT, LOSES), (what, point)
    assert sum(not point.told["gradient"] for point in film.points) <= 20


# ---------------------------------------------------------------------------------------------------------
# Lines


@pytest.mark.parametrize(
    "name",
    ["cross_entropy", "binary_cross_entropy_with_logits:pos_weight=2.5", "cosine_embedding_loss", "log_cosh_loss",
     "multi_margin_loss:p=2", "jensen_shannon_loss", "poly_cross_entropy:epsilon=2",
     "multilabel_soft_margin_loss", "nll_loss", "triplet_margin_loss", "generalized_box_iou_loss", "z_loss",
     "poisson_nll_loss:log_input=false,full=true", "sigmoid_focal_loss"],
)  # fmt: skip
def test_lines_compute_the_point_again(name, capsys):
    """Two lines of Python, alone in a namespace, print value, gradient and truth as they were measured."""
    found = seen(name)
    (film,) = found.films
    for who in WHO:
        for point in [*film.points[:: len(film.points) // 9], *(s.worst for s in film.stretches if s.who == who)][:14]:
            lines = found.lines(film.dtype, who, point)
            assert len(lines) == 2
            exec("\n".join(lines), {})
            value, gradient, *told = capsys.readouterr().out.split()
            for what, printed in zip(WHATS, (value, gradient)):
                shot = point.shots[who].get(what)
                if shot is not None:
                    assert (
                        float(printed) == shot.result or math.isnan(shot.result) == math.isnan(float(printed)) is True
                    )
            assert told == ["truth:", *(point.told[what] or "none" for what in WHATS)]


def test_the_most_telling_point_is_ordinary_and_a_gradients():
    worst = seen("cross_entropy", "all").worst("torch")
    assert (worst.dtype, worst.what, worst.kind) == ("float32", "gradient", ZERO)
    assert worst.sentence == "gradient is 0 from 16.64 to 103.2; at 16.64 the truth is -5.93e-8"
    assert seen("cross_entropy", "all").worst("losskit") is None
    assert [who for who, _, _ in shown(seen("cross_entropy"))] == ["torch"]


def test_words():
    found = seen("cross_entropy")
    assert (
        headline(found) == "torch has stretches without a right digit in float32; losskit keeps its digits everywhere."
    )
    told = table(found)
    assert [list(dict.fromkeys(dtype for dtype, _ in rows if dtype)) for rows in told.values()] == [["float32"]] * 2
    assert told["losskit"][0][1].startswith("right everywhere, off by ")
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
    guide = (Path(__file__).resolve().parent.parent / "docs" / "guides" / "precision.md").read_text(encoding="utf-8")
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
