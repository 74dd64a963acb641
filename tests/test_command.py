"""The command `losskit`, and what the guide writes for people: lists, comparisons, explanations, pictures."""

import csv
import io
import json
import math
import subprocess
import sys

import pytest
import samples
import torch
from matplotlib.figure import Figure
from rich.console import Console
from typer.testing import CliRunner

import losskit
from losskit import Facts, PointwiseLoss, formula, param, positive
from losskit.describe import explain
from losskit.families.base import Family
from losskit.machine import arguments, usual_shape
from losskit_guide import cli
from losskit_guide.card import find
from losskit_guide.cli import app, names
from losskit_guide.lines import line
from losskit_guide.render import comparison, whole

NAMES = samples.names()


def run(*words):
    return CliRunner().invoke(app, list(words))


@pytest.mark.parametrize("name", NAMES)
def test_show(name):
    assert losskit.get(name).__name__ in run("show", name).stdout
    data = json.loads(run("show", name, "--json").stdout)
    assert data["name"] == name
    composed = issubclass(losskit.get(name), losskit.ComposedLoss)  # there is no formula of numbers
    for language in ("plain", "latex") if composed else ("plain", "latex", "python", "cpp", "triton", "js"):
        done = run("show", name, "--formula", language)
        assert done.exit_code == 0, done.stderr
        assert name in done.stdout.splitlines()[0]


def test_list():
    def found(*words):
        return {card["name"] for card in json.loads(run("list", *words, "--json").stdout)}

    assert found() == {*NAMES, "linear_cross_entropy"}
    assert found("--robust") == {n for n in NAMES if losskit.get(n).facts.robust}
    assert found("--task", "detection") == {f"{kind}_box_iou_loss" for kind in ("generalized", "distance", "complete")}
    assert found("--family", "margins") == {"multi_margin_loss", "multilabel_margin_loss"}
    assert "gaussian_nll_loss" not in found("--convex")
    assert found("--convex", "--smooth", "--symmetric") >= {"mse_loss", "huber_loss"}
    *lines, head = run("list").stdout.splitlines()
    assert head.startswith("linear_cross_entropy ")
    assert len(lines) == len(NAMES)
    assert all(
        f"{name} " in line and losskit.get(name).__name__ in line for name, line in zip(NAMES, lines, strict=True)
    )
    assert "best for: Regression with moderate outliers." in " ".join(run("list", "--long").stdout.split())
    head, *rows = csv.reader(io.StringIO(run("list", "--csv").stdout))
    assert head[:2] == ["name", "class_name"]
    assert [row[0] for row in rows] == [*NAMES, "linear_cross_entropy"]


def test_compare_writes_a_picture_and_a_table(tmp_path):
    out = tmp_path / "curves.png"
    done = run("compare", "huber_loss:delta=2", "mse_loss", "--at", "0,1,5", "--out", str(out), "--json")
    assert out.read_bytes().startswith(b"\x89PNG")
    huber, mse = json.loads(done.stdout)
    assert huber["value"] == [0.0, 0.5, 8.0]
    assert mse["gradient"] == [0.0, 2.0, 10.0]
    assert "huber_loss, delta=2" in run("compare", "huber_loss:delta=2", "mse_loss").stdout


def test_tables_keep_their_digits():
    """In a pipe a table is as wide as it needs to be; --csv has all digits."""
    many = ["mse_loss", "l1_loss", "huber_loss:delta=2.5", "smooth_l1_loss:beta=0.25", "gaussian_nll_loss", "kl_div"]
    shown = run("compare", *many, "--at", "-3.14159").stdout
    assert "…" not in shown
    for number in ("9.86959", "-6.28318", "3.14159", "4.72898", "4.93479"):
        assert number in shown
    head, row = csv.reader(io.StringIO(run("compare", "mse_loss", "l1_loss", "--at", "0.1", "--csv").stdout))
    assert head == ["input", "mse_loss value", "mse_loss gradient", "l1_loss value", "l1_loss gradient"]
    assert [float(x) for x in row] == [0.1, *line("mse_loss").at(0.1), *line("l1_loss").at(0.1)]


def test_narrow_terminals_get_a_table_for_each_part():
    console = Console(width=80, force_terminal=True, file=io.StringIO())
    labels, rows = ["huber_loss, delta=2", "mse_loss", "binary_cross_entropy"], [[(1.0, 2.0)] * 3]
    tables = list(comparison(labels, "input", [0.5], rows, console))
    assert [len(table.columns) for table in tables] == [5, 3]
    assert all(whole(table, console) <= 80 for table in tables)
    wide = Console(width=200, force_terminal=True, file=io.StringIO())
    assert len(list(comparison(labels, "input", [0.5], rows, wide))) == 1


