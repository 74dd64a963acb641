"""`losskit.explain` of a batch: numbers are losskit's own, nothing is left out silently, and the live page is given the rows."""

import builtins
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import losskit
from losskit import batches as computed
from losskit.loss import registered
from losskit.machine import arguments, usual_shape
from losskit_guide import batches as shown
from losskit_guide.batches import on_curve, page
from losskit_guide.card import catalogue

torch.manual_seed(0)
TARGET = torch.randn(150)
INPUT = TARGET + 0.3 * torch.randn(150)
INPUT[17] += 9.0
SCORES, LABELS = 2.0 * torch.randn(40, 7), torch.randint(7, (40,))


def test_losses_and_pulls_are_losskit_s():
    found = losskit.explain(losskit.HuberLoss(delta=0.5), INPUT, TARGET)
    x = INPUT.double().requires_grad_()
    loss = losskit.HuberLoss(delta=0.5)(x, TARGET.double())
    loss.backward()
    assert found.value == pytest.approx(loss.item())
    torch.testing.assert_close(found.pulls, x.grad.abs())
    torch.testing.assert_close(found.losses, losskit.functional.huber_loss(x.detach(), TARGET.double(), "none", 0.5))
    assert int(found.losses.argmax()) == 17
    assert isinstance(losskit.explain(losskit.HuberLoss), type(losskit.explain("huber_loss"))), (
        "without operands: a card"
    )


def test_names_classes_and_operands_by_name_are_the_same_batch():
    whole = str(losskit.explain("huber_loss", INPUT, TARGET))
    assert str(losskit.explain(losskit.HuberLoss, INPUT, target=TARGET)) == whole
    assert str(losskit.explain(losskit.HuberLoss(), input=INPUT, target=TARGET)) == whole


@pytest.mark.parametrize("shape", [(40, 7), (5, 7, 8), (2, 7, 4, 5)])
def test_rows_of_class_scores(shape):
    """The classes are in dimension 1, wherever rows are."""
    scores, labels = torch.randn(shape).double(), torch.randint(7, (40,)).reshape(shape[0], *shape[2:])
    found = losskit.explain("cross_entropy", scores, labels)
    wanted = F.cross_entropy(scores, labels, reduction="none").reshape(-1)
    torch.testing.assert_close(found.losses, wanted)
    slope = torch.func.grad(lambda x: F.cross_entropy(x, labels))(scores)
    torch.testing.assert_close(found.pulls, slope.movedim(1, -1).reshape(-1, 7).norm(dim=1))
    flat = scores.movedim(1, -1).reshape(-1, 7)
    assert found.table.columns["class"] == labels.reshape(-1).tolist()
    assert found.table.columns["score3"] == flat[:, 3].tolist()


def test_elements_are_rows_also_where_operands_broadcast():
    x, t, var = torch.randn(6, 5), torch.randn(6, 5), torch.rand(6, 1) + 0.5
    found = losskit.explain("gaussian_nll_loss", x, t, var)
    assert len(found.losses) == 30
    assert found.table.columns["var"] == var.double().expand(6, 5).reshape(-1).tolist()
    assert losskit.explain("mse_loss", torch.tensor(1.0), torch.tensor(3.0)).losses.tolist() == [4.0]


@pytest.mark.parametrize("name", ["triplet_margin_loss", "dice_loss", "generalized_box_iou_loss"])
def test_losses_without_rows_of_the_page_have_a_table(name):
    operands = {
        "triplet_margin_loss": lambda: torch.randn(3, 9, 4).unbind(),
        "dice_loss": lambda: (torch.randn(3, 3, 4, 4), torch.randint(3, (3, 4, 4))),
        "generalized_box_iou_loss": lambda: torch.rand(9, 2, 4).cumsum(-1)[..., [0, 1, 2, 3]].unbind(1),
    }[name]()
    found = losskit.explain(name, *operands)
    assert found.table is None
    assert len(found.losses) == 9
    assert found._repr_mimebundle_() is None
    assert found._repr_html_().count("<tr>") == 10


