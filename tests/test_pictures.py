"""Slides and the poster: what is drawn is computed, stays on the paper, and nothing lies on something else."""

import html
import re

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch, PathPatch
from typer.testing import CliRunner

import losskit
from losskit_guide.arrows import routes
from losskit_guide.card import catalogue
from losskit_guide.cli import app
from losskit_guide.lines import line
from losskit_guide.paper import broken, kind_of, room
from losskit_guide.poster import by_task, poster
from losskit_guide.poster_arrows import COLUMNS
from losskit_guide.references import authors, origin, year
from losskit_guide.relations import RELATIONS, bare, of
from losskit_guide.slide import slide
from losskit_guide.typeset import sentence, spelled

BEGINNINGS = {"svg": b"<svg", "pdf": b"%PDF", "png": b"\x89PNG"}
HARD = (  # long names, formulas, references, words; cases, no curve, labels
    "huber_loss:delta=2", "complete_box_iou_loss", "zero_inflated_negative_binomial_nll_loss", "dpo_loss", "ssim_loss",
    "hinge_loss", "logistic_hazard_loss", "evidential_regression_loss", "generalized_cross_entropy", "mape_loss",
    "linear_cross_entropy", "grpo_loss", "poisson_nll_loss:log_input=false",
)  # fmt: skip


def run(*words):
    return CliRunner().invoke(app, list(words))


def boxes(sheet):
    """The texts of a sheet with the rectangles that they take, in pixels of the canvas."""
    canvas = FigureCanvasAgg(sheet.figure)
    renderer = canvas.get_renderer()
    texts = [text for axes in sheet.figure.axes[:1] for text in axes.texts]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts], canvas.get_width_height()


def lie_apart(sheet):
    """Whether all texts are on the paper, and none lies on another one by more than the edges of letters."""
    found, (width, height) = boxes(sheet)
    numbers = torch.tensor([[b.x0, b.y0, b.x1, b.y1] for _, b in found])
    outside = [text for text, b in found if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]
    assert not outside
    low = torch.maximum(numbers[:, None, :2], numbers[None, :, :2])
    high = torch.minimum(numbers[:, None, 2:], numbers[None, :, 2:])
    size = (high - low).clamp(min=0.0)
    share = size.prod(-1) / (numbers[:, 2:] - numbers[:, :2]).prod(-1)[:, None]
    wrong = [(found[i][0], found[j][0]) for i, j in (share > 0.3).nonzero().tolist() if i != j]
    assert not wrong
    return found


@pytest.mark.parametrize("kind", BEGINNINGS)
def test_a_card_is_written_as_the_suffix_says(kind, tmp_path):
    out = tmp_path / f"huber.{kind}"
    done = run("card", "huber_loss:delta=2", "--out", str(out))
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"wrote {out}" in done.stderr.replace("\n", "")
    assert out.read_bytes().startswith(BEGINNINGS[kind])
    assert run("card", "huber_loss:delta=2", "--dark", "--out", str(tmp_path / f"dark.{kind}")).exit_code == 0
    assert out.read_bytes() != (tmp_path / f"dark.{kind}").read_bytes()
    again = tmp_path / f"again.{kind}"
    run("card", "huber_loss:delta=2", "--out", str(again))
    assert again.read_bytes() == out.read_bytes()