def test_version_and_completion():
    assert run("--version").stdout == f"losskit {losskit.__version__}\n"
    assert "--install-completion" in run("--help").stdout
    assert names("huber") == ["huber_loss"]


def test_explore_opens_the_page_with_the_losses(tmp_path, monkeypatch):
    page = tmp_path / "explorer" / "index.html"
    page.parent.mkdir()
    page.write_text("<html></html>")
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "cli.py"))
    opened = []
    monkeypatch.setattr(cli.webbrowser, "open", opened.append)
    done = run("explore", "huber:delta=2", "poisson:log_input=false,target=3")
    fragment = "#loss=huber_loss:delta=2&loss=poisson_nll_loss:target=3,-log_input"
    assert opened == [f"{page.as_uri()}{fragment}"]
    assert done.stdout.strip() == opened[0]
    assert "delta must be positive" in run("explore", "huber:delta=-2").stderr


PLAYGROUND = """<script type="application/json" id="named">[
{"name": "regression", "link": "play=regression"}, {"name": "classes", "link": "play=classes"},
{"name": "Huber's \\u003cb>", "link": "play=regression&loss=huber_loss&n=20"}]</script>"""


@pytest.mark.parametrize(
    "arguments, found",
    [
        (["--play", "regression"], "#play=regression"),
        (
            ["--play", "Classes", "cross_entropy", "softmax_focal_loss"],
            "#play=classes&loss=cross_entropy&loss=softmax_focal_loss",
        ),
        (["--play", "hubers b"], "#play=regression&loss=huber_loss&n=20"),
        (["--play", "regresion"], "no mode or training 'regresion'. Did you mean 'regression'?"),
        (["--play", "wind"], "There are regression; classes; Huber's <b>."),
        (["--play", "hubers b", "mse_loss"], "has losses of its own; name a mode to choose them: regression, classes"),
        (["--play", "regression", "no_loss"], "there is no loss called 'no_loss'"),
    ],
)
def test_explore_opens_the_playground(tmp_path, monkeypatch, arguments, found):
    page = tmp_path / "explorer" / "index.html"
    page.parent.mkdir()
    page.write_text(PLAYGROUND)
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "cli.py"))
    opened = []
    monkeypatch.setattr(cli.webbrowser, "open", opened.append)
    done = run("explore", *arguments)
    if found.startswith("#"):
        assert opened == [f"{page.as_uri()}{found}"]
    else:
        assert (opened, done.exit_code) == ([], 2)
        assert found in " ".join(done.stderr.split())
    page.write_text("<html></html>")
    assert "make explorer" in run("explore", "--play", "regression").stderr


def test_why_doctor_and_bench():
    assert "fused CPU kernel" in run("why", "huber_loss", "--dtype", "bf16").stdout
    assert json.loads(run("why", "ctc_loss", "--json").stdout)["loss"] == "ctc_loss"
    assert json.loads(run("doctor", "--json").stdout)["torch"] == torch.__version__
    result = json.loads(run("bench", "mse_loss", "--shape", "16,4", "--json").stdout)
    assert result["ratio"] > 0
    assert result["shape"] == [16, 4]