def test_the_user_s_tensors_stay_as_they_are():
    """No gradient, no version, no graph: a bfloat16 leaf, a part of a graph, a learned parameter of the loss."""
    leaf = INPUT.bfloat16().requires_grad_()
    inner = leaf * 2
    versions = leaf._version, inner._version, TARGET._version
    found = losskit.explain("mse_loss", inner, TARGET)
    assert leaf.grad is None
    assert inner.grad_fn is not None
    assert (leaf._version, inner._version, TARGET._version) == versions
    assert found.losses.dtype == found.pulls.dtype == torch.float64
    assert not found.losses.requires_grad
    torch.testing.assert_close(found.losses, (inner.detach().double() - TARGET.double()) ** 2)
    inner.sum().backward()
    assert leaf.grad is not None
    weight = torch.rand(7, requires_grad=True)
    criterion = losskit.CrossEntropyLoss(weight=weight * 1.0)
    losskit.explain(criterion, SCORES, LABELS)
    assert weight.grad is None
    assert criterion.weight.dtype == torch.float32
    assert criterion.weight.grad_fn is not None


def test_reductions_and_what_does_not_count():
    labels = LABELS.clone()
    labels[:3] = -100
    found = losskit.explain(losskit.CrossEntropyLoss(reduction="sum"), SCORES, labels)
    assert found.value == pytest.approx(float(F.cross_entropy(SCORES.double(), labels, reduction="sum")))
    assert "sum of the loss" in str(found)
    assert "3 rows are masked, ignored or of weight 0" in str(found)
    assert found.table.rows[0] == 3
    mask, weight = torch.ones(150, dtype=torch.bool), torch.ones(150)
    mask[4], weight[5] = False, 0.0
    found = losskit.explain(losskit.MSELoss(reduction="none"), INPUT, TARGET, mask=mask, sample_weight=weight)
    assert "2 rows are masked" in str(found)
    assert found.value == pytest.approx(
        float(losskit.MSELoss()(INPUT, TARGET, mask=mask, sample_weight=weight)), rel=1e-6
    )
    assert {4, 5}.isdisjoint(found.table.rows)
    assert found.table.notes == ["The page computes its losses without sample_weight, which it does not have."]


def test_the_dimension_of_the_batch_is_found():
    """Sequences are the second dimension of CTC's operands, also where there are as many frames."""
    for frames, batch in ((8, 3), (4, 4)):
        scores = torch.randn(frames, batch, 5).double().log_softmax(-1)
        operands = scores, torch.randint(1, 5, (batch, 2)), torch.full((batch,), frames), torch.full((batch,), 2)
        found = losskit.explain(losskit.CTCLoss(reduction="sum"), *operands)
        x = scores.clone().requires_grad_()
        losskit.CTCLoss(reduction="sum")(x, *operands[1:]).backward()
        torch.testing.assert_close(found.pulls, x.grad.square().sum((0, 2)).sqrt())


def test_what_is_not_finite_is_told():
    x = INPUT.clone()
    x[3], x[4] = float("nan"), float("inf")
    found = losskit.explain("mse_loss", x, TARGET)
    text = str(found)
    assert "2 rows have a loss that is not finite." in text
    assert "have a gradient that is NaN" in text or "2 rows have a gradient that is not finite." in text
    assert {3, 4}.isdisjoint(found.table.rows)
    assert found.table.notes == ["2 rows are left out of page and picture: an operand is not finite."]
    assert "left out of page and picture" in found._repr_html_()


def test_text():
    lines = str(losskit.explain("l1_loss", INPUT, TARGET)).splitlines()
    mean = float((INPUT.double() - TARGET.double()).abs().mean())
    assert lines[0] == f"l1_loss: 150 rows, mean of the loss {mean:.6g}."
    assert lines[1] == "2 of 150 rows have 1% of the pull."
    assert lines[3].split() == ["row", "input", "target", "loss", "pull", "share"]
    assert len(lines) == 14
    text = str(losskit.explain("cross_entropy", SCORES, LABELS))
    assert re.search(r"right -?\d.*; highest \d.* \(class \d\)", text)