def test_letters_of_a_slide_are_as_large_as_they_were_set(tmp_path):
    """matplotlib's curves of letters are 64 times as large; fewer digits of the scale would draw them smaller."""
    run("card", "huber_loss", "--out", str(tmp_path / "huber.svg"))
    svg = (tmp_path / "huber.svg").read_text(encoding="utf-8")
    assert "<text" not in svg
    assert f"scale({1 / 64})" in svg


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["card", "huber_loss", "--out", "a.gif"], "a.gif must end in .svg, .pdf or .png"),
        (["card", "huber_loss", "--out", "a"], "a must end in .svg, .pdf or .png"),
        (["poster", "--out", "a.jpg"], "a.jpg must end in .svg, .pdf or .png"),
        (["card", "mse_loss", "--out", "/nowhere/at/all.png"], "/nowhere/at/all.png cannot be written: No such file"),
        (["card", "huber_los", "--out", "a.svg"], "there is no loss called 'huber_los'. Did you mean huber_loss?"),
        (["card", "huber_loss:dleta=2", "--out", "a.svg"], "huber_loss has no parameter 'dleta' to set here. Did you"),
        (["card", "huber_loss:delta=-2", "--out", "a.svg"], "huber_loss: delta must be positive, got -2"),
        (["card", "ssim_loss:k1=2", "--out", "a.svg"], "ssim_loss has no parameter 'k1' to set here. It has none."),
        (["card", "huber_loss"], "Missing option"),
    ],
)
def test_mistakes_are_one_sentence(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", HARD)
def test_nothing_lies_on_something_else(text):
    sheet = slide(line(text))
    found = {told for told, _ in lie_apart(sheet)}
    card = line(text).card
    assert {card.class_name, origin(card.reference), "Facts", "Best for", "Not for"} <= found


def test_curves_are_the_losss():
    _, left, right = slide(line("huber_loss:delta=2")).figure.axes
    x = torch.tensor(left.lines[0].get_xdata(), dtype=torch.float64, requires_grad=True)
    loss = losskit.functional.huber_loss(x, torch.zeros_like(x), delta=2.0, reduction="none")
    (slope,) = torch.autograd.grad(loss.sum(), x)
    assert len(x) == 800
    torch.testing.assert_close(torch.tensor(left.lines[0].get_ydata()), loss.detach())
    torch.testing.assert_close(torch.tensor(right.lines[0].get_ydata()), slope)


def test_labels_have_a_curve_each_unless_one_is_set():
    assert [len(slide(line(text)).figure.axes[1].lines) for text in ("hinge_loss", "hinge_loss:target=1")] == [2, 1]


def test_a_jump_is_a_gap_and_a_pole_does_not_press_the_rest_flat():
    xs, ys = broken([0.0, 1.0, 2.0, 3.0], [-1.0, -1.0, 1.0, 1.0])
    assert len(xs) == len(ys) == 5
    assert ys[2] != ys[2]
    smooth = [float(x * x) for x in range(20)]
    assert broken(list(range(20)), smooth)[1] == smooth
    assert room([*[x / 100 for x in range(100)], 1e9])[1] < 3.0


def test_formulas_that_mathtext_does_not_know_are_spelled_otherwise():
    assert spelled(r"\tfrac{1}{2} \, x'_2 \le \left(y\right)") == r"$\frac{1}{2} \, x^{′}_2 \leq \left(y\right)$"


def test_cases_that_would_be_too_small_are_a_sentence():
    lines = ["       ⎧ 1    if x > 0", "ℓ(x) = ⎨ 2 a  if x < 0", "       ⎩ 3    otherwise"]
    assert sentence(lines) == "ℓ(x) = 1 if x > 0; 2 a if x < 0; 3 otherwise"
    assert sentence(["ℓ = ⎧ 1   if x > 0", "    ⎩ 2   otherwise"]) == "ℓ = 1 if x > 0; 2 otherwise"


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_authors_and_year_are_those_of_the_reference(name):
    reference = catalogue()[name].reference
    people = authors(reference)
    assert people
    for person in re.split(r" and | et al\.", people):
        assert person in reference
    assert not re.search(r"[A-Z]\.|\d", people)
    assert f"({year(reference)})" in reference or name == "msle_loss"


def test_authors_are_one_two_or_more():
    assert origin("Huber, P. J. (1964). Robust.") == "Huber, 1964"
    assert origin("Newey, W. K. and Powell, J. L. (1987). X.") == "Newey and Powell, 1987"
    assert origin("van den Oord, A., Li, Y. and Vinyals, O. (2018). X.") == "van den Oord et al., 2018"
    assert origin("Cao, Z. et al. (2007). X. Others: Y, Z. (1999).") == "Cao et al., 2007"
    assert origin("scikit-learn, user guide.") == "scikit-learn"


def test_the_suffix_is_all_that_matters(tmp_path):
    assert kind_of(tmp_path / "A.SVG") == "svg"


PLACES = {card.name: divmod(number, COLUMNS) for number, card in enumerate(by_task())}


def test_every_relation_is_an_arrow_or_a_stub():
    """Of each pair of its losses; those of neighbouring rows are arrows, in the strip between them."""
    bundles, stubs = routes(PLACES)
    found = sorted(
        [(n, source, b.target, b.limit) for b in bundles for source, numbers in b.sources.items() for n in numbers]
        + [(stub.number, stub.source, stub.target, stub.limit) for stub in stubs]
    )
    wanted = [(n, r.losses[0], x, r.limit) for n, r in enumerate(RELATIONS, 1) for x in r.losses[1:]]
    assert found == sorted(wanted)
    for bundle in bundles:
        assert {PLACES[loss][0] for loss in bundle.losses} <= {bundle.strip - 1, bundle.strip}
    assert all(abs(PLACES[stub.source][0] - PLACES[stub.target][0]) > 1 for stub in stubs)
    assert len(stubs) < 12 < len(bundles)


def test_bundles_on_a_track_do_not_meet():
    bundles, _ = routes(PLACES)
    for one in bundles:
        for other in bundles:
            if one is not other and (one.strip, one.track) == (other.strip, other.track):
                ends = [sorted(PLACES[loss][1] for loss in b.losses) for b in (one, other)]
                assert ends[0][-1] < ends[1][0] or ends[1][-1] < ends[0][0]


def test_arrows_run_between_the_cells():
    """No line of one is inside of a cell or on another text, and each begins and ends at the cells of its losses."""
    sheet = poster()
    cells = [p.get_path().get_extents(p.get_transform()) for p in sheet.axes.patches if isinstance(p, FancyBboxPatch)]
    assert len(cells) == len(catalogue())
    lines = [p.get_path().transformed(p.get_transform()) for p in sheet.axes.patches if type(p) is PathPatch]
    inner = torch.tensor([[b.x0 + 1, b.y0 + 1, b.x1 - 1, b.y1 - 1] for b in cells])
    outer = inner + torch.tensor([-2.0, -2.0, 2.0, 2.0])
    texts, _ = boxes(sheet)
    letters = torch.tensor([[b.x0 + 1, b.y0 + 1, b.x1 - 1, b.y1 - 1] for _, b in texts])
    scale = FigureCanvasAgg(sheet.figure).get_width_height()[0] / sheet.figure.bbox.width

    def inside(points, rectangles):
        x, y = points[:, None, 0], points[:, None, 1]
        return (x > rectangles[:, 0]) & (x < rectangles[:, 2]) & (y > rectangles[:, 1]) & (y < rectangles[:, 3])

    assert len(lines) > 2 * 60
    for path in lines:
        corners = torch.tensor(path.interpolated(12).vertices, dtype=torch.float32)
        assert not inside(corners, inner).any()
        assert inside(corners[:1], outer).any(), "it begins at a cell"
        assert not inside(scale * corners, letters).any(), texts[
            int(inside(scale * corners, letters).any(0).nonzero()[0])
        ][0]


def test_poster():
    """Every loss and every relation is on it, apart from the others; it is small, and has no letters as curves."""
    sheet = poster()
    found = [text for text, _ in lie_apart(sheet)]
    for card in catalogue().values():
        assert found.count(card.class_name) == 1
        numbers = of(card.name)
        assert not numbers or f"⇄ {' '.join(map(str, numbers))}" in found
    for number, relation in enumerate(RELATIONS, 1):
        assert {str(number), bare(relation.left), bare(relation.right)} <= set(found)
    assert f"{len(catalogue())} losses" in found
    svg = sheet.written("svg", outlines=False, title="All")
    assert len(svg) < 600_000
    told = re.findall(r"<text[^>]*>([^<]*)</text>", svg.decode())
    assert b"font-family: 'DejaVu Sans', Verdana" in svg or b"px 'DejaVu Sans', Verdana" in svg
    assert sorted(html.unescape(text) for text in told) == sorted(found), "its texts are whole"
    assert sheet.written("svg", outlines=False, title="All") == svg