@pytest.mark.parametrize("name", NAMES)
def test_there_are_arguments_for_every_loss(name):
    usual = usual_shape(name)
    shape = (6, 4) if len(usual) == 2 else (8, 3, 5) if usual == (50, 16, 20) else usual
    tensors = arguments(name, torch.float32, "cpu", shape)
    assert tensors[0].shape == shape
    cls = losskit.get(name)
    assert cls(**cls._needed(shape[min(1, len(shape) - 1)]))(*tensors).isfinite()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "huber_los"], "there is no loss called 'huber_los'. Did you mean huber_loss?"),
        (["show", "qqq"], "there is no loss called 'qqq'. `losskit list` names them all."),
        (["list", "--task", "cooking"], "there is no task 'cooking'; there are binary,"),
        (["compare", "huber_loss:dleta=2"], "huber_loss has no parameter 'dleta' to set here. Did you mean delta?"),
        (["compare", "huber_loss:delta"], "'delta' is not a setting; write huber_loss:parameter=number"),
        (["compare", "huber_loss:delta=x"], "huber_loss: delta must be a number, got 'x'"),
        (["compare", "kl_div:log_target=3"], "kl_div: log_target must be True or False, got '3'"),
        (["compare", "cosine_embedding_loss", "--over", "logit"], "a cosine cannot be drawn over a logit"),
        (["compare", "mse_loss", "--low", "2", "--high", "1"], "the range 2 to 1 is empty"),
        (["compare", "mse_loss", "--low", "5"], "the range 5 to 4 is empty"),
        (["compare", "huber_loss:delta=-2"], "huber_loss: delta must be positive, got -2"),
        (["compare", "huber_loss:delta=nan"], "huber_loss: delta must be positive, got nan"),
        (["compare", "gaussian_nll_loss:var=-1"], "gaussian_nll_loss: var must be non-negative, got -1"),
        (["compare", "cross_entropy:label_smoothing=2"], "cross_entropy: label_smoothing must be in [0, 1], got 2"),
        (["compare", "soft_margin_loss:target=0"], "soft_margin_loss: target must be -1 or 1, got 0"),
        (["compare", "multi_margin_loss:p=1.5"], "multi_margin_loss: p must be 1 or 2, got 1.5"),
        (["compare", "kl_div:target=-1"], "kl_div: target must be non-negative, got -1"),
        (["compare", "binary_cross_entropy", "--at", "2"], "binary_cross_entropy: input must be in [0, 1], got 2"),
        (["compare", "binary_cross_entropy", "--high", "2"], "binary_cross_entropy: input must be in [0, 1], got 2"),
        (["compare", "mse_loss", "--over", "probability", "--at", "-1"], "a probability is in [0, 1], got -1"),
        (["compare", "mse_loss", "--given", "target"], "--given takes setting=number, such as target=0, got 'target'"),
        (["compare", "mse_loss", "--given", "targt=0"], "none of these losses has a setting 'targt'; they have target"),
        (["compare", "mse_loss", "--at", "1,a"], "--at takes numbers separated by commas, got 'a'"),
        (["compare", "mse_loss", "--ot", "x"], "No such option: --ot"),
        (["compare"], "Missing argument"),
        (["sow"], "No such command 'sow'."),
        (["show", "focal_loss"], "there is no loss called 'focal_loss'; it may mean sigmoid_focal_loss (a label for"),
        (["why", "mse_loss", "--dtype", "int8"], "the dtype must be one of float32,"),
        (["why", "mse_loss", "--shape", "3,a"], "a shape is numbers such as 32,10, got '3,a'"),
        (["show", "mse_loss", "--png", "/nowhere/at/all.png"], "/nowhere/at/all.png cannot be written:"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_on_stderr(words, message):
    done = run(*words)
    assert done.exit_code == 2
    assert done.stderr.startswith(message)
    assert done.stdout == ""


def test_list_and_show_need_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from losskit_guide.cli import app; r = CliRunner();"
        "assert r.invoke(app, ['list']).exit_code == 0 and r.invoke(app, ['show', 'huber_loss']).exit_code == 0;"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_explain_takes_names_classes_and_instances_of_users_losses_too():
    class Quartic(PointwiseLoss):
        """Fourth power of the error, over a scale.

        Choose it in tests. Prefer MSELoss elsewhere.
        """

        scale: float = param(default=1.0, domain=positive, doc="Scale.")
        operands = losskit.MSELoss.operands
        arguments = "reduction scale"
        facts = Facts(convex=True, smooth=True, lipschitz=None, minimum=0.0, symmetric=True)

        @staticmethod
        def value(input, target, scale):
            return ((input - target) / scale) ** 2 * ((input - target) / scale) ** 2

    card = explain(Quartic(scale=2.0))
    assert card.values == {"scale": 2.0}
    assert card.alternatives == ["mse_loss"]
    assert "Fourth power" in str(card)
    assert "$$" in card._repr_html_()
    assert card._repr_latex_().startswith("$$")
    assert isinstance(losskit.plot(Quartic(scale=2.0), Quartic, "mse_loss", target=0.5), Figure)
    assert explain(Quartic).values == {}
    assert issubclass(Quartic, Family)


def test_explain_is_content_with_little():
    class Cauchyish(PointwiseLoss):
        """Log of one plus the square."""

        @staticmethod
        def value(input, target):
            return formula.log1p((input - target) ** 2)

    assert "ℓ = log(1 + (x − t)²)" in str(explain(Cauchyish))
    assert "Log of one plus" in explain(Cauchyish)._repr_html_()
    assert isinstance(losskit.plot(Cauchyish), Figure)


def test_a_plot_needs_a_loss_and_an_axis():
    with pytest.raises(ValueError, match="name at least one loss to plot"):
        losskit.plot()
    with pytest.raises(ValueError, match="over must be one of own, probability, logit"):
        losskit.plot("mse_loss", over="time")
    with pytest.raises(ValueError, match="huber_loss: delta must be positive, got -2"):
        losskit.plot("huber_loss", delta=-2.0)
    with pytest.raises(ValueError, match="huber_loss: delta must be positive, got -2"):
        losskit.plot("huber_loss:delta=-2")
    with pytest.raises(ValueError, match=r"none of these losses has a setting 'sigma'"):
        losskit.plot("huber_loss", sigma=1.0)
    with pytest.raises(ValueError, match="the range 3 to -3 is empty"):
        losskit.plot("huber_loss", low=3.0, high=-3.0)


def test_pictures_and_pages_show_themselves():
    """In a notebook without a magic line; at Python's prompt a card is its page."""
    drawn = losskit.plot("mse_loss")
    assert drawn._repr_png_().startswith(b"\x89PNG")
    assert isinstance(drawn, Figure)
    card = losskit.explain(losskit.HuberLoss(delta=2.0))
    assert repr(card) == str(card)
    assert "delta = 2.0 (by default 1.0)" in str(card)
    assert "delta = 1.0:" in str(losskit.explain("huber_loss"))
    page = card._repr_html_()
    assert '<img alt="Value and gradient of HuberLoss"' in page
    assert "delta = 2.0 (by default 1.0)" in page
    poisson = str(losskit.explain(losskit.PoissonNLLLoss(log_input=False)))
    assert poisson.index("x − t·log(x + ε)") < poisson.index("exp(x) − t·x")


def test_a_loss_has_no_value_where_it_is_not_defined():
    assert math.isnan(line("binary_cross_entropy").at(1.5)[0])
    assert math.isnan(line("poisson_nll_loss:log_input=False").at(-1.0)[0])
    assert math.isfinite(line("poisson_nll_loss").at(-1.0)[0])
    values = json.loads(run("compare", "mse_loss", "binary_cross_entropy", "--at", "0.5,2", "--json").stdout)
    assert values[0]["value"] == [0.25, 4.0]
    assert values[1]["value"][1] == "nan"
    drawn = losskit.plot("mse_loss", "binary_cross_entropy", low=-1.0, high=2.0)
    assert [max(one.get_xdata()) > 1.0 for one in drawn.axes[0].lines] == [True, False]


@pytest.mark.parametrize(
    ("text", "name"),
    [("bce", "binary_cross_entropy"), ("Huber", "huber_loss"), ("mae", "l1_loss"), ("L2", "mse_loss"), ("kl", "kl_div"),
     ("BCE with logits", "binary_cross_entropy_with_logits"), ("cross-entropy", "cross_entropy"), ("ctc", "ctc_loss"),
     ("triplet", "triplet_margin_loss"), ("SmoothL1", "smooth_l1_loss"), ("nll", "nll_loss")],
)  # fmt: skip
def test_aliases_are_one_table(text, name):
    assert losskit.get(text).name == find(text).name == name
    assert run("show", text, "--formula", "plain").stdout.startswith(f"# {name}: loss")


def test_curves_differ_in_dashes_and_colours():
    drawn = losskit.plot(*["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "poisson_nll_loss"]).axes[0].lines
    assert len({one.get_linestyle() for one in drawn[:4]}) == 4
    assert len({(str(one.get_linestyle()), one.get_color()) for one in drawn}) == 5
    shown = run("show", "mse_loss").stdout
    assert "value" in shown.splitlines()[-1]


def test_a_head_is_shown_explained_and_made_like_a_loss():
    assert "linear_weight: Weights of shape (C, D)" in run("show", "flce").stdout
    assert "rows at a time" in run("why", "linear_cross_entropy", "--shape", "64,8").stdout
    assert "any loss of class scores" in " ".join(run("show", "linear").stdout.split())
    assert losskit.get("linear") is losskit.LinearLoss
    assert losskit.get("LinearCrossEntropyLoss") is losskit.LinearCrossEntropyLoss
    head = losskit.create({"name": "linear", "criterion": {"name": "softmax_focal_loss", "gamma": 1}, "z_loss": 1e-4})
    assert (head.criterion.gamma, head.z_loss) == (1.0, 1e-4)
    card = losskit.explain(head)
    assert card.class_name == "linear(SoftmaxFocalLoss)"
    assert [x["name"] for x in card.operands] == ["input", "linear_weight", "target"]
    of_two = losskit.explain(losskit.linear(losskit.KnowledgeDistillationLoss())).operands
    assert [x["name"] for x in of_two] == ["input", "linear_weight", "target", "teacher_weight"]
    assert of_two[2]["doc"].startswith("The teacher's scores, (..., C); or its features")
    x, weight, target = torch.zeros(6, 3), torch.zeros(4, 3), torch.zeros(6, dtype=torch.int64)
    assert "6 of 6 rows" in str(losskit.why(losskit.linear(losskit.CrossEntropyLoss()), x, weight, target))
    wanted = losskit.CrossEntropyLoss(torch.ones(4, requires_grad=True))
    assert losskit.why(losskit.linear(wanted), x, weight, target).implementation == "all scores at once"