def test_large_batches_are_thinned_and_it_is_told(monkeypatch):
    found = losskit.explain("mse_loss", torch.randn(25_000), torch.zeros(25_000))
    assert len(found.losses) == 25_000, "the numbers are those of all rows"
    assert found.table.rows == list(range(0, 25_000, 3))
    assert found.table.notes == ["The page and the picture have one in 3 of 25000 rows: they cannot hold all."]
    wide = losskit.explain("cross_entropy", torch.randn(9000, 50), torch.zeros(9000, dtype=torch.long))
    assert len(wide.table.rows) * 51 <= shown.CELLS
    assert "one in" in wide.table.notes[0]
    assert losskit.explain("cross_entropy", torch.randn(4, 300), torch.zeros(4, dtype=torch.long)).table is None
    monkeypatch.setattr(computed, "LARGE", 100)
    found = losskit.explain("mse_loss", INPUT, TARGET, sample_weight=torch.ones(150))
    assert "One in 2 of 150 rows is computed and shown" in str(found)
    torch.testing.assert_close(found.losses, (INPUT.double() - TARGET.double())[::2] ** 2)


@pytest.mark.parametrize(
    "call, kind, said",
    [
        (lambda: losskit.explain("hubert", INPUT, TARGET), KeyError, "no loss is called 'hubert'"),
        (lambda: losskit.explain(torch.nn.MSELoss(), INPUT, TARGET), TypeError, "explain: loss must be a loss of losskit"),
        (lambda: losskit.explain(torch.nn.MSELoss), TypeError, "explain: loss must be a loss of losskit"),
        (lambda: losskit.explain("huber_loss", INPUT), TypeError, "target must be given, too. A batch is input, target."),
        (lambda: losskit.explain("huber_loss", INPUT, TARGET, INPUT), TypeError, "a call takes input, target, got 3"),
        (lambda: losskit.explain("huber_loss", INPUT, TARGET, target=INPUT), TypeError, "target is given twice"),
        (lambda: losskit.explain("huber_loss", INPUT, TARGET, delta=2), TypeError, "unexpected keyword argument 'delta'"),
        (lambda: losskit.explain("huber_loss", [1.0], TARGET), TypeError, "input must be a tensor, got list"),
        (lambda: losskit.explain("huber_loss", INPUT.long(), TARGET), TypeError, "input must be floating point"),
        (lambda: losskit.explain("huber_loss", INPUT, TARGET[:3]), ValueError, "must have the same shape"),
        (lambda: losskit.explain("huber_loss", INPUT[:0], TARGET[:0]), ValueError, "a batch of at least one row"),
        (lambda: losskit.explain("cross_entropy", SCORES, LABELS + 9), IndexError, "must be a class in [0, 7)"),
        (lambda: losskit.explain(losskit.linear(losskit.CrossEntropyLoss()), SCORES, SCORES, LABELS), ValueError, "got a head"),
        (lambda: losskit.explain("barlow_twins_loss", SCORES, SCORES + 1), ValueError, "a number for each of 40 rows"),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence(call, kind, said):
    with pytest.raises(kind) as problem:
        call()
    text = str(problem.value)
    assert said in text
    assert "\n" not in text


# ---------------------------------------------------------------------------------------------------------
# The page and the picture


@pytest.fixture
def built(tmp_path, monkeypatch):
    """A page of the explorer as it is built, but for its scripts."""
    path = tmp_path / "explorer" / "index.html"
    path.parent.mkdir()
    path.write_text(f"<html lang='en'><body>\n{shown.MARK}\n<script>all</script></body></html>", encoding="utf-8")
    monkeypatch.setattr(shown, "files", lambda package: tmp_path)


def inside(text):
    (data,) = re.findall(r'<script type="application/json" id="batch">(.*?)</script>', text)
    return json.loads(data)


@pytest.mark.usefixtures("built")
def test_the_page_is_given_the_rows():
    found = losskit.explain(losskit.HuberLoss(delta=0.5), INPUT, TARGET)
    data = inside(page(found))
    assert data["link"] == "loss=huber_loss:delta=0.5"
    head, *rows = data["table"].split("\n")
    assert head == "input,target"
    assert [tuple(map(float, row.split(","))) for row in rows] == list(
        zip(INPUT.double().tolist(), TARGET.double().tolist(), strict=True)
    )
    assert data["rows"] == list(range(150))
    assert data["said"][0].startswith("150 rows")
    labels = losskit.explain("binary_cross_entropy_with_logits", INPUT, TARGET > 0)
    assert inside(page(labels))["table"].split("\n")[1].split(",")[1] in ("0", "1")
    link = inside(page(losskit.explain(losskit.PoissonNLLLoss(full=True), INPUT, TARGET.abs())))["link"]
    assert link == "loss=poisson_nll_loss:+full"


@pytest.mark.usefixtures("built")
def test_nothing_that_a_batch_says_ends_its_element(monkeypatch):
    found = losskit.explain("mse_loss", INPUT, TARGET)
    found.notes.append("</script><script>alert(1)</script>")
    text = page(found)
    assert text.count("<script>") == 1
    assert inside(text)["said"][-1] == found.notes[-1]
    assert "<script>alert" not in found._repr_html_()


@pytest.mark.usefixtures("built")
def test_what_the_page_does_not_have_is_told():
    found = losskit.explain(losskit.CrossEntropyLoss(weight=torch.rand(7), label_smoothing=0.1), SCORES, LABELS)
    assert inside(page(found))["link"] == "loss=cross_entropy:label_smoothing=0.1"
    assert inside(page(found))["said"][-1] == "The page computes its losses without weight, which it does not have."
    one = losskit.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0))
    found = losskit.explain(one, INPUT, (TARGET > 0).float())
    assert inside(page(found))["link"] == "loss=binary_cross_entropy_with_logits:pos_weight=3,+pos_weight"
    assert not found.table.notes

    class OwnLossOfBatches(losskit.PointwiseLoss):
        """Not in the catalogue."""

        @staticmethod
        def value(input, target):
            return (input - target) ** 2

    own = losskit.explain(OwnLossOfBatches(), INPUT, TARGET)
    assert own.table is None
    assert "Own" in own._repr_html_()


