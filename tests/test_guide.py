"""What the guide says about the losses: cards, curves, the command line. All of it against torch or the formula itself."""

import itertools
import json
import math
import subprocess
import sys

import mpmath
import pytest
import torch
from matplotlib.figure import Figure
from typer.testing import CliRunner

import losskit
from losskit import Facts, PointwiseLoss, formula, param, positive
from losskit.describe import explain
from losskit.families.base import Family
from losskit.loss import TASKS
from losskit_guide import scalar
from losskit_guide.card import LANGUAGES, catalogue
from losskit_guide.cli import app
from losskit_guide.lines import Line, line, points
from losskit_guide.machine import arguments, usual_shape

NAMES = sorted(name for name, cls in losskit.list_losses().items() if cls.__module__.startswith("losskit."))
CURVES = [(name, number) for name in NAMES for number in range(len(catalogue()[name].curve.variants))]


def run(*words):
    return CliRunner().invoke(app, list(words))


def lines(name, number, **more):
    """The line of a variant, its tensor parameters given."""
    card = catalogue()[name]
    return Line(card, {**card.curve.variants[number].switches, **more})


@pytest.mark.parametrize("name", NAMES)
def test_every_loss_has_a_whole_card(name):
    card = catalogue()[name]
    assert card.summary
    assert card.best_for
    assert card.not_for
    assert card.reference
    assert card.task in TASKS
    assert card.alternatives, "the docstring should name the loss to prefer elsewhere"
    assert any(line.startswith("Choose") for line in card.advice)
    assert any(line.startswith("Prefer") for line in card.advice)
    assert card.curve is not None
    assert card.variants
    assert {name for variant in card.variants for name in variant.arguments} == {s["name"] for s in card.symbols}
    assert card.to_dict() == explain(name).to_dict()
    for variant in card.variants:
        for text in (variant.value, *variant.gradients.values()):
            assert set(LANGUAGES) <= set(text)


@pytest.mark.parametrize("name", sorted(formula.PRIMITIVES.keys() & vars(scalar).keys()))
def test_primitives_of_floats_are_torch_s(name):
    primitive = formula.PRIMITIVES[name]
    numbers = [-1e30, -700.0, -30.0, -2.5, -1.0, -1e-9, 0.0, 1e-9, 0.3, 1.0, 2.0, 7.5, 30.0, 700.0, 1e30]
    generator = torch.Generator().manual_seed(1)
    for _ in range(300):
        picks = torch.randint(len(numbers), (primitive.arity,), generator=generator).tolist()
        x = [numbers[i] for i in picks]
        tensors = [torch.tensor(v, dtype=torch.float64) for v in x]
        if name == "where":
            x[0], tensors[0] = x[0] > 0, tensors[0] > 0
        got = float(getattr(scalar, name)(*x))
        if name in ("lgamma", "digamma", "trigamma"):
            if x[0] <= 0:
                continue  # poles: no formula goes there
            expected = float(primitive.mpmath(mpmath.mpf(x[0])))  # torch's trigamma has nine digits
        elif (name == "clamp" and x[1] > x[2]) or (name == "xlogy" and x[1] < 0):
            continue
        else:
            expected = primitive.torch(*tensors).item()
        assert got == pytest.approx(expected, rel=2e-13, abs=1e-300, nan_ok=True), (name, x)


@pytest.mark.parametrize(("name", "number"), CURVES)
def test_slope_and_curvature_are_derivatives(name, number):
    one = lines(name, number)
    variant, curve = one.variant, one.curve
    functions = [
        scalar.evaluate(t["python"], variant.arguments) for t in (variant.value, variant.slope, variant.curvature)
    ]
    numbers = {g.name: g.value for g in curve.given}
    low, high = curve.low, curve.high
    if not all(math.isfinite(one.at(x)[0]) for x in points(low, high, 11)):
        low = max(low, 0.05)
    h, checked = 1e-5, 0
    for x in points(low + 0.037 * (high - low), high - 0.041 * (high - low), 23):

        def at(f, y):
            return f(*({**numbers, curve.variable: y}[argument] for argument in variant.arguments))

        for f, df in itertools.pairwise(functions):
            left, middle, right = at(df, x - h), at(df, x), at(df, x + h)
            if abs(left - right) > 1e-3 * (1 + abs(middle)):
                continue  # a kink, or too steep for a difference
            assert (at(f, x + h) - at(f, x - h)) / (2 * h) == pytest.approx(middle, rel=1e-4, abs=1e-5), (x, f)
            checked += 1
    assert checked > 20