def test_rows_lie_on_the_curve():
    """A loss of a difference is moved to the curve's target; class scores are at their margin."""
    found = losskit.explain(losskit.HuberLoss(delta=0.5), INPUT, TARGET)
    losses = [float(found.losses[i]) for i in found.table.rows]
    places = on_curve(found.table, losses)
    assert places == pytest.approx((INPUT.double() - TARGET.double()).tolist())
    assert [found.table.line.at(x)[0] for x in places] == pytest.approx(losses, abs=1e-12)
    msle = losskit.explain("msle_loss", INPUT.abs(), TARGET.abs())
    assert on_curve(msle.table, msle.losses.tolist()) == INPUT.abs().double().tolist(), "no loss of a difference"
    rows = losskit.explain("cross_entropy", SCORES, LABELS)
    margins = on_curve(rows.table, rows.losses.tolist())
    assert [rows.table.line.at(x)[0] for x in margins] == pytest.approx(rows.losses.tolist())


def test_the_picture_has_every_row():
    found = losskit.explain("mse_loss", INPUT, TARGET)
    curve, histogram = shown.figure(found).axes
    assert len(curve.lines[1].get_xdata()) == 150
    assert sum(bar.get_height() for bar in histogram.patches) == 150
    low, high = curve.get_xlim()
    assert low <= min(curve.lines[1].get_xdata())
    assert max(curve.lines[1].get_xdata()) <= high


def test_without_widgets_there_is_a_picture_and_without_matplotlib_a_table(monkeypatch):
    found = losskit.explain("mse_loss", INPUT, TARGET)
    there = builtins.__import__

    def without(*names):
        def imported(name, *rest, **more):
            if name.partition(".")[0] in names:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return there(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", imported)

    without("anywidget")
    assert found._repr_mimebundle_() is None
    assert "data:image/png;base64," in found._repr_html_()
    without("anywidget", "matplotlib")
    assert "data:image" not in found._repr_html_()
    assert "The rows that pull hardest" in found._repr_html_()


@pytest.mark.usefixtures("built")
def test_the_widget_is_given_the_page(monkeypatch):
    anywidget = pytest.importorskip("anywidget")
    found = losskit.explain("mse_loss", INPUT, TARGET)
    bundle = found._repr_mimebundle_()
    assert list(bundle) == ["application/vnd.jupyter.widget-view+json"]
    with monkeypatch.context() as patched:
        made = []
        patched.setattr(anywidget.AnyWidget, "_repr_mimebundle_", lambda widget: made.append(widget) or ({}, {}))
        found._repr_mimebundle_()
    state = made[0].get_state()
    assert state["page"] == page(found)
    assert 'setAttribute("sandbox", "allow-scripts")' in state["_esm"]
    assert losskit.explain("dice_loss", torch.randn(2, 3, 4), torch.randint(3, (2, 4)))._repr_mimebundle_() is None


EXPLORER = Path(__file__).resolve().parent.parent / "explorer"
BUILT = (EXPLORER / "generated" / "catalogue.js").exists() and shutil.which("node") is not None


def of_every_loss():
    """A batch under every loss that the page has, at its defaults, and under some with other parameters."""
    for cls in registered.values():
        if cls.name in catalogue():
            usual = usual_shape(cls.name)
            shape = (
                (6, 4)
                if len(usual) == 2
                else (8, 3, 5)
                if len(usual) == 3
                else (2, 3, 4, 4)
                if len(usual) == 4
                else usual
            )
            if len(shape) < 4:
                yield (
                    cls(**cls._needed(shape[min(1, len(shape) - 1)])),
                    arguments(cls.name, torch.float64, "cpu", shape),
                )
    yield losskit.HuberLoss(delta=0.3), (INPUT, TARGET)
    yield losskit.CrossEntropyLoss(label_smoothing=0.2, ignore_index=2), (SCORES, LABELS)
    yield losskit.PoissonNLLLoss(log_input=False, full=True), (INPUT.abs(), TARGET.abs().round())
    yield losskit.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), (INPUT, (TARGET > 0).float())
    yield losskit.MultiMarginLoss(p=2, margin=0.5), (SCORES, LABELS)
    yield losskit.GaussianNLLLoss(), (INPUT, TARGET, 2.5)
    yield losskit.GaussianNLLLoss(full=True), (INPUT.view(30, 5), TARGET.view(30, 5), 0.5 + torch.rand(30, 1))
    yield losskit.GRPOLoss(beta=0.3), (*-torch.rand(2, 150), INPUT, -torch.rand(150))


@pytest.mark.skipif(not BUILT, reason="the explorer is not built")
@pytest.mark.usefixtures("built")
def test_the_page_computes_what_losskit_does():
    """Losses and gradients of every row, of every loss whose rows the page can hold."""
    found = []
    for loss, operands in of_every_loss():
        try:
            found.append(losskit.explain(loss, *operands))
        except losskit.errors.LossValueError as refused:
            assert "a loss that gives a number for each of" in str(refused)
    found = [one for one in found if one.table is not None]
    assert len(found) > 60
    given = json.dumps([inside(page(one)) for one in found])
    script = ["node", str(EXPLORER / "tests" / "batch.mjs")]
    done = subprocess.run(script, input=given, capture_output=True, text=True, check=True, encoding="utf8")
    for one, theirs in zip(found, json.loads(done.stdout), strict=True):
        assert theirs["problems"] == [], one.name
        rows = torch.tensor(one.table.rows)
        numbers = torch.tensor([float(x) for x in theirs["rows"]], dtype=torch.float64)
        torch.testing.assert_close(numbers, one.losses[rows], rtol=1e-9, atol=1e-12, msg=one.name)
        pulls = torch.tensor([float(x) for x in theirs["gradients"]], dtype=torch.float64)
        torch.testing.assert_close(pulls / len(rows), one.pulls[rows], rtol=1e-9, atol=1e-12, msg=one.name)
        places = on_curve(one.table, numbers.tolist())
        assert (places is None) == (theirs["places"] is None), one.name
        if places is not None:
            assert [float(x) for x in theirs["places"]] == pytest.approx(places, rel=1e-9, abs=1e-12), one.name