@pytest.mark.parametrize("name", [n for n in NAMES if losskit.get(n).__mro__[1] is PointwiseLoss])
def test_curves_are_what_the_function_computes(name):
    card = catalogue()[name]
    names = [operand["name"] for operand in card.operands]
    for x in points(card.curve.low, card.curve.high, 7):
        given = {g.name: g.value for g in card.curve.given}
        tensors = [torch.tensor([x if n == names[0] else given[n]], dtype=torch.float64) for n in names]
        tensors[0].requires_grad_()
        loss = getattr(losskit.functional, name)(*tensors, reduction="sum")
        loss.backward()
        value, slope = line(name).at(x)
        assert value == pytest.approx(loss.item(), rel=1e-12, abs=1e-14)
        assert slope == pytest.approx(tensors[0].grad.item(), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_curve_of_class_scores_is_that_of_two_classes(smoothing):
    one = line(f"cross_entropy:label_smoothing={smoothing}")
    for z in points(-6.0, 6.0, 9):
        scores = torch.tensor([[z, 0.0]], dtype=torch.float64, requires_grad=True)
        loss = losskit.functional.cross_entropy(scores, torch.tensor([0]), label_smoothing=smoothing)
        loss.backward()
        assert one.at(z) == pytest.approx((loss.item(), scores.grad[0, 0].item()), rel=1e-12)


def test_bce_against_mse_on_a_sigmoid():
    """The comparison of the tutorials: target 0, logits 0, 1.09864 and 10."""
    logits = torch.tensor([0.0, 1.09864, 10.0], dtype=torch.float64, requires_grad=True)
    for name in ("binary_cross_entropy", "mse_loss"):
        losses = getattr(torch.nn.functional, name)(logits.sigmoid(), torch.zeros(3).double(), reduction="none")
        (slopes,) = torch.autograd.grad(losses.sum(), logits)
        got = [line(name, target=0.0).at(x, "logit") for x in logits.tolist()]
        assert [value for value, _ in got] == pytest.approx(losses.tolist(), rel=1e-9)
        assert [slope for _, slope in got] == pytest.approx(slopes.tolist(), rel=1e-6)
    p = 0.3
    assert line("binary_cross_entropy_with_logits").at(p, "probability")[0] == pytest.approx(-math.log(p))
    assert line("nll_loss").at(p, "probability") == pytest.approx((-math.log(p), -1 / p))


@pytest.mark.parametrize("name", [n for n in NAMES if losskit.get(n).textbook])
def test_the_textbook_says_what_is_computed(name):
    cls = losskit.get(name)
    generator = torch.Generator().manual_seed(3)
    for traced in cls._formulas.values():
        book = traced.traced(cls.textbook)
        names = [*traced.operands, *traced.numbers]
        computed = scalar.evaluate([losskit.printing.print_expr(traced.value, "python")], names)
        printed = scalar.evaluate([losskit.printing.print_expr(book, "python")], names)
        domains = [*traced.domains, *(cls.params[n].domain for n in traced.numbers)]
        columns = [domain.sample((40,), generator).tolist() for domain in domains]
        if "p" in traced.numbers:
            columns[names.index("p")] = [1.0, 2.0] * 20
        if "cosine" in names:
            columns[names.index("cosine")] = [math.tanh(x) for x in columns[names.index("cosine")]]
            columns[names.index("cosine_distance")] = [1.0 - x for x in columns[names.index("cosine")]]
        for numbers in zip(*columns):
            expected = printed(*numbers)
            if math.isfinite(expected):
                assert computed(*numbers) == pytest.approx(expected, rel=1e-9, abs=1e-12), (names, numbers)


@pytest.mark.parametrize("name", NAMES)
def test_show(name):
    assert losskit.get(name).__name__ in run("show", name).stdout
    data = json.loads(run("show", name, "--json").stdout)
    assert data["name"] == name
    for language in ("plain", "latex", "python", "cpp", "triton", "js"):
        done = run("show", name, "--formula", language)
        assert done.exit_code == 0, done.stderr


def test_list():
    def names(*words):
        return {card["name"] for card in json.loads(run("list", *words, "--json").stdout)}

    assert names() == set(NAMES)
    assert names("--robust") == {n for n in NAMES if losskit.get(n).facts.robust}
    assert names("--task", "ranking") == {"margin_ranking_loss"}
    assert names("--family", "margins") == {"multi_margin_loss", "multilabel_margin_loss"}
    assert names("--convex", "--smooth", "--symmetric") >= {"mse_loss", "huber_loss"}
    assert "huber_loss" in run("list").stdout


def test_compare_writes_a_picture_and_a_table(tmp_path):
    out = tmp_path / "curves.png"
    done = run("compare", "huber_loss:delta=2", "mse_loss", "--at", "0,1,5", "--out", str(out), "--json")
    assert out.read_bytes().startswith(b"\x89PNG")
    huber, mse = json.loads(done.stdout)
    assert huber["value"] == [0.0, 0.5, 8.0]
    assert mse["gradient"] == [0.0, 2.0, 10.0]
    assert "huber_loss, delta=2" in run("compare", "huber_loss:delta=2", "mse_loss").stdout


def test_why_doctor_and_bench():
    assert "fused CPU kernel" in run("why", "huber_loss", "--dtype", "bf16").stdout
    assert json.loads(run("why", "ctc_loss", "--json").stdout)["loss"] == "ctc_loss"
    assert json.loads(run("doctor", "--json").stdout)["torch"] == torch.__version__
    result = json.loads(run("bench", "mse_loss", "--shape", "16,4", "--json").stdout)
    assert result["ratio"] > 0
    assert result["shape"] == [16, 4]


@pytest.mark.parametrize("name", NAMES)
def test_there_are_arguments_for_every_loss(name):
    shape = (8, 3, 5) if usual_shape(name) == (50, 16, 20) else (6, 4)
    tensors = arguments(name, torch.float32, "cpu", shape)
    assert tensors[0].shape == shape
    assert losskit.get(name)()(*tensors).isfinite()


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
        (["compare", "mse_loss", "--low", "2", "--high", "1", "--out", "x.png"], "the range 2 to 1 is empty"),
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

    assert "log1p" in str(explain(Cauchyish))
    assert "Log of one plus" in explain(Cauchyish)._repr_html_()
    assert isinstance(losskit.plot(Cauchyish), Figure)


def test_a_plot_needs_a_loss_and_an_axis():
    with pytest.raises(ValueError, match="name at least one loss to plot"):
        losskit.plot()
    with pytest.raises(ValueError, match="over must be one of own, probability, logit"):
        losskit.plot("mse_loss", over="time")
